import contextlib
import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli.core.cases import cases_in_split, read_cases, write_cases
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.dataset.labels.fetch import fetch_labels
from hemseg_cli.dataset.labels.manifest import read_manifest
from tests.dataset.label_files import (
    config_for,
    label_bytes,
    manifest_line,
    scan_id,
    slice_id,
    tiny_labels,
    write_source,
    zip_bytes,
)
from tests.dataset.loopback import running


def laid_out(folder: Path) -> dict[str, bytes]:
    """Every label under a final name; temporary names start with a dot."""
    paths = [
        path for path in sorted(folder.glob("*/label/*.nii.gz")) if not path.name.startswith(".")
    ]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def expected_layout(labels: dict[str, tuple[str, str, bytes]]) -> dict[str, bytes]:
    return {
        f"{split}/label/{scan}.nii.gz": data
        for scan, (split, _, data) in sorted(labels.items(), key=lambda item: (item[1][0], item[0]))
    }


def test_a_folder_with_source_json_is_laid_out(tmp_path: Path) -> None:
    labels = tiny_labels(6)
    write_source(tmp_path / "source", labels)
    config = config_for(tmp_path / "data", source=tmp_path / "source")
    result = fetch_labels(config)
    folder = tmp_path / "data" / "tiny"
    assert laid_out(folder) == expected_layout(labels)
    assert (result.written, result.split_counts()) == (6, {"train": 4, "val": 1, "test": 1})
    assert [row.slices for row in read_manifest(folder / "manifest.jsonl")][1] == tuple(
        slice_id(16 + n) for n in range(4)
    )
    assert json.loads((folder / "manifest.jsonl").read_text().splitlines()[0]).keys() == {
        "scan",
        "patient",
        "slices",
    }
    assert not list(folder.rglob(".*.part.*"))


def test_the_case_table_has_the_true_volume_of_a_tilted_label(tmp_path: Path) -> None:
    # 0.5 mm x 0.5 mm x 5 mm along the normal: 1.25 mm3, whatever the tilt and the longer z spacing
    # of the header.
    labels = {
        scan_id(n): ("test", f"ID_{n}", label_bytes(voxels=16, tilt_deg=tilt))
        for n, tilt in enumerate((0.0, 22.0, -22.0, 30.0))
    }
    write_source(tmp_path / "source", labels)
    fetch_labels(config_for(tmp_path, source=tmp_path / "source"))
    cases = read_cases(tmp_path / "tiny" / "cases.csv")
    assert [case.truth_ml for case in cases] == pytest.approx([0.020] * 4, rel=1e-4)
    assert [case.voxel_volume_mm3 for case in cases] == pytest.approx([1.25] * 4, rel=1e-4)
    assert [abs(case.tilt_deg or 0) for case in cases] == pytest.approx([0, 22, 22, 30], abs=1e-3)
    assert cases[3].spacing_z_mm == pytest.approx(5 / np.cos(np.pi / 6), rel=1e-5)
    assert {case.geometry_from for case in cases} == {"label"}
    assert [case.n_slices for case in cases] == [4] * 4


def test_every_number_of_the_result_is_right(tmp_path: Path) -> None:
    shared = {
        scan_id(1): ("train", "ID_a", label_bytes(voxels=80)),
        scan_id(2): ("test", "ID_a", label_bytes(voxels=160, tilt_deg=20)),
        scan_id(3): ("val", "ID_b", label_bytes(voxels=40)),
    }
    write_source(tmp_path / "source", shared)
    payload = fetch_labels(config_for(tmp_path, source=tmp_path / "source")).payload()
    assert payload["labels"] == 3
    assert payload["written"] == 3
    assert payload["patients"] == 2
    assert payload["patients_in_several_splits"] == {
        "ID_a": ["train/0000000001", "test/0000000002"]
    }
    assert payload["tilted"] == 1
    assert payload["truth_ml_median"] == pytest.approx(0.1)
    assert read_cases(tmp_path / "tiny" / "cases.csv")[0].shares_patient_with == ("0000000002",)


def test_a_second_call_writes_nothing_and_changes_nothing(tmp_path: Path) -> None:
    write_source(tmp_path / "source", tiny_labels())
    config = config_for(tmp_path, source=tmp_path / "source")
    fetch_labels(config)
    folder = tmp_path / "tiny"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}
    table = (folder / "cases.csv").read_bytes()
    result = fetch_labels(config)
    assert (result.written, result.restored, result.differing) == (0, (), ())
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")} == before
    assert (folder / "cases.csv").read_bytes() == table


