from itertools import product

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from hemseg_cli.inference.sliding_window import (
    ForwardOptions,
    WindowBox,
    run_windows,
    sliding_window,
)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1),
        nn.InstanceNorm3d(4),
        nn.ReLU(),
        nn.Conv3d(4, 1, 3, padding=1),
    ).eval()


def _image(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "overlap", "weighting", "batch"),
    [
        *(
            (shape, 0.25, weighting, 1)
            for shape, weighting in product(
                [(21, 18, 11), (8, 8, 4), (7, 20, 3)], ["gaussian", "constant"]
            )
        ),
        ((21, 18, 11), 0.5, "gaussian", 3),
        ((21, 18, 11), 0.0, "constant", 4),
    ],
)
def test_equals_monai_voxel_by_voxel(
    network: nn.Module, shape: tuple[int, ...], overlap: float, weighting: str, batch: int
) -> None:
    image = _image(*shape)
    with torch.inference_mode():
        reference = torch.sigmoid(
            sliding_window_inference(
                image[None], (8, 8, 4), batch, network, overlap=overlap, mode=weighting
            )
        )[0, 0]
    ours = sliding_window(
        network, image, patch=(8, 8, 4), overlap=overlap, weighting=weighting, batch=batch
    )  # type: ignore[arg-type]  # parametrized
    torch.testing.assert_close(ours, reference, rtol=0, atol=2e-6)


def test_padding_is_monais_with_the_same_value(network: nn.Module) -> None:
    image = _image(5, 6, 3)
    with torch.inference_mode():
        reference = torch.sigmoid(
            sliding_window_inference(image[None], (8, 8, 4), 1, network, cval=-1.5)
        )[0, 0]
    torch.testing.assert_close(
        sliding_window(network, image, patch=(8, 8, 4), pad_value=-1.5),
        reference,
        rtol=0,
        atol=2e-6,
    )


@pytest.mark.parametrize("mirrored", [(0,), (0, 2), (0, 1, 2)])
def test_mirrored_copies_are_averaged_along_the_axes_named(
    network: nn.Module, mirrored: tuple[int, ...]
) -> None:
    image, calls = _image(8, 8, 4), []

    def counting(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return network(x)  # type: ignore[no-any-return]  # torch's modules are untyped

    with torch.inference_mode():
        answers = [
            network(image[None].flip(axes)).flip(axes)[0, 0]
            for n in range(2 ** len(mirrored))
            for axes in [[axis + 2 for place, axis in enumerate(mirrored) if n >> place & 1]]
        ]
    expected = torch.sigmoid(torch.stack(answers).mean(dim=0))
    found = sliding_window(counting, image, patch=(8, 8, 4), mirror_axes=mirrored)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert len(calls) == 2 ** len(mirrored)


def test_windows_without_anything_to_see_are_not_computed(network: nn.Module) -> None:
    image, seen = _image(24, 8, 4), torch.zeros((24, 8, 4), dtype=torch.bool)
    seen[3, 3, 1] = True
    calls: list[int] = []

    def counting(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return network(x)  # type: ignore[no-any-return]  # torch's modules are untyped

    probability = sliding_window(counting, image, patch=(8, 8, 4), overlap=0.0, occupied=seen)
    assert calls == [1]
    assert (probability[:8] > 0).all()
    assert (probability[8:] == 0).all()


def test_windows_of_different_sizes_share_a_voxel_by_weight() -> None:
    image = torch.zeros((1, 8, 4, 4))
    answers = iter([torch.full((1, 1, 8, 4, 4), 1.0), torch.full((1, 1, 4, 4, 4), 3.0)])
    windows = [WindowBox((0, 0, 0), (8, 4, 4)), WindowBox((6, 0, 0), (4, 4, 4))]
    probability = run_windows(
        lambda _: next(answers),
        image,
        windows,
        options=ForwardOptions(torch.device("cpu")),
        weighting="constant",
    )
    torch.testing.assert_close(probability[0, 0, 0], torch.sigmoid(torch.tensor(1.0)))
    torch.testing.assert_close(probability[7, 0, 0], torch.sigmoid(torch.tensor(2.0)))
