"""`doctor --data`: each fault is made and named.

The published archives have exactly the known facts.
"""

import dataclasses
import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli.config import Config, load
from hemseg_cli.core.cases import Case, with_shared_patients, write_cases
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.dataset.health.dataset import DataHealth, check_data

SHAPE = (12, 10, 6)
AFFINE = np.diag([-2.0, -2.0, 5.0, 1.0])
VOXEL_MM3 = 20.0


def config_of(root: Path, dataset: str = "mine") -> Config:
    return load(
        options={"data.root": str(root), "data.dataset": dataset, "compute.workers": 0}, environ={}
    )


def save(
    path: Path,
    array: np.ndarray,
    affine: np.ndarray = AFFINE,
    *,
    sform: int = 1,
    qform: np.ndarray | None = None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.set_sform(affine, code=sform)
    image.set_qform(affine if qform is None else qform, code=1)
    nib.save(image, path)


def blood(voxels: int, dtype: type = np.int16) -> np.ndarray:
    label = np.zeros(SHAPE, dtype=dtype)
    label.reshape(-1)[:voxels] = 1
    return label


def case_of(scan: str, split: str, voxels: int, patient: str = "") -> Case:
    return Case(
        scan,
        patient=patient or f"P{scan}",
        split=split,
        n_slices=SHAPE[2],
        label=f"{split}/label/{scan}.nii.gz",
        image=f"{split}/image/{scan}.nii.gz",
        voxel_volume_mm3=VOXEL_MM3,
        truth_ml=voxels * VOXEL_MM3 / 1000,
    )


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    """Three scans of 0.8, 2 and 10 mL, label and image each."""
    folder = tmp_path / "mine"
    cases = [case_of("a", "train", 40), case_of("b", "val", 100), case_of("c", "test", 500)]
    for case, voxels in zip(cases, (40, 100, 500), strict=True):
        save(folder / case.label, blood(voxels))
        save(folder / case.image, np.full(SHAPE, 30, dtype=np.int16))
    write_cases(folder / "cases.csv", cases)
    return tmp_path


def faults(health: DataHealth) -> list[tuple[str, str]]:
    return [(fault.scan, fault.kind) for fault in health.faults]


def test_healthy_data_set_has_no_fault_and_counts_everything(healthy: Path) -> None:
    health = check_data(config_of(healthy))
    payload = health.payload()
    assert health.ok
    assert (payload["scans"], payload["labels"], payload["images"]) == (3, 3, 3)
    assert payload["volume_strata_ml"]["<1"] == {"train": 1, "val": 0, "test": 0}
    assert payload["volume_strata_ml"]["5-30"] == {"train": 0, "val": 0, "test": 1}
    assert payload["truth_ml"] == {"total": pytest.approx(12.8), "median": pytest.approx(2.0)}
    assert payload["tilt_deg"]["0-0.5"] == 3
    assert payload["warnings"] == []


def test_worker_processes_find_the_same(healthy: Path) -> None:
    (healthy / "mine" / "train" / "label" / "a.nii.gz").write_bytes(b"\x1f\x8b damaged")
    alone = check_data(config_of(healthy))
    config = load(
        options={"data.root": str(healthy), "data.dataset": "mine", "compute.workers": 2},
        environ={},
    )
    assert check_data(config).payload() == alone.payload()


def test_missing_label_is_a_fault_and_a_missing_image_a_warning(healthy: Path) -> None:
    (healthy / "mine" / "train" / "label" / "a.nii.gz").unlink()
    (healthy / "mine" / "val" / "image" / "b.nii.gz").unlink()
    health = check_data(config_of(healthy))
    assert faults(health) == [("a", "missing label")]
    assert health.missing_labels == ["a"]
    assert health.missing_images == ["b"]
    assert any("no image yet: b" in line for line in health.warnings())


@pytest.mark.parametrize("kind", ["label", "image"])
def test_cut_off_file_is_unreadable(healthy: Path, kind: str) -> None:
    file = healthy / "mine" / "test" / kind / "c.nii.gz"
    file.write_bytes(file.read_bytes()[:-12])
    health = check_data(config_of(healthy))
    assert faults(health) == [("c", "unreadable")]
    assert str(file) in health.faults[0].message


def test_image_of_another_shape_is_a_grid_mismatch(healthy: Path) -> None:
    save(healthy / "mine" / "train" / "image" / "a.nii.gz", np.zeros((12, 10, 7), dtype=np.int16))
    health = check_data(config_of(healthy))
    assert faults(health) == [("a", "grid mismatch")]
    assert "the label is 12 x 10 x 6 voxels" in health.faults[0].message
    assert "the image 12 x 10 x 7 voxels" in health.faults[0].message


def test_image_shifted_by_half_a_pixel_is_a_grid_mismatch_and_by_rounding_is_not(
    healthy: Path,
) -> None:
    for scan, split, shift in (("a", "train", 0.25), ("b", "val", 0.01)):
        affine = AFFINE.copy()
        affine[2, 3] += shift
        save(
            healthy / "mine" / split / "image" / f"{scan}.nii.gz",
            np.zeros(SHAPE, dtype=np.int16),
            affine,
        )
    assert faults(check_data(config_of(healthy))) == [("a", "grid mismatch")]


@pytest.mark.parametrize(
    ("value", "dtype"), [(2, np.int16), (-1, np.int16), (255, np.uint8), (0.5, np.float32)]
)
def test_odd_label_values_are_named(healthy: Path, value: float, dtype: type) -> None:
    label = blood(40, dtype)
    label[5, 5, 3] = value
    save(healthy / "mine" / "train" / "label" / "a.nii.gz", label)
    health = check_data(config_of(healthy))
    assert ("a", "odd values") in faults(health)
    assert f"holds {value:g} beside 0 and 1" in next(
        fault.message for fault in health.faults if fault.kind == "odd values"
    )


def test_empty_label_is_a_warning(healthy: Path) -> None:
    folder = healthy / "mine"
    save(folder / "train" / "label" / "d.nii.gz", blood(0))
    save(folder / "train" / "image" / "d.nii.gz", np.zeros(SHAPE, dtype=np.int16))
    write_cases(folder / "cases.csv", [case_of("d", "train", 0)])
    health = check_data(config_of(healthy))
    assert health.ok
    assert health.empty_labels == ["d"]


def test_verdict_says_what_train_would_refuse(healthy: Path) -> None:
    assert check_data(config_of(healthy)).refusals() == []

    save(healthy / "mine/val/label/b.nii.gz", blood(0))
    write_cases(
        healthy / "mine/cases.csv",
        [
            case_of("a", "train", 40),
            case_of("b", "val", 0),
            case_of("c", "test", 500),
        ],
    )
    (healthy / "mine/train/image/a.nii.gz").unlink()
    health = check_data(config_of(healthy))

    assert health.ok
    assert health.refusals() == [
        "1 scans of split train have no image: a",
        "no label of split val has any hemorrhage",
    ]
    verdict = health.tables()[-1]
    assert [row[0] for row in verdict.rows] == [
        "nothing is wrong",
        *(f"train would refuse: {line}" for line in health.refusals()),
    ]


def test_split_without_scans_is_named(healthy: Path) -> None:
    write_cases(healthy / "mine/cases.csv", [case_of("a", "train", 40), case_of("c", "test", 500)])

    (line,) = check_data(config_of(healthy)).refusals()
    assert line.startswith("split val has no scans")


def test_case_table_that_disagrees_with_the_label_is_a_fault(healthy: Path) -> None:
    wrong = dataclasses.replace(case_of("a", "train", 40), truth_ml=0.9, n_slices=7)
    write_cases(healthy / "mine" / "cases.csv", [wrong])
    health = check_data(config_of(healthy))
    assert [fault.message for fault in health.faults] == [
        "7 slices in the case table, 6 in the label",
        "truth_ml = 0.9 in the case table, 0.8 in the label",
    ]


def test_sform_and_qform_that_disagree_are_a_fault(healthy: Path) -> None:
    other = AFFINE.copy()
    other[0, 3] = 4.0
    save(healthy / "mine" / "train" / "label" / "a.nii.gz", blood(40), qform=other)
    health = check_data(config_of(healthy))
    assert faults(health) == [("a", "sform/qform")]
    assert "4 mm apart" in health.faults[0].message


def test_label_without_sform_is_a_warning(healthy: Path) -> None:
    save(healthy / "mine" / "train" / "label" / "a.nii.gz", blood(40), sform=0)
    health = check_data(config_of(healthy))
    assert health.ok
    assert health.without_sform == ["a"]


def test_tilted_labels_are_counted_by_angle(healthy: Path) -> None:
    tilt = np.radians(18.0)
    affine = AFFINE.copy()
    affine[:3, 1] = -2.0 * np.array([0.0, np.cos(tilt), -np.sin(tilt)])
    affine[:3, 2] = 5.0 * np.array([0.0, np.sin(tilt), np.cos(tilt)])
    for kind, array in (("label", blood(40)), ("image", np.zeros(SHAPE, dtype=np.int16))):
        save(healthy / "mine" / "train" / kind / "a.nii.gz", array, affine)
    health = check_data(config_of(healthy))
    assert health.tilted == 1
    assert health.tilts()["15-20"] == 1
    assert health.tilts()["0-0.5"] == 2


def test_patients_in_two_splits_are_named_and_do_not_fail(healthy: Path) -> None:
    cases = [
        case_of("a", "train", 40, "P1"),
        case_of("b", "val", 100, "P1"),
        case_of("c", "test", 500, "P2"),
    ]
    write_cases(healthy / "mine" / "cases.csv", with_shared_patients(cases))
    health = check_data(config_of(healthy))
    assert health.ok
    assert health.leaking_patients() == {"P1": ["train/a", "val/b"]}


def test_test_scans_that_another_data_set_trains_on_are_named(healthy: Path) -> None:
    other = healthy / "other"
    write_cases(
        other / "cases.csv",
        [Case("c", split="train"), Case("a", split="test"), Case("z", split="train")],
    )
    health = check_data(config_of(healthy))
    found = {
        (overlap.trained_on, overlap.tested_on): overlap.in_train for overlap in health.overlaps
    }
    assert found == {("other", "mine"): ("c",), ("mine", "other"): ("a",)}


def test_files_that_no_row_names_are_strays(healthy: Path) -> None:
    save(healthy / "mine" / "train" / "image" / "q.nii.gz", np.zeros(SHAPE, dtype=np.int16))
    assert check_data(config_of(healthy)).strays == ("train/image/q.nii.gz",)


def test_data_set_without_case_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HemsegError, match="no case table"):
        check_data(config_of(tmp_path))


