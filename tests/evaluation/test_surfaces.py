"""Foreground, surface and distances against scipy and brute force."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.distance import cdist

from hemseg_cli.evaluation.surfaces import foreground, mask_pair, surface_distances_mm, surfaces

Mask = NDArray[Any]
masks = hnp.arrays(
    st.sampled_from([np.bool_, np.uint8, np.int16, np.int64, np.float32]),
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
    elements=st.sampled_from([0, 0, 1]),
)


@settings(max_examples=80, deadline=None)
@given(masks)
def test_foreground_and_surface_are_scipys(mask: Mask) -> None:
    found = foreground(mask)
    assert np.array_equal(found.flat, np.flatnonzero(mask))
    eroded = ndimage.binary_erosion(mask != 0)
    assert np.array_equal(found.surface(), np.flatnonzero((mask != 0) & ~eroded))


def test_negative_zero_is_background() -> None:
    mask = np.zeros((3, 3, 3), dtype=np.float32)
    mask[1, 1, 1] = -0.0
    assert foreground(mask).count == 0


def scattered(seed: int, low: int, high: int) -> NDArray[np.uint8]:
    mask = np.zeros((60, 60, 30), dtype=np.uint8)
    where = np.random.default_rng(seed).integers(low, high, size=(700, 3))
    mask[where[:, 0], where[:, 1], where[:, 2] % 30] = 1
    return mask


@pytest.mark.parametrize("tolerance_mm", [None, 2.0, 25.0])
@pytest.mark.parametrize("place", [(0, 22), (38, 60)], ids=["overlapping", "far apart"])
def test_bounded_distances_keep_percentile_and_count(
    place: tuple[int, int], tolerance_mm: float | None
) -> None:
    spacing = np.array([0.5, 0.8, 3.0])
    pair = mask_pair(scattered(1, *place), scattered(2, 0, 20), spacing.tolist())
    found = surface_distances_mm(surfaces(pair), percentile=95, tolerance_mm=tolerance_mm)
    a, b = (
        np.stack(np.unravel_index(mask.surface(), mask.shape), axis=1) * spacing
        for mask in (pair.prediction, pair.truth)
    )
    brute = cdist(a, b)
    for ours, exact in zip(found, (brute.min(axis=1), brute.min(axis=0)), strict=True):
        assert np.percentile(ours, 95) == pytest.approx(np.percentile(exact, 95))
        if tolerance_mm is not None:
            assert (ours <= tolerance_mm).sum() == (exact <= tolerance_mm).sum()
