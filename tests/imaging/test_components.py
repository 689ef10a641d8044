"""Connected components against scipy.ndimage.label."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from hemseg_cli.imaging.components import label_components


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.bool_,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
        elements=st.sampled_from([False, False, True]),
    )
)
def test_same_labels_as_scipy(mask: NDArray[np.bool_]) -> None:
    expected, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    labels, found = label_components(mask)
    assert found == count
    assert np.array_equal(labels, expected)
    assert labels.dtype == np.int32


def test_opposite_edges_of_the_scan_do_not_touch() -> None:
    mask = np.zeros((4, 5, 6), dtype=np.uint8)
    mask[0, 0, 5] = mask[0, 1, 0] = mask[0, 4, 3] = mask[1, 0, 3] = 1
    assert label_components(mask)[1] == 4


@pytest.mark.parametrize("fill", [0, 1])
def test_empty_and_full(fill: int) -> None:
    labels, count = label_components(np.full((3, 4, 5), fill))
    assert count == fill
    assert (labels == fill).all()


def test_memory_order_makes_no_difference() -> None:
    mask = np.random.default_rng(0).random((9, 8, 7)) < 0.1
    assert np.array_equal(label_components(np.asfortranarray(mask))[0], label_components(mask)[0])
