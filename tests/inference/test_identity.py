"""Who the patient is stands in no output of `predict`, unless it is asked for."""

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import CTImageStorage, generate_uid

from hemseg_cli.app import run
from tests.dicom_files import SIZE, head_pixels, slice_bytes
from tests.inference.small_model import make_run

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("highdicom") is None, reason="extra dicom is not installed"
    ),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # highdicom of the series' own elements
]

KEPT = {
    "PatientName": "CANARYNAME^Ünal",
    "PatientID": "CANARYID7",
    "PatientBirthDate": "19010203",
    "PatientSex": "F",
    "AccessionNumber": "CANARYACC",
    "StudyID": "CANARYSTUDY",
    "StudyDate": "19020304",
    "StudyTime": "010203",
}
# Every other element of a CT that may tell who somebody is.
OTHERS = {
    "OtherPatientIDs": "CANARYOTHER",
    "OtherPatientNames": "CANARYOTHER^NAME",
    "PatientBirthName": "CANARYBIRTH",
    "PatientMotherBirthName": "CANARYMOTHER",
    "PatientAge": "077Y",
    "PatientSize": "1.777",
    "PatientWeight": "77.7",
    "PatientAddress": "CANARYSTREET",
    "PatientTelephoneNumbers": "CANARYPHONE",
    "PatientComments": "CANARYCOMMENT",
    "EthnicGroup": "CANARYGROUP",
    "Occupation": "CANARYJOB",
    "AdditionalPatientHistory": "CANARYHISTORY",
    "ReferringPhysicianName": "CANARYDOCTOR",
    "PerformingPhysicianName": "CANARYPERFORMER",
    "NameOfPhysiciansReadingStudy": "CANARYREADER",
    "OperatorsName": "CANARYOPERATOR",
    "RequestingPhysician": "CANARYREQUEST",
    "InstitutionName": "CANARYHOSPITAL",
    "InstitutionAddress": "CANARYROAD",
    "InstitutionalDepartmentName": "CANARYDEPARTMENT",
    "StationName": "CANARYSTATION",
    "DeviceSerialNumber": "CANARYSERIAL",
    "StudyDescription": "CANARYSTUDYTEXT",
    "SeriesDescription": "CANARYSERIESTEXT",
    "ProtocolName": "CANARYPROTOCOL",
    "ImageComments": "CANARYIMAGE",
    "RequestedProcedureID": "CANARYREQID",
    "AdmissionID": "CANARYADMISSION",
    "SeriesDate": "19030405",
    "AcquisitionDate": "19040506",
    "ContentDate": "19050607",
    "InstanceCreationDate": "19060708",
    "SeriesTime": "020304",
    "AcquisitionTime": "030405",
}
PRIVATE = "CANARYPRIVATE"
DATES = [value for value in (*KEPT.values(), *OTHERS.values()) if value.startswith("19")]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, and a series `ct` of a head whose every identifying element holds a canary."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "ct")
    return tmp_path


def write_series(folder: Path, **elements: Any) -> Path:
    """Six slices with a bright box; with `elements` instead of the canaries' own."""
    folder.mkdir()
    study, series, frame = (generate_uid() for _ in range(3))
    for number in range(6):
        hu = head_pixels(number)
        hu[6:9, 6:10] = 70
        file = folder / f"{number}.dcm"
        file.write_bytes(
            slice_bytes(
                number,
                hu=hu,
                SOPInstanceUID=generate_uid(),
                SOPClassUID=CTImageStorage,
                StudyInstanceUID=study,
                SeriesInstanceUID=series,
                FrameOfReferenceUID=frame,
            )
        )
        dataset = dcmread(file)
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in ({**KEPT, **OTHERS} | elements).items():
            setattr(dataset, keyword, value)
        dataset.private_block(0x0009, "CANARYCREATOR", create=True).add_new(1, "LO", PRIVATE)
        person = Dataset()
        person.PatientID = "CANARYSEQUENCE"
        dataset.OtherPatientIDsSequence = [person]
        dataset.save_as(file)
    return folder


def _predict(*options: str) -> int:
    return run(
        [
            *("predict", "ct", "--out", "out", "--device", "cpu", "--save-probabilities"),
            *("--format", "nifti-per-class,dicom-sr,dicom-pdf", *options),
        ]
    )


def _everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, bytes]:
    """The content of every file written, and what was said, by name."""
    import gzip

    said = capsys.readouterr()
    found = {"stdout": said.out.encode(), "stderr": said.err.encode()}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            data = file.read_bytes()
            found[file.name] = gzip.decompress(data) if file.suffix == ".gz" else data
            found[f"name of {file.name}"] = file.name.encode()
    return found


