"""Every way in which slices can fail to make one scan: refused, with the slices named."""

import math
import re
from typing import Any

import numpy as np
import pytest

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.dicom.series import assemble, read_slices
from hemseg_cli.imaging.dicom.slice import Slice
from tests.dicom_files import STEP_MM, head, head_pixels, slice_bytes, slice_id


def slices_of(files: dict[str, bytes]) -> list[Slice]:
    return read_slices("scan 7", files, files.__getitem__)


def refusal(files: dict[str, bytes], **options: Any) -> str:
    with pytest.raises(CaseError) as caught:
        assemble("scan 7", slices_of(files), **options)
    assert caught.value.message.startswith("scan 7: ")
    return str(caught.value)


def at(z: float) -> tuple[float, float, float]:
    return (-40.0, -30.0, z)


def test_slices_are_ordered_by_place_whatever_their_names() -> None:
    volume, sidecar = assemble("s", slices_of(head(6)))
    assert sidecar.source_slices == tuple(slice_id(n) for n in range(6))
    assert list(sidecar.source_slices) != sorted(sidecar.source_slices)
    np.testing.assert_array_equal(volume.array[:, :, 3].T, head_pixels(3))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"ImageOrientationPatient": ["1", "0", "0", "0", "0.9", "-0.435889894"]}, "orientation"),
        ({"PixelSpacing": ["0.4", "0.5"]}, "pixel spacing"),
        ({"hu": head_pixels(2, size=12)}, "image size"),
        ({"RescaleSlope": "2"}, "rescale slope"),
    ],
)
def test_a_slice_unlike_the_others_is_named(changed: dict[str, Any], words: str) -> None:
    message = refusal(head(6, {2: changed}))
    assert words in message
    assert "differs from the others'" in message
    assert slice_id(2) in message
    assert slice_id(3) not in message


def test_a_missing_slice_is_named_by_its_neighbours() -> None:
    files = head(8)
    del files[slice_id(4)]
    message = refusal(files)
    assert f"1 missing (step {2 * STEP_MM:.2f} mm, the others {STEP_MM:.2f} mm)" in message
    assert f"{slice_id(3)} and {slice_id(5)}" in message


def test_a_missing_slice_is_not_interpolated_away() -> None:
    files = head(8)
    del files[slice_id(4)]
    assert "1 missing" in refusal(files, uneven="resample")


def test_two_different_slices_at_one_position_are_named() -> None:
    files = head(5) | {slice_id(9): slice_bytes(9, position=at(10 + 2 * STEP_MM))}
    message = refusal(files)
    assert "two different slices at one position" in message
    assert slice_id(2) in message
    assert slice_id(9) in message


def test_a_copy_of_a_slice_is_dropped_with_a_warning() -> None:
    files = head(5) | {
        slice_id(9): slice_bytes(9, hu=head_pixels(2), position=at(10 + 2 * STEP_MM))
    }
    volume, sidecar = assemble("s", slices_of(files))
    assert volume.array.shape[2] == 5
    (warning,) = sidecar.warnings
    assert "copies of a slice dropped" in warning
    assert slice_id(2) in warning
    assert slice_id(9) in warning


def test_uneven_steps_are_refused_and_the_way_out_is_named() -> None:
    message = refusal(head(6, {5: {"position": at(10 + 5 * STEP_MM + 2.2)}}))
    assert "uneven slice steps: 7.20 mm where the others have 5.00 mm" in message
    assert slice_id(4) in message
    assert "convert.uneven=resample" in message


def test_uneven_steps_are_interpolated_to_even_ones() -> None:
    # HU grow with z, so that linear interpolation is exact.
    places = [0.0, 5.0, 10.0, 12.5, 17.5, 20.0]
    files = {
        slice_id(n): slice_bytes(
            n, hu=np.full((8, 8), round(4 * z), dtype=np.int16), position=at(z)
        )
        for n, z in enumerate(places)
    }
    volume, sidecar = assemble("s", slices_of(files), uneven="resample")
    assert volume.array.shape == (8, 8, 5)
    np.testing.assert_array_equal(volume.array[0, 0], [0, 20, 40, 60, 80])
    assert sidecar.slice_distance_mm == 5.0
    assert any("6 slices interpolated to 5" in warning for warning in sidecar.warnings)


