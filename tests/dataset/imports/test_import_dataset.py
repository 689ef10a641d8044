"""Wrong, missing, doubled, shifted and oddly stored labels; names, patients, splits; what stays."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli.app import run as run_command
from hemseg_cli.config import load
from hemseg_cli.core.cases import read_cases
from hemseg_cli.core.classes import read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import UsageError
from hemseg_cli.dataset.health.dataset import check_data
from hemseg_cli.dataset.imports.import_dataset import import_dataset
from hemseg_cli.dataset.imports.layout import ImportRequest
from hemseg_cli.dataset.imports.result import ImportResult
from hemseg_cli.imaging.nifti import read_volume
from tests.dataset.imports.sources import (
    VOXEL_ML,
    affine,
    config_for,
    head,
    label,
    pairs_folder,
    write_nifti,
)


def run(root: Path, source: Path, **options: Any) -> ImportResult:
    return import_dataset(config_for(root), ImportRequest(source, name="mine", **options))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return pairs_folder(tmp_path / "source", 5)


def mask_file(source: Path, n: int) -> Path:
    return source / "labels" / f"scan{n:03d}.nii.gz"


def test_the_case_table_and_the_files_are_those_of_a_data_set(tmp_path: Path, source: Path) -> None:
    result = run(tmp_path, source)
    data = DataDirectory(tmp_path / "data" / "mine")
    cases = read_cases(data.cases_file)
    assert [case.scan for case in cases] == [f"scan{n:03d}" for n in range(5)]
    for n, case in enumerate(cases):
        assert case.truth_ml == pytest.approx((10 + n) * VOXEL_ML, abs=1e-6)
        assert (
            data.image_of(case).resolve() == (source / "images" / f"{case.scan}.nii.gz").resolve()
        )
        image, mask = read_volume(data.image_of(case)), read_volume(data.label_of(case))
        np.testing.assert_allclose(image.affine, mask.affine, atol=1e-4)
        np.testing.assert_array_equal(mask.array, label({1: 10 + n}))
    assert result.split_counts() == {"train": 3, "val": 1, "test": 1}
    assert not data.classes_file.exists()
    settings = {"data.root": str(tmp_path / "data"), "data.dataset": "mine", "compute.workers": 0}
    health = check_data(load(None, options=settings, environ={}))
    assert health.faults == ()
    assert health.missing_images == []


def test_a_second_import_gives_the_same_and_a_dry_run_writes_nothing(
    tmp_path: Path, source: Path
) -> None:
    dry = run(tmp_path, source, dry_run=True)
    assert not (tmp_path / "data").exists()
    first = run(tmp_path, source)
    table = (first.folder / "cases.csv").read_bytes()
    assert run(tmp_path, source).payload() == first.payload()
    assert (first.folder / "cases.csv").read_bytes() == table
    assert dry.split_counts() == first.split_counts()


def test_images_are_copied_when_asked_and_never_changed(tmp_path: Path, source: Path) -> None:
    before = {path: path.read_bytes() for path in source.rglob("*.nii.gz")}
    result = run(tmp_path, source, copy=True)
    for case in result.cases:
        image = result.folder / case.image
        assert not image.is_symlink()
        assert image.read_bytes() == before[source / "images" / f"{case.scan}.nii.gz"]
    assert {path: path.read_bytes() for path in source.rglob("*.nii.gz")} == before


def test_a_read_only_source_is_imported(tmp_path: Path, source: Path) -> None:
    paths = [source, *source.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert len(run(tmp_path, source).cases) == 5
    finally:
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)


def write_mask(source: Path, voxels: Any, to_ras: Any = None, **options: Any) -> None:
    write_nifti(mask_file(source, 2), voxels, to_ras, **options)


WANTED = label({1: 12})


def flipped_to(axes: str) -> tuple[Any, Any]:
    image = nib.Nifti1Image(WANTED, affine())
    target = nib.orientations.axcodes2ornt(tuple(axes))
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
    )
    return np.asarray(turned.dataobj), turned.affine


@pytest.mark.parametrize(
    ("voxels", "to_ras", "options"),
    [
        (WANTED.astype(np.float32), None, {}),
        (WANTED.astype(np.float64) * 1.0001, None, {}),
        (WANTED * 255, None, {}),
        (WANTED.astype(np.int16) * 255, None, {"slope": 1 / 255}),
        (WANTED, None, {"slope": 1 / 255}),
        (*flipped_to("RAS"), {}),
        (*flipped_to("LAS"), {}),
        (*flipped_to("SPL"), {}),
        (WANTED, affine() @ np.diag([1, 1, 1, 1]) + 1e-5, {}),
    ],
    ids=["float", "nearly 1", "255", "scaled 255", "1/255", "RAS", "LAS", "SPL", "rounded affine"],
)
def test_a_label_is_taken_however_it_is_stored(
    tmp_path: Path, source: Path, voxels: Any, to_ras: Any, options: dict[str, Any]
) -> None:
    # Alone: the values of one folder's masks are then of one kind.
    for n in (0, 1, 3, 4):
        mask_file(source, n).unlink()
    if to_ras is not None:
        to_ras[3] = [0, 0, 0, 1]
    write_mask(source, voxels, to_ras, **options)
    result = run(tmp_path, source)
    assert result.failures == {}
    (case,) = result.cases
    np.testing.assert_array_equal(read_volume(result.folder / case.label).array, WANTED)
    assert case.truth_ml == pytest.approx(12 * VOXEL_ML)


def moved(mm: float) -> Any:
    shifted = affine()
    shifted[0, 3] += mm
    return shifted


@pytest.mark.parametrize(
    ("voxels", "to_ras", "words"),
    [
        (WANTED, moved(5.0), "lies up to 5 mm off the image"),
        (WANTED[:, :, :5], None, "voxels"),
        (WANTED * np.float32(0.5) + label({1: 3}) * np.float32(0.3), None, "no label map"),
        (np.where(WANTED, np.nan, 0).astype(np.float32), None, "no numbers"),
        (head(2), None, "0 to 255"),
        (WANTED.astype(np.int16) * -1, None, "0 to 255"),
    ],
    ids=["shifted", "another shape", "probabilities", "nan", "an image", "negative"],
)
def test_a_label_that_cannot_be_is_refused_by_name_and_stops_no_other(
    tmp_path: Path, source: Path, voxels: Any, to_ras: Any, words: str
) -> None:
    write_mask(source, voxels, to_ras)
    result = run(tmp_path, source)
    assert list(result.failures) == ["scan002"]
    assert words in result.failures["scan002"]
    assert result.failed
    assert [case.scan for case in read_cases(result.folder / "cases.csv")] == [
        "scan000",
        "scan001",
        "scan003",
        "scan004",
    ]


def test_a_damaged_file_and_a_picture_are_refused(tmp_path: Path, source: Path) -> None:
    image = source / "images" / "scan001.nii.gz"
    image.write_bytes(image.read_bytes()[:-200])
    write_nifti(source / "images" / "scan003.nii.gz", np.clip(head(3), 0, 255).astype(np.uint8))
    failures = run(tmp_path, source).failures
    assert sorted(failures) == ["scan001", "scan003"]
    assert "not HU" in failures["scan003"]


def test_missing_and_doubled_labels_are_left_out_by_name(tmp_path: Path, source: Path) -> None:
    mask_file(source, 0).unlink()
    shutil.copy(mask_file(source, 1), source / "labels" / "scan001_seg.nii.gz")
    mask_file(source, 1).rename(source / "labels" / "scan001_mask.nii.gz")
    (source / "labels" / "stray.nii.gz").write_bytes(mask_file(source, 2).read_bytes())
    result = run(tmp_path, source)
    left_out = {Path(name).name: why for name, why in result.left_out.items()}
    assert left_out.pop("scan000.nii.gz") == "no label"
    assert left_out.pop("stray.nii.gz") == "a label without an image"
    assert sorted(left_out) == ["scan001.nii.gz", "scan001_mask.nii.gz", "scan001_seg.nii.gz"]
    assert all("more than one file for scan001" in why for why in left_out.values())
    assert len(result.cases) == 3


def test_the_same_pixels_under_two_names_are_taken_once(tmp_path: Path, source: Path) -> None:
    write_nifti(source / "images" / "scan004.nii", head(1))
    (source / "images" / "scan004.nii.gz").unlink()
    result = run(tmp_path, source)
    assert {Path(name).name: why for name, why in result.left_out.items()} == {
        "scan004.nii": "the same voxels as scan001"
    }
    assert len(result.cases) == 4


def test_empty_labels_are_counted(tmp_path: Path, source: Path) -> None:
    write_mask(source, label({}))
    result = run(tmp_path, source)
    assert result.empty == ("scan002",)
    assert len(result.cases) == 5


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1000.0), ("meter", 0.001)])
def test_units_of_length_are_honoured(
    tmp_path: Path, source: Path, unit: str, factor: float
) -> None:
    scaled = affine()
    scaled[:3] *= factor
    write_nifti(source / "images" / "scan002.nii.gz", head(2), scaled, unit=unit)
    write_mask(source, WANTED, scaled, unit=unit)
    case = next(c for c in run(tmp_path, source).cases if c.scan == "scan002")
    assert case.truth_ml == pytest.approx(12 * VOXEL_ML, rel=1e-5)
    assert case.spacing_z_mm == pytest.approx(10.0, rel=1e-5)


@pytest.mark.parametrize(
    ("angle", "axis", "factor"),
    [(20.0, "x", np.cos(np.radians(20))), (-18.5, "x", np.cos(np.radians(18.5))), (20.0, "z", 1.0)],
)
def test_a_gantry_tilt_is_recovered_and_another_turn_is_not(
    tmp_path: Path, source: Path, angle: float, axis: str, factor: float
) -> None:
    turned = affine(angle, axis=axis)
    write_nifti(source / "images" / "scan002.nii.gz", head(2), turned)
    write_mask(source, WANTED, turned)
    result = run(tmp_path, source)
    case = next(c for c in result.cases if c.scan == "scan002")
    assert case.truth_ml == pytest.approx(12 * VOXEL_ML * factor, rel=1e-5)
    assert result.tilted == (("scan002",) if factor < 1 else ())
    assert ("scan002" in result.warnings) == (factor < 1)


def test_values_that_are_no_hounsfield_units_are_said(tmp_path: Path, source: Path) -> None:
    write_nifti(source / "images" / "scan002.nii.gz", head(2) + 1024)
    assert run(tmp_path, source).warnings["scan002"] == ("its values are 1024 HU too high",)


def several(root: Path) -> Path:
    for n in range(5):
        name = f"s{n}.nii.gz"
        write_nifti(root / "images" / name, head(n))
        write_nifti(root / "labels" / name, label({1: 4 + n, 2: 6, 4: 8}))
    return root


def test_several_values_need_to_be_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="hold 1, 2, 4, and nothing says") as caught:
        run(tmp_path, several(tmp_path / "source"))
    assert "--classes IPH=1,IVH=2" in caught.value.hint


@pytest.mark.parametrize(
    ("classes", "keys", "totals"),
    [
        ("IPH=1,IVH=2,SDH=4", ["IPH", "IVH", "SDH"], [30, 30, 40]),
        ("hemorrhage=1-5", ["hemorrhage"], [100]),
        ("IVH=2,IPH=1,background=4", ["IVH", "IPH"], [30, 30]),
        ("IPH=1,other thing=2,IPH=4", None, None),
    ],
)
def test_classes_are_mapped_merged_and_dropped(
    tmp_path: Path, classes: str, keys: list[str] | None, totals: list[int] | None
) -> None:
    source = several(tmp_path / "source")
    if keys is None or totals is None:
        with pytest.raises(Exception, match="not a scan id"):
            run(tmp_path, source, classes=classes)
        return
    result = run(tmp_path, source, classes=classes)
    assert [one.key for one in result.classes] == keys
    assert [one.volume_ml for one in result.classes] == pytest.approx(
        [total * VOXEL_ML for total in totals]
    )
    found = read_classes(DataDirectory(result.folder))
    assert [(one.value, one.key) for one in found] == list(enumerate(keys, start=1))
    case = result.cases[0]
    values = np.unique(read_volume(result.folder / case.label).array)
    assert values.tolist() == list(range(len(keys) + 1))
    assert read_cases(result.folder / "cases.csv")[0].truth_ml == pytest.approx(
        (sum(totals) - 10) / 5 * VOXEL_ML if "background" not in classes else 10 * VOXEL_ML, rel=0.2
    )


@pytest.mark.parametrize(
    "classes", ["", "IPH", "IPH=", "IPH=0", "IPH=300", "IPH=5-2", "IPH=1,IVH=1", "background=1"]
)
def test_classes_that_make_no_sense_are_a_usage_error(tmp_path: Path, classes: str) -> None:
    source = several(tmp_path / "source")
    with pytest.raises(UsageError):
        run(tmp_path, source, classes=classes)


def test_a_value_that_no_class_has_fails_its_scan(tmp_path: Path, source: Path) -> None:
    write_mask(source, label({1: 3, 7: 2}))
    result = run(tmp_path, source, classes="hemorrhage=1")
    assert result.failures == {"scan002": "its label holds 7; classes are given for 1"}


def test_names_with_spaces_umlauts_and_signs_become_ids(tmp_path: Path) -> None:
    names = ["Müller Jörg", "=cmd()", "a b/c".replace("/", "-"), "x\x1b[31m", "straße.1"]
    source = pairs_folder(tmp_path / "source", 5, names=names)
    result = run(tmp_path, source)
    assert sorted(case.scan for case in result.cases) == sorted(
        ["Müller_Jörg", "cmd", "a_b-c", "x_31m", "straße.1"]
    )
    assert [case.scan for case in read_cases(result.folder / "cases.csv")] == sorted(
        case.scan for case in result.cases
    )
    assert any(rule.startswith("renamed: ") for rule in result.rules)


def test_patients_come_from_a_pattern(tmp_path: Path) -> None:
    names = ["p1_a", "p1_b", "p2_a", "p3_a", "p4_a", "p5_a"]
    source = pairs_folder(tmp_path / "source", 6, names=names)
    result = run(tmp_path, source, patient_from=r"(p\d+)_")
    assert sorted({case.patient for case in result.cases}) == ["p1", "p2", "p3", "p4", "p5"]
    assert len({case.split for case in result.cases if case.patient == "p1"}) == 1
    with pytest.raises(UsageError, match="does not match"):
        run(tmp_path, source, patient_from="nobody")
    with pytest.raises(UsageError, match="not a regular expression"):
        run(tmp_path, source, patient_from="(")


@pytest.mark.parametrize(("count", "empty"), [(2, "test"), (3, "")])
def test_few_patients_fill_train_then_val_then_test(tmp_path: Path, count: int, empty: str) -> None:
    result = run(tmp_path, pairs_folder(tmp_path / "source", count))
    counts = result.split_counts()
    assert [split for split, number in counts.items() if not number] == ([empty] if empty else [])
    assert any("too few patients" in rule for rule in result.rules) == bool(empty)


@pytest.mark.parametrize("count", [75, 200])
def test_many_scans_are_dealt_out_evenly(tmp_path: Path, count: int) -> None:
    source = tmp_path / "source"
    for n in range(count):
        name = f"s{n:03d}.nii.gz"
        write_nifti(source / "images" / name, head(n))
        write_nifti(source / "labels" / name, label({1: (2, 10, 40)[n % 3]}))
    result = run(tmp_path, source, dry_run=True)
    counts = result.split_counts()
    assert counts["train"] == pytest.approx(0.6 * count, abs=2)
    assert counts["val"] == pytest.approx(0.2 * count, abs=2)
    for voxels in (2, 10, 40):
        of_size = [c for c in result.cases if c.truth_ml == pytest.approx(voxels * VOXEL_ML)]
        in_train = sum(case.split == "train" for case in of_size)
        assert in_train == pytest.approx(0.6 * len(of_size), abs=2)


def test_a_name_of_another_data_set_is_not_taken_over(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    (folder / "cases.csv").write_text("scan,split\n")
    with pytest.raises(UsageError, match="was not imported"):
        run(tmp_path, source)
    for name in ("../x", "", "A", "a/b"):
        with pytest.raises(UsageError, match="not the name of a data set"):
            import_dataset(config_for(tmp_path), ImportRequest(source, name=name))


def test_the_command_prints_one_object_and_exits_1_where_a_scan_failed(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mask(source, WANTED, moved(5.0))
    command = ["import", str(source), "--name", "mine", "--workers", "2", "--json"]
    assert run_command([*command, "--set", f"data.root={tmp_path / 'data'}"]) == 1
    payload = json.loads(capsys.readouterr().out)
    assert (payload["scans"], list(payload["failures"])) == (4, ["scan002"])
    assert payload["layout"] == "folders"
    assert any("joined by name" in rule for rule in payload["rules"])


def test_the_published_labels_give_the_volumes_that_fetch_labels_gives(
    tmp_path: Path, shared_data: Path
) -> None:
    """The labels are both image and label here: geometry and volumes are what is compared."""
    from hemseg_cli.dataset.labels.fetch import fetch_labels

    settings = {"data.root": str(tmp_path / "data"), "fetch.source": str(shared_data / "hemseg")}
    config = load(None, options=settings | {"compute.workers": 0}, environ={})
    fetched = fetch_labels(config)
    some = sorted(fetched.cases, key=lambda case: case.scan)[::12]
    for case in some:
        mask = read_volume(fetched.folder / case.label)
        write_nifti(tmp_path / "source" / "labels" / f"{case.scan}.nii.gz", mask.array, mask.affine)
        seeded = np.random.default_rng(int(case.scan, 16)).normal(-300, 400, mask.array.shape)
        write_nifti(
            tmp_path / "source" / "images" / f"{case.scan}.nii.gz",
            seeded.astype(np.int16),
            mask.affine,
        )
    imported = {case.scan: case for case in run(tmp_path, tmp_path / "source").cases}
    for case in some:
        other = imported[case.scan]
        assert other.truth_ml == pytest.approx(case.truth_ml, rel=1e-6)
        assert other.voxel_volume_mm3 == pytest.approx(case.voxel_volume_mm3, rel=1e-6)
        assert other.n_slices == read_volume(fetched.folder / case.label).array.shape[2]


def test_the_real_scans_of_phe_sich_are_imported(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "phe-sich"
    if not folder.is_dir():
        pytest.skip("the real scans are not here")
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    source = tmp_path / "some"
    for kind in ("image", "hematoma"):
        (source / kind).mkdir(parents=True)
    for path in sorted((folder / "image").iterdir())[:6]:
        os.symlink(path, source / "image" / path.name)
        os.symlink(folder / "hematoma" / path.name, source / "hematoma" / path.name)
    result = import_dataset(
        config_for(tmp_path),
        ImportRequest(
            None, name="mine", images=source / "image", labels=source / "hematoma", dry_run=True
        ),
    )
    assert len(rows) >= len(result.cases) == 6
    assert result.failures == {}
    assert all(0.1 < (case.truth_ml or 0) < 200 for case in result.cases)
