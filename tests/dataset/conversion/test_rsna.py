"""RSNA layout: images on their labels' grids, bad scans named, killed calls finished."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.config import Config, load
from hemseg_cli.core.cases import Case, read_cases, write_cases
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.dataset.conversion.convert import convert
from hemseg_cli.dataset.conversion.result import ConvertResult
from hemseg_cli.dataset.labels.manifest import ManifestRow, write_manifest
from hemseg_cli.imaging.dicom.series import assemble, read_slices
from hemseg_cli.imaging.geometry import header_voxel_volume_mm3, true_voxel_volume_mm3
from hemseg_cli.imaging.nifti import Volume, read_header, read_volume, write_volume
from hemseg_cli.imaging.sidecar import read_sidecar
from tests.dicom_files import head_pixels, slice_bytes, slice_id

SLICES = 6


def scan_id(number: int) -> str:
    return f"{number:010x}"


class DataSet:
    """A small data set laid out as `fetch-labels` does, its slices in a folder.

    Scans are added one by one.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.dicom = root, root / "stage_2_train"
        self.folder = root / "data" / "small"
        self.dicom.mkdir(parents=True)
        self.rows: list[ManifestRow] = []
        self.cases: list[Case] = []

    def add(
        self,
        number: int,
        *,
        tilt_deg: float = 0.0,
        split: str = "train",
        repeat: bool = False,
        **common: Any,
    ) -> str:
        scan = scan_id(number)
        files = {
            slice_id(number * 100 + n): slice_bytes(n, tilt_deg=tilt_deg, **common)
            for n in range(SLICES)
        }
        for name, data in files.items():
            (self.dicom / f"ID_{name}.dcm").write_bytes(data)
        volume, _sidecar = assemble(
            scan, read_slices(scan, files, files.__getitem__), uneven="resample"
        )
        mask = np.zeros((*volume.array.shape[:2], SLICES), dtype=np.int16)
        mask[5:10, 6:11, 1:4] = 1
        label = f"{split}/label/{scan}.nii.gz"
        write_volume(self.folder / label, Volume(mask, volume.affine))
        mm3 = true_voxel_volume_mm3(volume.affine)
        names = sorted(files) + (sorted(files)[:2] if repeat else [])
        self.rows.append(ManifestRow(scan, f"ID_{number:08x}", tuple(names)))
        self.cases.append(
            Case(
                scan,
                f"ID_{number:08x}",
                split,
                SLICES,
                label,
                voxel_volume_mm3=mm3,
                truth_ml=75 * mm3 / 1000,
            )
        )
        write_manifest(self.folder / "manifest.jsonl", self.rows)
        write_cases(self.folder / "cases.csv", self.cases)
        return scan

    def slice_file(self, number: int, n: int) -> Path:
        return self.dicom / f"ID_{slice_id(number * 100 + n)}.dcm"

    def config(self, **options: Any) -> Config:
        given = {f"convert.{key}": value for key, value in options.items()}
        fixed = {
            "data.root": str(self.root / "data"),
            "data.dataset": "small",
            "convert.dicom": str(self.root),
            "compute.workers": 0,
        }
        return load(None, options=fixed | given, environ={})

    def convert(
        self, *, scans: list[str] | None = None, force: bool = False, **options: Any
    ) -> ConvertResult:
        return convert(self.config(**options), scans=scans, force=force)

    def log(self) -> dict[str, dict[str, str]]:
        with (self.folder / "conversion.csv").open(newline="") as file:
            return {row["scan"]: row for row in csv.DictReader(file)}


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path)


def image_of(data: DataSet, scan: str, split: str = "train") -> Path:
    return data.folder / split / "image" / f"{scan}.nii.gz"


