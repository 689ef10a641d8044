"""To canonical axes and back; nibabel is the oracle."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import from_canonical, match_axes, to_canonical

ALL_ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(["RL", "AP", "SI"])
    for letters in itertools.product(*axes)
]


@pytest.mark.parametrize("code", ALL_ORIENTATIONS)
def test_every_orientation_becomes_canonical_as_nibabels_and_comes_back(code: str) -> None:
    turn = nib.orientations.axcodes2ornt(tuple(code))
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, (to, sign) in enumerate(turn):
        affine[int(to), axis] = sign * (0.5 + axis)
    affine[:3, 3] = [7.0, -8.0, 9.0]
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    volume, change = to_canonical(Volume(array, affine))
    expected = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    np.testing.assert_array_equal(volume.array, np.asarray(expected.dataobj))
    np.testing.assert_allclose(volume.affine, expected.affine)
    np.testing.assert_array_equal(from_canonical(volume.array, change), array)


def test_nothing_is_copied() -> None:
    array = np.zeros((3, 4, 5), dtype=np.int16)
    volume, change = to_canonical(Volume(array, np.diag([-1.0, -1.0, 2.0, 1.0])))
    assert np.shares_memory(volume.array, array)
    assert np.shares_memory(from_canonical(volume.array, change), array)


def test_a_tilted_scan_keeps_its_slices() -> None:
    tilt = np.radians(25.0)
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [
            [-0.5, 0, 0],
            [0, -0.5 * np.cos(tilt), 5 * np.sin(tilt)],
            [0, 0.5 * np.sin(tilt), 5 * np.cos(tilt)],
        ]
    )
    _volume, change = to_canonical(Volume(np.zeros((4, 5, 6)), affine))
    assert change.axes == (0, 1, 2)
    assert change.flipped == (True, True, False)


@pytest.mark.parametrize("code", ALL_ORIENTATIONS)
def test_a_mask_in_any_axis_order_comes_onto_the_axes_of_its_image(code: str) -> None:
    tilt = np.radians(18.0)
    affine = np.eye(4)
    affine[:3, :3] = [
        [-0.5, 0, 0],
        [0, -0.5 * np.cos(tilt), 0],
        [0, 0.5 * np.sin(tilt), 5.0],
    ]
    mask = (np.arange(5 * 6 * 7).reshape(5, 6, 7) % 3 == 0).astype(np.uint8)
    stored = nib.Nifti1Image(mask, affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(code))
    )
    other = stored.as_reoriented(turn)
    found = match_axes(Volume(np.asarray(other.dataobj), other.affine), mask.shape, affine)
    np.testing.assert_array_equal(found.array, mask)
    np.testing.assert_allclose(found.affine, affine, atol=1e-12)


def test_a_mask_in_another_place_or_of_another_size_is_refused_with_the_millimetres() -> None:
    mask = Volume(np.zeros((5, 6, 7), dtype=np.uint8), np.diag([0.5, 0.5, 5.0, 1.0]))
    moved = mask.affine.copy()
    moved[1, 3] = 1.5
    with pytest.raises(CaseError, match=r"the label lies up to 1\.5 mm off the image"):
        match_axes(mask, (5, 6, 7), moved)
    with pytest.raises(CaseError, match=r"5 x 6 x 7 voxels .* the image 5 x 6 x 8 voxels"):
        match_axes(mask, (5, 6, 8), mask.affine)
    # The same voxels read back to front are another place, not another order of axes.
    mirrored = np.diag([-0.5, 0.5, 5.0, 1.0])
    with pytest.raises(CaseError, match="off the image"):
        match_axes(mask, (5, 6, 7), mirrored)