def test_only_what_is_missing_is_written(tmp_path: Path) -> None:
    labels = tiny_labels()
    write_source(tmp_path / "source", labels)
    config = config_for(tmp_path, source=tmp_path / "source")
    fetch_labels(config)
    (tmp_path / "tiny" / "test" / "label" / f"{scan_id(3)}.nii.gz").unlink()
    assert fetch_labels(config).written == 1
    assert laid_out(tmp_path / "tiny") == expected_layout(labels)


def test_a_label_that_differs_is_kept_and_named_and_restored_with_force(tmp_path: Path) -> None:
    labels = tiny_labels()
    write_source(tmp_path / "source", labels)
    config = config_for(tmp_path, source=tmp_path / "source")
    fetch_labels(config)
    edited = tmp_path / "tiny" / "test" / "label" / f"{scan_id(3)}.nii.gz"
    edited.write_bytes(label_bytes(voxels=100))
    kept = fetch_labels(config)
    assert kept.differing == (scan_id(3),)
    assert edited.read_bytes() == label_bytes(voxels=100)
    assert read_cases(config.data.cases_file)[3].truth_ml == pytest.approx(0.125)
    restored = fetch_labels(config, force=True)
    assert (restored.restored, restored.differing, restored.written) == ((scan_id(3),), (), 0)
    assert laid_out(tmp_path / "tiny") == expected_layout(labels)
    assert read_cases(config.data.cases_file)[3].truth_ml == pytest.approx(0.01625)


def test_what_convert_wrote_into_the_case_table_stays(tmp_path: Path) -> None:
    write_source(tmp_path / "source", tiny_labels(4))
    config = config_for(tmp_path, source=tmp_path / "source")
    fetch_labels(config)
    image = tmp_path / "tiny" / "test" / "image" / f"{scan_id(3)}.nii.gz"
    image.parent.mkdir()
    image.write_bytes(b"image")
    cases = read_cases(config.data.cases_file)
    cases[3] = dataclasses.replace(
        cases[3],
        image=f"test/image/{image.name}",
        geometry_from="dicom",
        voxel_volume_mm3=2.0,
        tilt_deg=12.0,
        truth_ml=0.026,
    )
    write_cases(config.data.cases_file, cases)
    fetch_labels(config)
    assert read_cases(config.data.cases_file)[3] == cases[3]
    image.with_name(image.name).parents[1].joinpath("label", image.name).write_bytes(
        label_bytes(voxels=100)
    )
    fetch_labels(config)
    edited = read_cases(config.data.cases_file)[3]
    assert (edited.truth_ml, edited.voxel_volume_mm3, edited.tilt_deg) == (
        pytest.approx(0.2),
        2.0,
        12.0,
    )


def patients_in_two_splits() -> dict[str, tuple[str, str, bytes]]:
    return {
        scan_id(1): ("train", "ID_a", label_bytes(voxels=1)),
        scan_id(2): ("test", "ID_a", label_bytes(voxels=2)),
        scan_id(3): ("train", "ID_b", label_bytes(voxels=3)),
        scan_id(4): ("val", "ID_b", label_bytes(voxels=4)),
        scan_id(5): ("train", "ID_c", label_bytes(voxels=5)),
    }


def test_repaired_splits_keep_the_test_split_and_move_files_with_their_images(
    tmp_path: Path,
) -> None:
    write_source(tmp_path / "source", patients_in_two_splits())
    official = config_for(tmp_path, source=tmp_path / "source")
    fetch_labels(official)
    folder = tmp_path / "tiny"
    for suffix in (".nii.gz", ".json"):
        image = folder / "train" / "image" / f"{scan_id(3)}{suffix}"
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(b"x")
    result = fetch_labels(config_for(tmp_path, source=tmp_path / "source", splits="patient"))
    cases = {case.scan: case for case in read_cases(folder / "cases.csv")}
    assert result.split_counts() == {"train": 1, "val": 2, "test": 1, "excluded": 1}
    assert result.written == 0
    assert result.shared() == {}
    assert [case.scan for case in cases_in_split(cases.values(), "test")] == [scan_id(2)]
    assert cases[scan_id(1)].split == ""
    assert cases[scan_id(3)].image == f"val/image/{scan_id(3)}.nii.gz"
    assert all(not case.shares_patient_with for case in cases.values())
    assert all((folder / case.label).is_file() for case in cases.values())
    assert not list((folder / "train").rglob(f"{scan_id(3)}*"))
    assert (folder / "val" / "image" / f"{scan_id(3)}.json").is_file()
    fetch_labels(official)
    assert laid_out(folder) == expected_layout(patients_in_two_splits())