def test_image_lies_on_its_labels_grid_with_sidecar_and_log(data: DataSet) -> None:
    scan = data.add(1, tilt_deg=20.0, split="test", repeat=True)
    result = data.convert()
    assert (result.converted, result.done_before, result.failed) == (1, 0, False)
    image, label = image_of(data, scan, "test"), data.folder / "test" / "label" / f"{scan}.nii.gz"
    assert read_header(image)[0] == read_header(label)[0]
    np.testing.assert_allclose(read_header(image)[1], read_header(label)[1], atol=1e-3)
    np.testing.assert_array_equal(read_volume(image).array[:, :, 2].T, head_pixels(2))
    sidecar = read_sidecar(image)
    assert sidecar is not None
    assert sidecar.source_slices == tuple(slice_id(100 + n) for n in range(SLICES))
    assert (sidecar.patient, sidecar.geometry) == ("ID_00000001", "label")
    assert header_voxel_volume_mm3(np.array(sidecar.true_affine)) == pytest.approx(
        sidecar.voxel_volume_mm3
    )
    assert data.log()[scan]["status"] == "converted"
    assert float(data.log()[scan]["seconds"]) > 0


def test_case_table_takes_the_geometry_of_the_slices(data: DataSet) -> None:
    scan = data.add(1, tilt_deg=30.0)
    # A table whose voxel volume came from the header alone, 15 % too large.
    write_cases(
        data.folder / "cases.csv",
        [
            Case(
                scan,
                "p",
                "train",
                label=f"train/label/{scan}.nii.gz",
                voxel_volume_mm3=1.5,
                truth_ml=0.1125,
            )
        ],
    )
    data.convert()
    (case,) = read_cases(data.folder / "cases.csv")
    assert case.geometry_from == "dicom"
    assert case.image == f"train/image/{scan}.nii.gz"
    assert case.voxel_volume_mm3 == pytest.approx(0.5 * 0.5 * 5.0, rel=1e-5)
    assert case.truth_ml == pytest.approx(75 * 1.25 / 1000, rel=1e-5)
    assert abs(case.tilt_deg or 0) == pytest.approx(30, abs=1e-3)
    assert case.spacing_z_mm == pytest.approx(5.0 / np.cos(np.pi / 6), rel=1e-5)


def test_a_second_call_redoes_nothing(data: DataSet) -> None:
    scans = [data.add(n) for n in range(3)]
    data.convert()
    before = {scan: image_of(data, scan).stat().st_mtime_ns for scan in scans}
    log = data.log()
    result = data.convert()
    assert (result.converted, result.done_before) == (0, 3)
    assert {scan: image_of(data, scan).stat().st_mtime_ns for scan in scans} == before
    assert data.log() == log
    assert data.convert(force=True).converted == 3


def test_only_the_scans_asked_for(data: DataSet) -> None:
    scans = [data.add(n) for n in range(3)]
    assert data.convert(scans=[scans[1]]).converted == 1
    assert [image_of(data, scan).exists() for scan in scans] == [False, True, False]
    with pytest.raises(UsageError, match="no such scan") as caught:
        data.convert(scans=["000000000f"])
    assert "did you mean 000000000" in caught.value.hint


def damage_empty(data: DataSet) -> None:
    data.slice_file(2, 3).write_bytes(b"")


def damage_missing(data: DataSet) -> None:
    data.slice_file(2, 3).unlink()


def damage_short(data: DataSet) -> None:
    data.slice_file(2, 3).write_bytes(data.slice_file(2, 3).read_bytes()[:-9])


def damage_position(data: DataSet) -> None:
    data.slice_file(2, 3).write_bytes(slice_bytes(3, ImagePositionPatient=None))


