"""Enhanced multi-frame CT, as highdicom writes it, read as the single slices that it is made of."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.series import assemble, read_slices
from hemseg_cli.imaging.dicom.slice import read_frames, read_slice
from tests.dicom_files import head, slice_bytes
from tests.dicom_series import read_series_folder

highdicom = pytest.importorskip("highdicom", reason="extra dicom is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

WHOLE: dict[str, Any] = {
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
    "StudyInstanceUID": "1.2.1",
    "SeriesInstanceUID": "1.2.2",
    "FrameOfReferenceUID": "1.2.3",
    "PatientName": "X",
    "PatientBirthDate": "",
    "PatientSex": "O",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "Manufacturer": "TEST",
    "SliceThickness": "5",
    "PositionReferenceIndicator": "",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    "WindowCenter": "40",
    "WindowWidth": "80",
} | {
    f"{what}{part}": value
    for what in ("Study", "Series", "Acquisition", "Content")
    for part, value in (("Date", "20200101"), ("Time", "000000"))
}


def singles(tilt: float = 0.0) -> dict[str, bytes]:
    return head(
        6,
        {k: {"SOPInstanceUID": f"1.2.4.{k}", "InstanceNumber": str(k + 1)} for k in range(6)},
        tilt_deg=tilt,
        **WHOLE,
    )


def enhanced(files: dict[str, bytes]) -> Any:
    return highdicom.legacy.LegacyConvertedEnhancedCTImage(
        [dcmread(io.BytesIO(data)) for data in files.values()],
        series_instance_uid="1.2.5",
        series_number=9,
        sop_instance_uid="1.2.6",
        instance_number=1,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def as_bytes(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("tilt", [0.0, 17.0])
@pytest.mark.parametrize("packed", [False, True])
def test_frames_are_the_slices_they_were_made_of(tmp_path: Path, tilt: float, packed: bool) -> None:
    files = singles(tilt)
    expected, told = assemble("s", read_slices("s", files, files.__getitem__))
    dataset = enhanced(files)
    if packed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    (tmp_path / "mf.dcm").write_bytes(as_bytes(dataset))

    ((_name, volume, sidecar),) = read_series_folder(tmp_path)
    np.testing.assert_array_equal(volume.array, expected.array)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    assert sidecar.tilt_deg == pytest.approx(told.tilt_deg, abs=1e-3)
    assert sorted(sidecar.source_slices) == [f"mf.dcm#{number}" for number in range(1, 7)]


def test_frames_that_do_not_say_where_they_lie_are_refused_with_a_way_out() -> None:
    dataset = enhanced(singles())
    del dataset.PerFrameFunctionalGroupsSequence
    with (
        quiet_pydicom(),
        pytest.raises(FileFormatError, match="6 frames that does not say") as caught,
    ):
        read_frames(as_bytes(dataset), "x")
    assert "single slices" in caught.value.hint


@pytest.mark.parametrize("count", ["5", "7", "100000", "x"])
def test_a_wrong_number_of_frames_is_refused(count: str) -> None:
    data = as_bytes(enhanced(singles())).replace(
        b"\x28\x00\x08\x00IS\x02\x006 ", b"\x28\x00\x08\x00IS\x02\x00" + count[:2].ljust(2).encode()
    )
    with quiet_pydicom(), pytest.raises(FileFormatError):
        read_frames(data, "x")


def test_a_frame_without_its_place_is_refused() -> None:
    dataset = enhanced(singles())
    del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    with quiet_pydicom(), pytest.raises(FileFormatError, match="no ImagePositionPatient"):
        read_frames(as_bytes(dataset), "x")


def test_one_slice_is_asked_for_and_several_found() -> None:
    with quiet_pydicom(), pytest.raises(FileFormatError, match="multi-frame object"):
        read_slice(as_bytes(enhanced(singles())), "x")
    with quiet_pydicom():
        assert len(read_frames(slice_bytes(0), "x")) == 1