def test_an_archive_file_is_taken_with_what_lies_beside_it(tmp_path: Path) -> None:
    write_source(tmp_path / "source", tiny_labels())
    assert (
        fetch_labels(config_for(tmp_path, source=tmp_path / "source" / "labels.zip")).written == 6
    )


@pytest.mark.parametrize(
    "address", ["mirror", "mirror/", "mirror/labels.zip", "mirror/labels.zip?token=abc"]
)
def test_a_mirror_is_downloaded_once(tmp_path: Path, address: str) -> None:
    labels = tiny_labels()
    with running() as site:
        site.files = {
            f"mirror/{name}": data
            for name, data in write_source(tmp_path / "source", labels).items()
        }
        config = config_for(tmp_path, source=site.url(address))
        assert fetch_labels(config).written == 6
        (tmp_path / "tiny" / "test" / "label" / f"{scan_id(3)}.nii.gz").unlink()
        assert fetch_labels(config).written == 1
        asked = Counter(path for path, _ in site.requests)
    assert laid_out(tmp_path / "tiny") == expected_layout(labels)
    assert (asked["mirror/labels.zip"], asked["mirror/manifest.jsonl"]) == (1, 1)


def test_an_archive_whose_hash_is_wrong_is_refused_and_nothing_is_laid_out(tmp_path: Path) -> None:
    files = write_source(tmp_path / "source", tiny_labels())
    (tmp_path / "source" / "labels.zip").write_bytes(files["labels.zip"][::-1])
    with pytest.raises(
        FileFormatError, match=r"sha256 expected [0-9a-f]{64}\n  sha256 found    [0-9a-f]{64}"
    ):
        fetch_labels(config_for(tmp_path, source=tmp_path / "source"))
    assert not list((tmp_path / "tiny").rglob("*.nii.gz"))


def test_a_label_that_cannot_be_read_is_named_and_the_others_are_laid_out(tmp_path: Path) -> None:
    labels = tiny_labels(4)
    bomb = gzip.compress(gzip.decompress(label_bytes()) + bytes(16 * 2**20))
    labels[scan_id(8)] = ("train", "ID_8", b"no label")
    labels[scan_id(9)] = ("test", "ID_9", bomb)
    write_source(tmp_path / "source", labels)
    result = fetch_labels(config_for(tmp_path, source=tmp_path / "source"))
    failed = result.failures
    assert failed.keys() == {scan_id(8), scan_id(9)}
    assert "holds more than" in failed[scan_id(9)]
    assert result.written == 4
    assert len(read_cases(tmp_path / "tiny" / "cases.csv")) == 4
    assert laid_out(tmp_path / "tiny").keys() == expected_layout(tiny_labels(4)).keys()