def lay_out(source: Path, folder: Path, archive: str, manifest: str) -> None:
    """The published labels out of the zip, with a case table of ids, patients and splits."""
    rows = [
        json.loads(line) for line in (source / manifest).read_text().splitlines() if line.strip()
    ]
    patients = {
        row.get("scan_", row.get("scan_name")): row.get("patient", row.get("patient_name"))
        for row in rows
    }
    cases = []
    with zipfile.ZipFile(source / archive) as packed:
        for member in packed.namelist():
            if member.endswith(".nii.gz"):
                split, scan = Path(member).parts[1], Path(member).name.removesuffix(".nii.gz")
                cases.append(
                    Case(scan, patients[scan], split, label=f"{split}/label/{scan}.nii.gz")
                )
                (folder / split / "label").mkdir(parents=True, exist_ok=True)
                (folder / cases[-1].label).write_bytes(packed.read(member))
    write_cases(folder / "cases.csv", cases)


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DataHealth]:
    root = tmp_path_factory.mktemp("published")
    lay_out(
        shared_data / "hemseg", root / "hemseg-200", "IPH_IVH_label.zip", "annotion_file_info.jsonl"
    )
    lay_out(
        shared_data / "hemseg",
        root / "hemseg-500",
        "HemSeg-500.zip",
        "annotion_file_info_500.jsonl",
    )
    return {
        dataset: check_data(config_of(root, dataset)) for dataset in ("hemseg-200", "hemseg-500")
    }


