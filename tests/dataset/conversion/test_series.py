"""Series layout: any tree in, one NIfTI per series out.

Nothing of a header's names, dates or places anywhere.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.config import Config, load
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.dataset.conversion.convert import convert
from hemseg_cli.imaging.nifti import read_volume
from hemseg_cli.imaging.sidecar import read_sidecar
from tests.dicom_files import head, head_pixels, slice_bytes, slice_id

CANARIES = {
    "PatientName": "Zzyzx^Qanary",
    "PatientBirthDate": "19310713",
    "InstitutionName": "Qwxhospital",
    "InstitutionAddress": "Qwxstreet 7",
    "ReferringPhysicianName": "Qwxdoctor^Ann",
    "OtherPatientNames": "Qwxother^Name",
    "OperatorsName": "Qwxoperator",
    "StationName": "Qwxstation",
    "StudyDescription": "Qwxstudy",
    "SeriesDescription": "Qwxseries",
    "ProtocolName": "Qwxprotocol",
    "PatientAddress": "Qwxaddress",
    "PatientComments": "Qwxcomment",
    "ImageComments": "Qwximage",
}
ACCESSION = {"PatientID": "MRN-Qwx-0815", "AccessionNumber": "ACC-Qwx-4711"}


def lay(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / f"{name}.dcm").write_bytes(data)


def settings(tmp_path: Path, **more: Any) -> Config:
    options = {
        "convert.layout": "series",
        "convert.dicom": str(tmp_path / "in"),
        "convert.out": str(tmp_path / "out"),
        "compute.workers": 0,
    }
    return load(
        None, options=options | {f"convert.{key}": value for key, value in more.items()}, environ={}
    )


def test_good_series_are_converted_and_a_bad_one_is_named(tmp_path: Path) -> None:
    lay(tmp_path / "in" / "a", head(6, SeriesNumber="1"))
    lay(
        tmp_path / "in" / "b",
        head(6, {4: {"RescaleIntercept": None}}, SeriesInstanceUID="1.2.3", SeriesNumber="2"),
    )
    lay(
        tmp_path / "in" / "c",
        {"scout": slice_bytes(0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])},
    )
    result = convert(settings(tmp_path))
    assert result.converted == 1
    (row,) = [row for row in result.rows if not row.ok]
    assert row.scan.startswith("series-002-")
    assert f"no rescale intercept: b/{slice_id(4)}.dcm" in row.reason
    assert result.left_out == (("c/scout.dcm", "a localizer"),)
    (image,) = (tmp_path / "out").glob("*.nii.gz")
    assert image.name.startswith("series-001-")
    np.testing.assert_array_equal(read_volume(image).array[:, :, 5].T, head_pixels(5))
    with (tmp_path / "out" / "conversion.csv").open(newline="") as file:
        assert {line["scan"]: line["status"] for line in csv.DictReader(file)} == {
            image.name[:-7]: "converted",
            row.scan: "refused",
        }
    again = convert(settings(tmp_path))
    assert (again.converted, again.done_before, len(again.failures)) == (0, 1, 1)


def test_a_series_that_gained_slices_is_converted_anew(tmp_path: Path) -> None:
    files = head(6)
    last = slice_id(5)
    lay(tmp_path / "in", {name: data for name, data in files.items() if name != last})
    convert(settings(tmp_path))
    lay(tmp_path / "in", {last: files[last]})
    assert convert(settings(tmp_path)).converted == 1
    (image,) = (tmp_path / "out").glob("*.nii.gz")
    assert read_volume(image).array.shape == (16, 16, 6)


def test_dry_run_counts_series_and_bytes(tmp_path: Path) -> None:
    files = head(6)
    lay(tmp_path / "in", files)
    payload = convert(settings(tmp_path), dry_run=True).payload()
    assert (payload["scans"], payload["slices"], payload["slices_missing"]) == (1, 6, 0)
    assert payload["bytes_to_move"] == sum(map(len, files.values()))
    assert not (tmp_path / "out").exists()


def test_nothing_to_convert_and_misplaced_options_are_said(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(HemsegError, match=r"holds no CT series \(no files\)"):
        convert(settings(tmp_path))
    with pytest.raises(UsageError, match="layout series has none"):
        convert(settings(tmp_path), scans=["0000000001"])
    with pytest.raises(UsageError, match="no DICOM folder given"):
        convert(load(None, options={"convert.layout": "series"}, environ={}))


def run_cli(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "hemseg_cli",
        "convert",
        "--layout",
        "series",
        "--dicom",
        "in",
        "--out",
        "out",
        "--workers",
        "0",
        *more,
    ]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_no_name_date_or_institution_leaves_the_headers(tmp_path: Path) -> None:
    private = CANARIES | ACCESSION
    lay(tmp_path / "in" / "good", head(5, **private))
    bad = head(
        5,
        {1: {"PixelSpacing": None}, 2: {"ImagePositionPatient": ["0", "0", "1e9"]}},
        **private,
        SeriesInstanceUID="1.2.9",
    )
    lay(tmp_path / "in" / "bad", bad)
    lay(tmp_path / "in" / "other", {"mr": slice_bytes(0, **private, Modality="MR")})
    cut = slice_bytes(0, **private)
    lay(tmp_path / "in" / "cut", {"cut": cut[: cut.index(b"Qwxhospital") + 4]})
    run = run_cli(tmp_path, "--verbose")
    assert run.returncode == 1
    as_json = run_cli(tmp_path, "--json", "--force")
    assert json.loads(as_json.stdout)["converted"] == 1
    written = b"".join(
        path.name.encode() + path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    )
    (image,) = (tmp_path / "out").glob("*.nii.gz")
    header = image.read_bytes()
    everything = (
        run.stdout
        + run.stderr
        + as_json.stdout
        + as_json.stderr
        + (written + header).decode("latin-1")
    )
    assert "series-" in everything
    for value in private.values():
        for part in value.replace("^", " ").split():
            if len(part) > 3:
                assert part not in everything, part
    sidecar = read_sidecar(image)
    assert sidecar is not None
    assert sidecar.patient == ""


def test_command_names_each_failure_and_exits_1(tmp_path: Path) -> None:
    lay(tmp_path / "in", head(5, {2: {"PixelSpacing": None}}))
    run = run_cli(tmp_path)
    assert run.returncode == 1
    assert f"no spacing (PixelSpacing): {slice_id(2)}.dcm" in run.stderr
    assert "Traceback" not in run.stderr
    assert "refused" in run.stdout


def test_command_refuses_unknown_choices(tmp_path: Path) -> None:
    run = run_cli(tmp_path, "--uneven", "maybe")
    assert run.returncode == 2
    assert "convert.uneven" in run.stderr