def test_a_manifest_of_another_data_set_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_source(source, tiny_labels(3))
    foreign = (manifest_line(scan_id(7), "ID_7", [slice_id(1)]) + "\n").encode()
    (source / "manifest.jsonl").write_bytes(foreign)
    import hashlib

    description = json.loads((source / "source.json").read_text())
    description["manifest"] |= {
        "bytes": len(foreign),
        "sha256": hashlib.sha256(foreign).hexdigest(),
    }
    (source / "source.json").write_text(json.dumps(description))
    with pytest.raises(FileFormatError, match="no row for 3 labels"):
        fetch_labels(config_for(tmp_path, source=source))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "../labels.zip"}, "is not a file name"),
        ({"file": "/etc/passwd"}, "is not a file name"),
        ({"bytes": -1}, "is not a size"),
        ({"bytes": 10**12}, "is not a size"),
        ({"bytes": True}, "is not a size"),
        ({"sha256": "abc"}, "is not 64 hexadecimal digits"),
    ],
)
def test_a_source_json_that_reaches_out_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    write_source(tmp_path / "source", tiny_labels(1))
    file = tmp_path / "source" / "source.json"
    description = json.loads(file.read_text())
    description["archive"] |= change
    file.write_text(json.dumps(description))
    with pytest.raises(FileFormatError, match=message):
        fetch_labels(config_for(tmp_path, source=tmp_path / "source"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("IPH", "no list of classes"),
        ([], "no list of classes"),
        ([{"value": 0, "key": "IPH"}], "value = 0 is not a whole number"),
        ([{"value": 1, "key": "IPH"}, {"value": 1, "key": "IVH"}], "the same value"),
    ],
)
def test_classes_of_a_source_json_are_checked(
    tmp_path: Path, classes: object, message: str
) -> None:
    write_source(tmp_path / "source", tiny_labels(1))
    file = tmp_path / "source" / "source.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"classes": classes}))
    with pytest.raises(FileFormatError, match=rf"source\.json.*{message}"):
        fetch_labels(config_for(tmp_path, source=tmp_path / "source"))


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data set tiny is not a published one"):
        fetch_labels(config_for(tmp_path))
    with pytest.raises(HemsegError, match="does not exist"):
        fetch_labels(config_for(tmp_path, source=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(HemsegError, match=r"holds no source\.json"):
        fetch_labels(config_for(tmp_path, source=tmp_path / "empty"))
    with pytest.raises(HemsegError, match=r"holds no IPH_IVH_label\.zip"):
        fetch_labels(config_for(tmp_path, source=tmp_path / "empty", dataset="hemseg-200"))
    with pytest.raises(UsageError, match="only https://"):
        fetch_labels(config_for(tmp_path, source="http://example.com/mirror"))


def test_an_archive_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "IPH_IVH_label.zip").write_bytes(zip_bytes({"x": b"y"}))
    with pytest.raises(
        FileFormatError, match="50c8a6784a2133af55d199398b3e1085b633475a488bbe622d1927d3032eedd2"
    ):
        fetch_labels(config_for(tmp_path, source=tmp_path, dataset="hemseg-200"))


def test_two_at_once_do_not_clear_away_each_others_files(tmp_path: Path) -> None:
    import fcntl

    write_source(tmp_path / "source", tiny_labels(1))
    (tmp_path / "tiny").mkdir()
    with (tmp_path / "tiny" / ".fetch.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(HemsegError, match=r"labels are being fetched into .*tiny by process"):
            fetch_labels(config_for(tmp_path, source=tmp_path / "source"))


COMMAND = "import sys; from hemseg_cli.app import run; sys.exit(run(sys.argv[1:]))"


def start_fetch(root: Path, source: object) -> subprocess.Popen[bytes]:
    arguments = [
        "fetch-labels",
        "--dataset",
        "tiny",
        "--source",
        str(source),
        "--workers",
        "0",
        "--set",
        f"data.root={root}",
        "--json",
    ]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    while not reached() and process.poll() is None:
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("count", [1, 40, 119])
def test_a_killed_fetch_leaves_only_whole_labels_and_is_finished_by_the_same_command(
    tmp_path: Path, count: int
) -> None:
    labels = tiny_labels(120)
    write_source(tmp_path / "source", labels)
    folder = tmp_path / "tiny"
    process = start_fetch(tmp_path, tmp_path / "source")
    kill_when(process, lambda: len(list(folder.glob("*/label/[!.]*"))) >= count)
    there = laid_out(folder)
    assert len(there) >= count
    assert there.items() <= expected_layout(labels).items()
    before = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*.nii.gz")
        if not path.name.startswith(".")
    }
    result = fetch_labels(config_for(tmp_path, source=tmp_path / "source"))
    assert result.written == 120 - len(there)
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert laid_out(folder) == expected_layout(labels)
    assert not list(folder.rglob("*/label/.*"))


def test_a_fetch_killed_in_the_download_is_finished_by_the_same_command(tmp_path: Path) -> None:
    labels = tiny_labels(60)
    with running() as site:
        site.files = write_source(tmp_path / "source", labels)
        site.script["labels.zip"] = [site.stalls_after(4000)]
        downloads = tmp_path / "tiny" / ".cache" / "source"
        process = start_fetch(tmp_path, site.url("").rstrip("/"))
        kill_when(
            process, lambda: any(p.stat().st_size >= 4000 for p in downloads.glob(".*labels.zip"))
        )
        site.released.set()
        assert not (downloads / "labels.zip").exists()
        assert fetch_labels(config_for(tmp_path, source=site.url("").rstrip("/"))).written == 60
        assert sorted(path.name for path in downloads.iterdir()) == ["labels.zip", "manifest.jsonl"]
    assert laid_out(tmp_path / "tiny") == expected_layout(labels)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_fetch_that_is_stopped_says_so_and_is_finished_by_the_same_command(
    tmp_path: Path, number: int, code: int
) -> None:
    labels = tiny_labels(120)
    write_source(tmp_path / "source", labels)
    folder = tmp_path / "tiny"
    process = start_fetch(tmp_path, tmp_path / "source")
    while len(laid_out(folder)) < 20 and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(number)
    output, errors = process.communicate()
    assert (process.returncode, output) == (code, b"")
    assert b"the same command finishes the work" in errors
    assert not list(folder.rglob("*/label/.*"))
    there = laid_out(folder)
    assert fetch_labels(config_for(tmp_path, source=tmp_path / "source")).written == 120 - len(
        there
    )
    assert laid_out(folder) == expected_layout(labels)


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 525 labels of HemSeg-500 laid out, and HemSeg-200's."""
    root = tmp_path_factory.mktemp("published")
    for dataset in ("hemseg-200", "hemseg-500"):
        config = config_for(root, source=shared_data / "hemseg", dataset=dataset)
        (root / f"{dataset}.json").write_text(json.dumps(fetch_labels(config).payload()))
    return root


@pytest.mark.parametrize(
    ("dataset", "labels", "splits", "patients", "shared", "median_ml"),
    [
        ("hemseg-200", 222, (133, 44, 45), 209, 4, 9.65),
        ("hemseg-500", 525, (334, 85, 106), 503, 8, 6.0),
    ],
)
def test_the_published_labels_have_the_known_counts(
    published: Path,
    dataset: str,
    labels: int,
    splits: tuple[int, ...],
    patients: int,
    shared: int,
    median_ml: float,
) -> None:
    payload = json.loads((published / f"{dataset}.json").read_text())
    assert (payload["labels"], payload["written"], payload["failures"], payload["warnings"]) == (
        labels,
        labels,
        {},
        [],
    )
    assert tuple(payload["splits"].values()) == splits
    assert (payload["patients"], len(payload["patients_in_several_splits"])) == (patients, shared)
    cases = read_cases(published / dataset / "cases.csv")
    assert (
        tuple(Counter(case.split for case in cases)[split] for split in ("train", "val", "test"))
        == splits
    )
    assert payload["truth_ml_median"] == pytest.approx(median_ml, abs=0.01)
    assert all((published / dataset / case.label).is_file() for case in cases)


def test_the_published_tilts_and_patients_are_those_of_the_facts(published: Path) -> None:
    payload = json.loads((published / "hemseg-500.json").read_text())
    assert payload["tilted"] == 339
    shared = json.loads((published / "hemseg-200.json").read_text())["patients_in_several_splits"]
    assert set(shared) == {"ID_2b75e193", "ID_3b4accbe", "ID_bfb9a9e6", "ID_c7097cd4"}
    cases = {case.scan: case for case in read_cases(published / "hemseg-500" / "cases.csv")}
    tests = {
        case.scan
        for case in read_cases(published / "hemseg-200" / "cases.csv")
        if case.split == "test"
    }
    assert sum(cases[scan].split == "train" for scan in tests) == 33
    straightened = [
        (case.spacing_z_mm or 0) * np.cos(np.radians(case.tilt_deg or 0)) for case in cases.values()
    ]
    assert sum(abs(value - 5.0) < 0.0005 for value in straightened) == 345
    assert len((published / "hemseg-500" / "train_set.csv").read_text().splitlines()) == 335


def test_published_labels_are_the_archives_bytes_and_their_volumes_nibabels(
    published: Path, shared_data: Path
) -> None:
    cases = {case.scan: case for case in read_cases(published / "hemseg-200" / "cases.csv")}
    with zipfile.ZipFile(shared_data / "hemseg" / "IPH_IVH_label.zip") as archive:
        for name in archive.namelist()[3:200:24]:
            scan = name.rpartition("/")[2].removesuffix(".nii.gz")
            if not scan:
                continue
            path = published / "hemseg-200" / cases[scan].label
            assert path.read_bytes() == archive.read(name)
            image = nib.load(path)
            header_ml = (
                np.count_nonzero(np.asanyarray(image.dataobj))
                * abs(np.linalg.det(image.affine[:3, :3]))
                / 1000
            )
            assert cases[scan].truth_ml == pytest.approx(
                header_ml * np.cos(np.radians(cases[scan].tilt_deg)), rel=1e-5
            )