def damage_double(data: DataSet) -> None:
    data.slice_file(2, 3).write_bytes(slice_bytes(3, position=(-40.0, -30.0, 10 + 2 * 5.0)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_empty, "the file is empty (0 bytes)"),
        (damage_missing, "is not in"),
        (damage_short, "pixel data is short: 503 of 512 bytes"),
        (damage_position, "no position"),
        (damage_double, "two different slices at one position"),
    ],
)
def test_a_bad_scan_is_refused_by_slice_and_stops_no_other(
    data: DataSet, damage: Callable[[DataSet], None], words: str
) -> None:
    scans = [data.add(n) for n in (1, 2, 3)]
    damage(data)
    result = data.convert()
    ((scan, reason),) = result.failures.items()
    assert scan == scans[1]
    assert result.failed
    assert words in reason
    assert slice_id(203) in reason
    assert (result.converted, data.log()[scans[1]]["status"], data.log()[scans[1]]["reason"]) == (
        2,
        "refused",
        reason,
    )
    assert [image_of(data, scan).exists() for scan in scans] == [True, False, True]
    # Put right, the same command does that scan alone.
    data.slice_file(2, 3).write_bytes(slice_bytes(3))
    again = data.convert()
    assert (again.converted, again.done_before, again.failures) == (1, 2, {})
    assert data.log()[scans[1]]["status"] == "converted"


def test_label_of_another_shape_or_grid_is_refused(data: DataSet) -> None:
    first, second, third = (data.add(n) for n in (1, 2, 3))
    label = read_volume(data.folder / "train" / "label" / f"{first}.nii.gz")
    write_volume(
        data.folder / "train" / "label" / f"{first}.nii.gz",
        Volume(label.array[:, :, :5], label.affine),
    )
    moved = label.affine.copy()
    moved[2, 3] += 0.1
    write_volume(data.folder / "train" / "label" / f"{second}.nii.gz", Volume(label.array, moved))
    moved[2, 3] -= 0.0995
    write_volume(data.folder / "train" / "label" / f"{third}.nii.gz", Volume(label.array, moved))
    reasons = data.convert().failures
    assert "image shape (16, 16, 6) is not that of its label" in reasons[first]
    assert "lie up to 0.1 mm apart" in reasons[second]
    assert third not in reasons


def test_a_scan_without_label_or_manifest_row_is_named(data: DataSet) -> None:
    first, second = data.add(1), data.add(2)
    (data.folder / "train" / "label" / f"{first}.nii.gz").unlink()
    write_manifest(data.folder / "manifest.jsonl", data.rows[:1])
    reasons = data.convert().failures
    assert "does not exist" in reasons[first]
    assert "manifest.jsonl names no slices" in reasons[second]


def test_dry_run_counts_and_writes_nothing(data: DataSet) -> None:
    for n in (1, 2, 3):
        data.add(n)
    data.convert(scans=[scan_id(1)])
    data.slice_file(3, 0).unlink()
    there = sorted(path for path in data.root.rglob("*"))
    result = convert(data.config(), dry_run=True)
    assert result.failed
    payload = result.payload()
    size = data.slice_file(2, 0).stat().st_size
    assert payload["scans"] == 2
    assert payload["scans_done"] == 1
    assert payload["slices"] == 12
    assert payload["slices_missing"] == 1
    assert payload["scans_incomplete"] == [scan_id(3)]
    assert payload["bytes_to_move"] == 11 * size
    assert sorted(path for path in data.root.rglob("*")) == there


def test_no_source_and_no_table_are_said(data: DataSet) -> None:
    data.add(1)
    with pytest.raises(UsageError, match="no DICOM source"):
        convert(
            load(
                None,
                options={"data.root": str(data.root / "data"), "data.dataset": "small"},
                environ={},
            )
        )
    with pytest.raises(HemsegError, match="does not exist"):
        data.convert(dicom=str(data.root / "nothing"))
    (data.folder / "cases.csv").unlink()
    with pytest.raises(HemsegError, match="no case table"):
        data.convert()


