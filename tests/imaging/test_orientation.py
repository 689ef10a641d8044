"""To canonical axes and back; nibabel is the oracle."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import from_canonical, to_canonical

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
