"""The slice-wise network against MONAI's 2-D network on slices stacked by hand."""

import numpy as np
import pytest
import torch

from hemseg_cli.core.errors import UsageError
from hemseg_cli.models.registry import build_network
from hemseg_cli.models.slicewise import SlicewiseNetwork, segresnet_2d

SMALL = {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}


@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_each_slice_is_what_the_2d_network_says_of_it_and_its_neighbours(neighbours: int) -> None:
    torch.manual_seed(0)
    network = segresnet_2d(in_channels=2, out_channels=3, neighbours=neighbours, **SMALL).eval()  # type: ignore[arg-type]  # a table
    image = torch.randn(2, 2, 8, 12, 5)
    with torch.inference_mode():
        logits = network(image)
        for k in range(5):
            around = np.clip(np.arange(k - neighbours, k + neighbours + 1), 0, 4)
            by_hand = torch.cat([image[..., int(one)] for one in around], dim=1)
            torch.testing.assert_close(logits[..., k], network.network(by_hand))
    assert logits.shape == (2, 3, 8, 12, 5)


def test_slices_beyond_the_neighbours_change_nothing() -> None:
    torch.manual_seed(0)
    network = segresnet_2d(in_channels=1, neighbours=1, **SMALL).eval()  # type: ignore[arg-type]  # a table
    image = torch.randn(1, 1, 8, 8, 6)
    other = image.clone()
    other[..., 5] += 3
    with torch.inference_mode():
        before, after = network(image), network(other)
    assert torch.equal(before[..., :4], after[..., :4])
    assert not torch.equal(before[..., 4], after[..., 4])


def test_a_patch_may_have_one_slice() -> None:
    network = build_network("segresnet-2d", SMALL, 1)
    assert isinstance(network, SlicewiseNetwork)
    assert network(torch.randn(1, 1, 16, 8, 1)).shape == (1, 1, 16, 8, 1)


def test_negative_neighbours_are_refused() -> None:
    with pytest.raises(UsageError, match="neighbours = -1: 0 or more slices"):
        build_network("segresnet-2d", {"neighbours": -1}, 1)
