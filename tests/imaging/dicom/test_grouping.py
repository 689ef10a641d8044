"""Series and scans: what is two is never made one, and what is one is not taken apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.dicom.grouping import LOCALIZER_REASON
from hemseg_cli.imaging.dicom.tree import Listing, Tree, find_series
from tests.dicom_files import STEP_MM, head_pixels, slice_bytes
from tests.dicom_series import read_series_folder

COMMON: dict[str, Any] = {
    "SeriesInstanceUID": "1.2.3",
    "StudyInstanceUID": "1.2",
    "PatientID": "A",
    "AcquisitionNumber": "1",
}


def lay(
    folder: Path,
    count: int,
    *,
    first_mm: float = 0.0,
    start: int = 0,
    each: Callable[[int], dict[str, Any]] = lambda k: {},
    **elements: Any,
) -> None:
    """Write slices at even steps from `first_mm` on."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        values = COMMON | elements | each(k)
        position = values.pop("position", (-4.0, -4.0, first_mm + STEP_MM * k))
        data = slice_bytes(start + k, position=position, **values)
        (folder / f"{len(list(folder.iterdir())):03d}.dcm").write_bytes(data)


def found(folder: Path) -> Listing:
    with Tree(folder) as tree:
        return find_series(tree)


def counts(folder: Path) -> list[int]:
    listing = found(folder)
    names = [one.name for one in listing.series]
    assert len(set(names)) == len(names)
    return sorted(len(one.files) for one in listing.series)


@pytest.mark.parametrize("shift_mm", [0.0, STEP_MM / 2, STEP_MM * 6])
@pytest.mark.parametrize(
    "element",
    [{"PatientID": "B"}, {"StudyInstanceUID": "1.9"}, {"SeriesInstanceUID": "1.2.4"}],
    ids=["patient", "study", "series"],
)
def test_patients_studies_and_series_are_never_one_scan(
    tmp_path: Path, element: dict[str, Any], shift_mm: float
) -> None:
    lay(tmp_path / "a", 6)
    lay(tmp_path / "b", 5, first_mm=shift_mm, start=10, **element)
    assert counts(tmp_path) == [5, 6]


@pytest.mark.parametrize(
    "element",
    [
        {"AcquisitionNumber": "2"},
        {"ConvolutionKernel": "BONE"},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
        {"TemporalPositionIdentifier": "2"},
    ],
    ids=lambda element: next(iter(element)),
)
@pytest.mark.parametrize("shift_mm", [0.0, STEP_MM / 2, 2 * STEP_MM])
def test_two_passes_over_one_place_are_two_scans(
    tmp_path: Path, element: dict[str, Any], shift_mm: float
) -> None:
    lay(tmp_path, 6)
    lay(tmp_path, 6, first_mm=shift_mm, start=10, **element)
    assert counts(tmp_path) == [6, 6]


def test_rotations_counted_as_acquisitions_are_one_scan(tmp_path: Path) -> None:
    lay(tmp_path, 12, each=lambda k: {"AcquisitionNumber": str(k // 4 + 1)})
    assert counts(tmp_path) == [12]


def test_slices_counted_each_as_an_acquisition_are_one_scan(tmp_path: Path) -> None:
    lay(tmp_path, 8, each=lambda k: {"AcquisitionNumber": str(k + 1)})
    assert counts(tmp_path) == [8]


def test_two_kernels_of_two_acquisitions_are_four_scans(tmp_path: Path) -> None:
    for start, values in enumerate(
        {"AcquisitionNumber": number, "ConvolutionKernel": kernel}
        for number in "12"
        for kernel in ("H30s", "H60s")
    ):
        lay(tmp_path, 4, start=10 * start, **values)
    assert counts(tmp_path) == [4, 4, 4, 4]


def test_other_matrix_or_pixel_spacing_is_another_scan(tmp_path: Path) -> None:
    lay(tmp_path, 5)
    lay(tmp_path, 4, first_mm=1.0, start=10, PixelSpacing=["0.25", "0.25"])
    assert counts(tmp_path) == [4, 5]


def test_spacing_and_direction_that_differ_by_rounding_are_one_scan(tmp_path: Path) -> None:
    lay(
        tmp_path,
        6,
        each=lambda k: {
            "PixelSpacing": [f"{0.5 + 0.0004 * (k % 2):.6f}", "0.5"],
            "ImageOrientationPatient": ["1", f"{0.0002 * (k % 2):.4f}", "0", "0", "1", "0"],
        },
    )
    assert counts(tmp_path) == [6]
    (_name, volume, _sidecar) = read_series_folder(tmp_path)[0]
    assert volume.array.shape[2] == 6


@pytest.mark.parametrize(
    "cosines", [["0", "1", "0", "0", "0", "-1"], ["1", "0", "0", "0", "0", "-1"]]
)
def test_a_scout_without_its_tag_is_left_out_by_how_it_lies(
    tmp_path: Path, cosines: list[str]
) -> None:
    lay(tmp_path, 6)
    lay(tmp_path, 1, start=20, ImageOrientationPatient=cosines)
    listing = found(tmp_path)
    assert [len(one.files) for one in listing.series] == [6]
    assert dict(listing.left_out) == {"006.dcm": LOCALIZER_REASON}
    np.testing.assert_array_equal(
        read_series_folder(tmp_path)[0][1].array[:, :, 3].T, head_pixels(3)
    )


def test_two_parts_of_a_protocol_with_other_tilts_are_two_scans(tmp_path: Path) -> None:
    lay(tmp_path, 5)
    tilted = ["1", "0", "0", "0", "0.9397", "-0.3420"]
    lay(tmp_path, 4, first_mm=60.0, start=10, ImageOrientationPatient=tilted)
    assert counts(tmp_path) == [4, 5]


def test_a_slice_without_place_stays_and_is_named(tmp_path: Path) -> None:
    lay(tmp_path, 6, each=lambda k: {"ImagePositionPatient": None} if k == 2 else {})
    assert counts(tmp_path) == [6]
    with pytest.raises(CaseError, match=r"no position.*002\.dcm"):
        read_series_folder(tmp_path)


@pytest.mark.parametrize("shift_mm", [0.4, 1.0, 1.9])
def test_two_scans_that_nothing_tells_apart_are_refused_with_their_steps(
    tmp_path: Path, shift_mm: float
) -> None:
    lay(tmp_path, 6)
    lay(tmp_path, 6, first_mm=shift_mm, start=10)
    with pytest.raises(CaseError) as caught:
        read_series_folder(tmp_path, uneven="resample")
    assert "two scans that lie over each other" in caught.value.message
    assert f"{shift_mm:.2f} mm" in caught.value.message
    assert caught.value.hint


def test_slices_that_all_lack_their_place_are_one_scan_that_is_refused_once(tmp_path: Path) -> None:
    lay(tmp_path / "a", 6, ImagePositionPatient=None)
    with Tree(tmp_path / "a") as tree:
        listing = find_series(tree)
    (series,) = listing.series
    assert len(series.files) == 6
    with pytest.raises(CaseError, match=r"no position \(ImagePositionPatient\): 000.dcm") as error:
        read_series_folder(tmp_path / "a")
    assert error.value.hint


def test_names_do_not_change_when_another_scan_is_added(tmp_path: Path) -> None:
    lay(tmp_path / "a", 4)
    lay(tmp_path / "b", 4, start=10, PatientID="B")
    before = {one.files[0]: one.name for one in found(tmp_path).series}
    lay(tmp_path / "c", 4, start=20, PatientID="C")
    after = {one.files[0]: one.name for one in found(tmp_path).series}
    assert before.items() <= after.items()