def test_published_labels_pass_and_are_all_there(published: dict[str, DataHealth]) -> None:
    assert {name: health.payload()["labels"] for name, health in published.items()} == {
        "hemseg-200": 222,
        "hemseg-500": 525,
    }
    assert {name: health.payload()["patients"] for name, health in published.items()} == {
        "hemseg-200": 209,
        "hemseg-500": 503,
    }
    assert [health.faults for health in published.values()] == [(), ()]
    assert [health.empty_labels for health in published.values()] == [[], []]


def test_published_splits_leak_4_and_8_patients(published: dict[str, DataHealth]) -> None:
    assert sorted(published["hemseg-200"].leaking_patients()) == [
        "ID_2b75e193",
        "ID_3b4accbe",
        "ID_bfb9a9e6",
        "ID_c7097cd4",
    ]
    assert len(published["hemseg-500"].leaking_patients()) == 8


def test_33_test_scans_of_hemseg_200_are_in_the_train_split_of_hemseg_500(
    published: dict[str, DataHealth],
) -> None:
    for health in published.values():
        overlaps = {(overlap.trained_on, overlap.tested_on): overlap for overlap in health.overlaps}
        assert len(overlaps["hemseg-500", "hemseg-200"].in_train) == 33


def test_50_published_labels_have_no_sform_and_339_are_tilted(
    published: dict[str, DataHealth],
) -> None:
    assert len(published["hemseg-500"].without_sform) == 50
    assert published["hemseg-500"].tilted == 339
    assert sum(published["hemseg-500"].tilts().values()) == 525