def _canaries(content: dict[str, bytes]) -> set[tuple[str, str]]:
    needles = ["CANARY", "077Y", *DATES, "Ünal"]
    return {
        (name, needle)
        for name, data in content.items()
        for needle in needles
        if needle.encode() in data or needle.encode("utf-16-le") in data
    }


def test_no_canary_is_in_any_output(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _predict("--verbose") == 0
    assert run(["report", "out"]) == 0
    content = _everything(work / "out", capsys)
    assert {"ct_mask.nii.gz", "ct_mask.dcm", "ct_sr.dcm", "ct_pdf.dcm"} <= set(content)
    assert {"hemorrhage_mask.nii.gz", "ct.png", "volumes.csv", "ct.json"} <= set(content)
    assert any(name.endswith(".html") for name in content)
    assert _canaries(content) == set()
    assert b"PatientName, PatientID, PatientBirthDate" in content["stderr"]
    assert b"left empty; --keep-identity keeps them" in content["stderr"].replace(b"\n", b" ")

    for name in ("ct_mask.dcm", "ct_sr.dcm", "ct_pdf.dcm"):
        written = dcmread(work / "out" / name)
        assert [str(written[keyword].value or "") for keyword in KEPT] == [""] * len(KEPT)


def test_identity_is_kept_in_the_named_elements_alone(
    work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _predict("--keep-identity") == 0
    for name in ("ct_mask.dcm", "ct_sr.dcm", "ct_pdf.dcm"):
        written = dcmread(work / "out" / name)
        assert {keyword: str(written[keyword].value) for keyword in KEPT} == KEPT
        # The same again with these elements empty: nothing else tells of the patient.
        for keyword in KEPT:
            setattr(written, keyword, "")
        written.save_as(work / "emptied.dcm")
        assert _canaries({name: (work / "emptied.dcm").read_bytes()}) == set()

    (row,) = csv.DictReader((work / "out/volumes.csv").read_text().splitlines())
    source = dcmread(work / "ct/0.dcm")
    assert row["series_uid"] == source.SeriesInstanceUID
    assert (row["patient_id"], row["accession_number"], row["study_date"]) == (
        "CANARYID7",
        "CANARYACC",
        "19020304",
    )
    content = _everything(work / "out", capsys)
    told = {name for name, _ in _canaries(content)}
    assert told <= {"volumes.csv", "ct.json", "ct_mask.dcm", "ct_sr.dcm", "ct_pdf.dcm"}


def test_identity_kept_or_not_is_another_object_and_is_written_anew(work: Path) -> None:
    assert _predict() == 0
    without = dcmread(work / "out/ct_mask.dcm").SOPInstanceUID
    assert "patient_id" not in (work / "out/volumes.csv").read_text()
    assert _predict("--keep-identity") == 0
    kept = dcmread(work / "out/ct_mask.dcm")
    assert kept.SOPInstanceUID != without
    assert kept.PatientID == KEPT["PatientID"]
    assert _predict() == 0
    assert dcmread(work / "out/ct_mask.dcm").SOPInstanceUID == without


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", "Female"),
        ("StudyDate", "4 March 1902"),
        ("StudyTime", "noon"),
        ("PatientID", "CANARY" * 20),
        ("AccessionNumber", "1\\2"),
    ],
)
def test_value_that_the_standard_forbids_is_left_empty_with_a_warning(
    work: Path, keyword: str, value: str
) -> None:
    from pydicom import config

    mode = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.IGNORE
    config.settings.writing_validation_mode = config.IGNORE
    try:
        write_series(work / "odd", **{keyword: value})
    finally:
        config.settings.reading_validation_mode = mode
        config.settings.writing_validation_mode = None
    answer = run(
        ["predict", "odd", "--out", "odd-out", "--format", "dicom-sr,dicom-pdf", "--keep-identity"]
    )
    assert answer == 0
    for name in ("odd_mask.dcm", "odd_sr.dcm", "odd_pdf.dcm"):
        written = dcmread(work / "odd-out" / name)
        assert not written[keyword].value
        assert written.PatientName == KEPT["PatientName"]
    record = json.loads((work / "odd-out/.cases/odd.json").read_text())
    assert any(keyword in warning for warning in record["warnings"])


def test_image_file_has_no_dicom_output(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nibabel as nib

    volume = np.full((SIZE, SIZE, 6), 30, dtype=np.int16)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), work / "scan.nii.gz")
    assert run(["predict", "scan.nii.gz", "--format", "dicom-pdf", "--out", "none"]) == 1
    assert "no DICOM series" in capsys.readouterr().err