def test_uneven_scan_needs_true_geometry(data: DataSet) -> None:
    scan = data.add(1)
    data.slice_file(1, 5).write_bytes(slice_bytes(5, position=(-40.0, -30.0, 10 + 5 * 5.0 + 2.5)))
    label = data.folder / "train" / "label" / f"{scan}.nii.gz"
    affine = read_volume(label).affine
    affine[2, 2] = 27.5 / 5
    write_volume(label, Volume(read_volume(label).array, affine))
    (row,) = data.convert(uneven="resample").rows
    assert "uneven slice steps: 7.50 mm" in row.reason
    assert "--geometry true" in row.hint
    result = data.convert(uneven="resample", geometry="true")
    assert result.failures == {}
    true = data.folder.with_name("small-true")
    (case,) = read_cases(true / "cases.csv")
    image, mask = read_volume(true / case.image), read_volume(true / case.label)
    np.testing.assert_allclose(image.affine, mask.affine, atol=1e-4)
    # by hand: slices 1 to 3 of 25 voxels of 0.25 mm2, each standing for 5 mm
    assert mask.array.sum() * case.voxel_volume_mm3 == pytest.approx(25 * 0.25 * 15.0, rel=0.03)


@pytest.mark.parametrize("tilt", [-22.0, 30.0])
def test_true_geometry_keeps_the_labels_volume_and_the_published_data(
    data: DataSet, tilt: float
) -> None:
    scan = data.add(1, tilt_deg=tilt)
    label = data.folder / "train" / "label" / f"{scan}.nii.gz"
    published = label.read_bytes()
    data.convert(geometry="true")
    true = data.folder.with_name("small-true")
    (case,) = read_cases(true / "cases.csv")
    image, mask = read_volume(true / case.image), read_volume(true / case.label)
    np.testing.assert_allclose(image.affine, mask.affine, atol=1e-4)
    assert image.array.shape == mask.array.shape
    assert mask.array.sum() * header_voxel_volume_mm3(mask.affine) == pytest.approx(
        75 * 1.25, rel=0.01
    )
    assert case.truth_ml == pytest.approx(75 * 1.25 / 1000, rel=0.01)
    # The mask still lies where brain is: within the box that it was drawn in, in millimetres.
    assert (image.array[mask.array > 0] > 0).mean() > 0.9
    assert label.read_bytes() == published
    assert data.convert(geometry="true").done_before == 1


def test_workers_give_the_same_bytes_as_one_process(data: DataSet, tmp_path: Path) -> None:
    scans = [data.add(n) for n in (1, 2, 3)]
    data.convert()
    alone = [image_of(data, scan).read_bytes() for scan in scans]
    shutil.rmtree(data.folder / "train" / "image")
    result = convert(
        data.config().model_copy(
            update={"compute": data.config().compute.model_copy(update={"workers": 2})}
        )
    )
    assert result.converted == 3
    assert [image_of(data, scan).read_bytes() for scan in scans] == alone