def test_a_step_off_by_rounding_is_even() -> None:
    _volume, sidecar = assemble(
        "s", slices_of(head(6, {3: {"position": at(10 + 3 * STEP_MM + 0.04)}}))
    )
    assert sidecar.warnings == ()


def test_slices_that_wander_sideways_are_refused() -> None:
    message = refusal(
        head(6, {3: {"position": (-37.0, -30.0, 10 + 3 * STEP_MM)}}), uneven="resample"
    )
    assert "do not lie on one line" in message
    assert slice_id(3) in message


def test_a_single_slice_is_no_volume() -> None:
    assert "a single slice has no slice distance" in refusal(head(1))


def test_several_faults_are_told_at_once() -> None:
    message = refusal(head(8, {1: {"PixelSpacing": ["0.4", "0.5"]}, 6: {"RescaleSlope": "2"}}))
    assert "pixel spacing" in message
    assert "rescale slope" in message
    assert slice_id(1) in message
    assert slice_id(6) in message


@pytest.mark.parametrize("tilt", [0.0, 22.0, -22.0, 30.0])
def test_sheared_voxels_keep_their_true_volume(tilt: float) -> None:
    volume, sidecar = assemble("s", slices_of(head(6, tilt_deg=tilt)))
    assert sidecar.voxel_volume_mm3 == pytest.approx(0.5 * 0.5 * STEP_MM, rel=1e-6)
    assert sidecar.slice_distance_mm == pytest.approx(STEP_MM, rel=1e-6)
    assert np.linalg.norm(volume.affine[:3, 2]) == pytest.approx(
        STEP_MM / math.cos(math.radians(tilt)), rel=1e-6
    )
    assert abs(sidecar.tilt_deg) == pytest.approx(abs(tilt), abs=1e-3)


@pytest.mark.parametrize("step_mm", [2000.0, 150.0])
def test_slices_metres_apart_are_refused_before_anything_is_made(step_mm: float) -> None:
    files = head(5, {k: {"position": at(step_mm * k)} for k in range(5)})
    assert f"slices lie {step_mm:.0f} mm apart" in refusal(files, uneven="resample")


def test_one_slice_far_from_the_others_is_named() -> None:
    files = head(6, {5: {"position": at(5000.0)}})
    message = refusal(files, uneven="resample")
    assert "slices lie 4970 mm apart" in message
    assert slice_id(5) in message


def test_slices_closer_than_any_scanners_are_refused() -> None:
    files = head(6, {k: {"position": at(0.03 * k)} for k in range(6)})
    assert "0.03 mm apart, closer than any scanner's" in refusal(files, uneven="resample")


@pytest.mark.parametrize("tilt", [89.9, 75.0])
@pytest.mark.parametrize("step_mm", [3.0, 5.0])
def test_a_tilt_that_no_gantry_has_is_refused_in_words(tilt: float, step_mm: float) -> None:
    files = head(6, {k: {"position": at(step_mm * k)} for k in range(6)}, tilt_deg=tilt)
    message = refusal(files, uneven="resample")
    assert re.search(r"degrees off their normal|closer than any|at one position", message)


def test_a_protocol_of_two_step_lengths_has_no_slice_missing() -> None:
    places = [0, 5, 10, 15, 20, 30, 40, 50, 60]
    files = head(9, {k: {"position": at(float(z))} for k, z in enumerate(places)})
    assert "uneven slice steps" in refusal(files)
    volume, sidecar = assemble("s", slices_of(files), uneven="resample")
    assert sidecar.interpolated
    assert volume.array.shape[2] in (7, 13)


def test_a_fault_of_rounding_at_the_far_corner_is_none_and_half_a_pixel_is_one() -> None:
    # 16 pixels of 0.5 mm: 0.02 mm a pixel are 0.3 mm at the far corner.
    near = head(6, {2: {"PixelSpacing": ["0.5003", "0.5"]}})
    assert assemble("s", slices_of(near))[0].array.shape[2] == 6
    assert "pixel spacing" in refusal(head(6, {2: {"PixelSpacing": ["0.52", "0.5"]}}))