def no_process_left(group: int) -> bool:
    for _ in range(600):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("how", "images", "workers"),
    [(signal.SIGKILL, 0, 0), (signal.SIGKILL, 7, 0), (signal.SIGINT, 2, 0), (signal.SIGKILL, 1, 2)],
)
def test_a_killed_call_leaves_nothing_half_written_and_the_next_finishes(
    data: DataSet, how: signal.Signals, images: int, workers: int
) -> None:
    scans = [data.add(n) for n in range(16)]
    command = [
        sys.executable,
        "-m",
        "hemseg_cli",
        "convert",
        "--quiet",
        "--dicom",
        str(data.root),
        "--workers",
        str(workers),
    ]
    command += ["--set", f"data.root={data.root / 'data'}", "--set", "data.dataset=small"]
    folder = data.folder / "train" / "image"
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while running.poll() is None and (not folder.is_dir() or len(os.listdir(folder)) <= 2 * images):
        time.sleep(0.0005)
    running.send_signal(how)
    assert running.wait() == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert no_process_left(running.pid)
    left = [image_of(data, scan) for scan in scans if image_of(data, scan).exists()]
    whole = {
        path: path.stat().st_mtime_ns
        for path in left
        if read_volume(path).array.shape == (16, 16, SLICES)
    }
    assert len(whole) == len(left)
    finished = {
        path: stamp
        for path, stamp in whole.items()
        if path.with_name(path.name.replace(".nii.gz", ".json")).exists()
    }
    assert len(finished) < 16 or workers  # two workers may have been quicker than the signal
    result = data.convert()
    assert result.done_before == len(finished)
    assert result.converted == 16 - len(finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert sorted(os.listdir(folder)) == sorted(
        f"{scan}{suffix}" for scan in scans for suffix in (".nii.gz", ".json")
    )
    assert all(case.geometry_from == "dicom" for case in read_cases(data.folder / "cases.csv"))
    assert len(data.log()) == 16


def test_the_sidecar_is_plain_json(data: DataSet) -> None:
    scan = data.add(1)
    data.convert()
    sidecar = json.loads(
        (data.folder / "train" / "image" / f"{scan}.json").read_text(), parse_constant=pytest.fail
    )
    assert sidecar["shape"] == [16, 16, SLICES]


def test_a_dry_run_counts_the_incomplete_scans_that_it_does_not_list(data: DataSet) -> None:
    for n in range(1, 12):
        data.add(n)
        data.slice_file(n, 0).unlink()
    (table,) = convert(data.config(), dry_run=True).tables()
    assert table.caption.endswith(f"{scan_id(8)} and 3 more")


def wrapped(number: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    hu = np.maximum(head_pixels(number), -1000)
    return np.where(hu < 0, hu + 4096, hu).astype(np.int16)


def test_without_repair_the_values_are_those_of_the_file_to_the_letter(data: DataSet) -> None:
    """12 bits, unsigned, intercept 0: what wrapped stays, as ITK's reader gives it."""
    scan = data.add(1)
    for n in range(SLICES):
        content = slice_bytes(n, hu=wrapped(n), intercept=0, dtype="<u2", bits_stored=12)
        data.slice_file(1, n).write_bytes(content)
    data.convert(repair=False)
    stored = read_volume(image_of(data, scan)).array[:, :, 2].T
    np.testing.assert_array_equal(stored, wrapped(2))
    data.convert(force=True)
    repaired = read_volume(image_of(data, scan)).array[:, :, 2].T
    np.testing.assert_array_equal(repaired, np.maximum(head_pixels(2), -1000))


def test_a_project_that_was_moved_needs_no_second_conversion(data: DataSet, tmp_path: Path) -> None:
    for n in (1, 2):
        data.add(n)
    data.convert()
    moved = tmp_path / "elsewhere"
    shutil.copytree(data.root / "data", moved / "data")
    shutil.copytree(data.dicom, moved / "stage_2_train")
    config = load(
        None,
        options={
            "data.root": str(moved / "data"),
            "data.dataset": "small",
            "convert.dicom": str(moved),
            "compute.workers": 0,
        },
        environ={},
    )
    result = convert(config)
    assert (result.converted, result.done_before, result.failed) == (0, 2, False)
    text = "".join(
        p.read_text() for p in (moved / "data").rglob("*") if p.suffix in (".csv", ".json")
    )
    assert str(data.root / "data") not in text


def test_an_image_that_another_one_replaced_is_converted_again(data: DataSet) -> None:
    scan = data.add(1)
    data.convert()
    volume = read_volume(image_of(data, scan))
    write_volume(image_of(data, scan), Volume(volume.array[:, :, :3], volume.affine))
    assert data.convert().converted == 1


@pytest.mark.parametrize(
    "text",
    [
        "scan,status\n",
        "scan,status,reason,warnings,seconds\nx,perhaps,,,\n",
        "scan,status,reason,warnings,seconds\nx,converted,,,soon\n",
        "\xff",
    ],
)
def test_a_record_of_another_form_is_named(data: DataSet, text: str) -> None:
    data.add(1)
    (data.folder / "conversion.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(FileFormatError, match=r"conversion\.csv"):
        data.convert()
