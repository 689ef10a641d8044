"""`evaluate` from files to files.

Every number of the summary by hand, and every bad input by name.
"""

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.stats import binomtest

from hemseg_cli.config import load
from hemseg_cli.core.cases import Case, read_cases, with_shared_patients, write_cases
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.evaluation.bootstrap import Bootstrap
from hemseg_cli.evaluation.case_table import read_case_table
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.evaluation.metric_table import metric_rows
from hemseg_cli.evaluation.metrics import diagonal_mm
from hemseg_cli.evaluation.paper_protocol import PAPER_GRID, paper_interval
from hemseg_cli.evaluation.scoring import CaseFiles, score_case
from hemseg_cli.evaluation.summary import Scored, Summary, summarise
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.imaging.preprocess import prepare_label
from tests.evaluation.toy import (
    AFFINE,
    SCANS,
    SHAPE,
    SPACING_MM,
    VOXEL_MM3,
    Workplace,
    block,
    make_workplace,
    truth,
)

COLUMNS = [
    "scan",
    "patient",
    "split",
    "dice",
    "iou",
    "hd95_mm",
    "nsd_2mm",
    "truth_ml",
    "predicted_ml",
    "volume_error_ml",
    "abs_volume_error_ml",
    "relative_volume_difference",
    "abs_relative_volume_difference",
    "lesions_truth",
    "lesions_predicted",
    "lesions_detected",
    "lesions_false",
    "lesion_f1_case",
    "tilt_deg",
    "scan_class",
    "mask",
    "label_sha256",
]
PAPER_COLUMNS = [
    name
    for name in COLUMNS
    if "hd95" not in name and "nsd" not in name and "_f1" not in name
    if "error" not in name and "difference" not in name
]
KEYS = {
    "protocol",
    "split",
    "n_cases",
    "n_missed",
    "n_false_positive",
    "metrics",
    "bootstrap",
    "strata",
    "warnings",
}


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return make_workplace(tmp_path)


def half(n: int) -> Any:
    """The first half of the n-th truth: Dice 2/3, IoU 1/2."""
    return block(2 + 2 * n)


def add_scans(place: Workplace, count: int) -> None:
    """More test scans, each of a patient of its own, 4 voxels long, some tilted."""
    folder = place.root / "data" / "toy"
    cases = read_cases(folder / "cases.csv")
    for n in range(count):
        label = f"test/label/more{n}.nii.gz"
        write_volume(folder / label, Volume(block(4), AFFINE))
        cases.append(
            Case(
                f"more{n}",
                f"q{n}",
                "test",
                SHAPE[2],
                label,
                voxel_volume_mm3=VOXEL_MM3,
                tilt_deg=12.0 * (n % 3),
            )
        )
    write_cases(folder / "cases.csv", cases)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_have_the_columns_and_keys_of_the_design(place: Workplace) -> None:
    run = place.run("a", half)
    evaluate(place.config())
    rows = rows_of(run.evaluation_cases_file("test"))
    assert list(rows[0]) == COLUMNS
    assert [row["scan"] for row in rows] == list(SCANS)
    summary = json.loads(run.evaluation_summary_file("test").read_text())
    assert set(summary) >= KEYS
    assert summary["bootstrap"] == {
        "samples": 1000,
        "confidence": 0.95,
        "seed": 47,
        "unit": "patient",
        "method": "studentised",
    }


def test_every_number_of_a_case_by_hand(place: Workplace) -> None:
    run = place.run("a", half)
    evaluate(place.config())
    row = rows_of(run.evaluation_cases_file("test"))[
        1
    ]  # truth 8 x 4 x 2 voxels, prediction its first 4 x 4 x 2
    assert (row["patient"], row["split"]) == ("p1", "test")
    assert float(row["dice"]) == pytest.approx(2 / 3, abs=1e-5)
    assert float(row["iou"]) == pytest.approx(0.5)
    # Truth's surface runs up to 4 voxels (2 mm) beyond the prediction; the outermost of 8 layers
    # holds 1/8 of it, so the 95th is 2 mm.
    assert float(row["hd95_mm"]) == pytest.approx(2.0)
    assert float(row["nsd_2mm"]) == 1.0
    assert float(row["truth_ml"]) == pytest.approx(64 * VOXEL_MM3 / 1000)
    assert float(row["predicted_ml"]) == pytest.approx(32 * VOXEL_MM3 / 1000)
    assert float(row["volume_error_ml"]) == pytest.approx(-32 * VOXEL_MM3 / 1000)
    assert (row["lesions_truth"], row["lesions_predicted"], row["lesions_detected"]) == (
        "1",
        "1",
        "1",
    )


def test_means_rates_and_intervals_of_the_summary(place: Workplace) -> None:
    place.run("a", lambda n: half(n) if n < 3 else block(16, shift=8))
    summary = evaluate(place.config()).runs[0].summary.to_dict()
    last = 2 * 8 / 32  # 8 of 16 layers in common
    dices = [2 / 3, 2 / 3, 2 / 3, last]
    found = summary["metrics"]["dice"]
    assert found["mean"] == pytest.approx(np.mean(dices))
    assert (found["ci_low"], found["ci_high"], found["method"]) == (None, None, "too few")
    errors = np.array([-2, -4, -6, 0]) * 8 * VOXEL_MM3 / 1000
    assert summary["metrics"]["volume_error_ml"]["mean"] == pytest.approx(errors.mean())
    assert summary["metrics"]["abs_volume_error_ml"]["mean"] == pytest.approx(abs(errors).mean())
    assert summary["metrics"]["relative_volume_difference"]["mean"] == pytest.approx(
        np.mean([-0.5, -0.5, -0.5, 0])
    )
    assert summary["metrics"]["lesion_sensitivity"]["mean"] == 1.0
    assert summary["agreement"]["bias_ml"] == pytest.approx(errors.mean())
    assert summary["agreement"]["loa_high_ml"] == pytest.approx(
        errors.mean() + 1.96 * errors.std(ddof=1)
    )
    assert summary["n_cases"] == 4


def test_strata_by_tilt_and_volume_and_class(place: Workplace) -> None:
    (place.root / "data" / "toy" / "test_set.csv").write_text(
        "filename,label\nscan0.nii.gz,1\nscan1,0\nscan2,0\n"
    )
    place.run("a", lambda n: half(n) if n % 2 else truth(n))
    strata = evaluate(place.config()).runs[0].summary.to_dict()["strata"]
    assert {
        name: (found["n"], round(found["metrics"]["dice"]["mean"], 4))
        for name, found in strata["tilt"].items()
    } == {
        "straight": (2, 1.0),
        "tilted": (2, 0.6667),
    }
    assert {name: found["n"] for name, found in strata["volume"].items()} == {"<1": 4}
    assert {
        name: (found["n"], round(found["metrics"]["dice"]["mean"], 4))
        for name, found in strata["class"].items()
    } == {
        "0": (2, 0.8333),
        "1": (1, 1.0),
    }


def test_missed_case_counts_and_is_told(place: Workplace) -> None:
    place.run("a", lambda n: np.zeros(SHAPE, dtype=np.uint8) if n == 0 else truth(n))
    result = evaluate(place.config())
    summary = result.runs[0].summary.to_dict()
    assert summary["n_missed"] == 1
    assert summary["metrics"]["dice"]["mean"] == pytest.approx(0.75)
    assert summary["metrics"]["hd95_mm"]["mean"] == pytest.approx(
        diagonal_mm(SHAPE, SPACING_MM) / 4
    )
    assert "1 missed scan counts with Dice 0 and the scan's diagonal" in result.tables()[0].caption


def test_false_positive_on_a_scan_without_hemorrhage_is_counted_apart(place: Workplace) -> None:
    write_volume(
        place.root / "data/toy/test/label/scan0.nii.gz",
        Volume(np.zeros(SHAPE, dtype=np.uint8), AFFINE),
    )
    place.run("a", truth)
    summary = evaluate(place.config()).runs[0].summary.to_dict()
    assert (summary["n_false_positive"], summary["n_empty_truth"], summary["n_missed"]) == (1, 1, 0)
    assert summary["metrics"]["dice"] == {
        "mean": 1.0,
        "ci_low": None,
        "ci_high": None,
        "n": 3,
        "method": "too few",
    }
    assert summary["metrics"]["lesion_precision"]["mean"] == pytest.approx(0.75)


def test_missing_prediction_is_named_and_refused(place: Workplace) -> None:
    place.run("a", lambda n: None if n == 2 else truth(n))
    with pytest.raises(HemsegError, match=r"1 of 4 scans have no mask in .*: scan2") as error:
        evaluate(place.config())
    assert "--allow-missing" in error.value.hint


def test_allowed_missing_prediction_counts_as_missed(place: Workplace) -> None:
    place.run("a", lambda n: None if n == 2 else truth(n))
    summary = evaluate(place.config(), allow_missing=True).runs[0].summary.to_dict()
    assert (summary["n_missed"], summary["n_missing"], summary["n_cases"]) == (1, 1, 4)
    assert summary["metrics"]["dice"]["mean"] == pytest.approx(0.75)
    assert any("scan2" in warning for warning in summary["warnings"])


def test_one_case_has_an_undefined_interval_and_says_so(place: Workplace) -> None:
    table = place.root / "data/toy/cases.csv"
    write_cases(table, [case for case in read_cases(table) if case.scan in ("scan0", "scan9")])
    place.run("a", truth, scans=SCANS[:1])
    result = evaluate(place.config())
    assert result.runs[0].summary.to_dict()["metrics"]["dice"] == {
        "mean": 1.0,
        "ci_low": None,
        "ci_high": None,
        "n": 1,
        "method": "too few",
    }
    assert (
        "one patient only: intervals are undefined" in result.runs[0].summary.to_dict()["warnings"]
    )
    assert result.tables()[0].rows[0][2] == "too few"


def test_grids_that_differ_fail_the_case_and_spare_the_others(place: Workplace) -> None:
    run = place.run("a", truth)
    write_volume(run.prediction_file("test", "scan1"), Volume(truth(1)[:, :, :-1], AFFINE))
    shifted = AFFINE.copy()
    shifted[0, 3] += 3.0
    write_volume(run.prediction_file("test", "scan3"), Volume(truth(3), shifted))
    result = evaluate(place.config())
    assert set(result.failures) == {"scan1", "scan3"}
    assert "is not on the grid of" in result.failures["scan1"]
    assert result.runs[0].summary.to_dict()["n_cases"] == 2
    assert (
        sum("was not scored" in warning for warning in result.runs[0].summary.to_dict()["warnings"])
        == 2
    )


def test_mask_in_another_orientation_is_the_same_mask(place: Workplace) -> None:
    run = place.run("a", half)
    flipped = AFFINE.copy()
    flipped[:3, 0] *= -1
    flipped[:3, 3] = AFFINE[:3, 3] + (SHAPE[0] - 1) * AFFINE[:3, 0]
    write_volume(run.prediction_file("test", "scan1"), Volume(half(1)[::-1], flipped))
    result = evaluate(place.config())
    assert not result.failures
    assert result.runs[0].summary.to_dict()["metrics"]["dice"]["mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [2, 255, -1])
def test_mask_with_other_values_is_named(place: Workplace, value: int) -> None:
    run = place.run("a", truth)
    write_volume(
        run.prediction_file("test", "scan0"), Volume(truth(0).astype(np.int16) * value, AFFINE)
    )
    assert f"it holds {value}" in evaluate(place.config()).failures["scan0"]


def test_label_with_other_values_is_named(place: Workplace) -> None:
    label = truth(1).astype(np.float32)
    label[0, 0, 0] = np.nan
    label[0, 0, 1] = 0.5
    write_volume(place.root / "data/toy/test/label/scan1.nii.gz", Volume(label, AFFINE))
    place.run("a", truth)
    failed = evaluate(place.config()).failures
    assert "scan1.nii.gz is not a mask of 0 and 1: it holds 0.5, 1, nan" in failed["scan1"]


def test_prediction_that_is_no_nifti_fails_its_case(place: Workplace) -> None:
    run = place.run("a", truth)
    run.prediction_file("test", "scan0").write_text("no mask")
    assert "is no image file: a text file" in evaluate(place.config()).failures["scan0"]


def test_nothing_that_can_be_scored_is_an_error(place: Workplace) -> None:
    run = place.run("a", truth)
    for scan in SCANS:
        run.prediction_file("test", scan).write_text("no mask")
    with pytest.raises(HemsegError, match="no case of a could be scored"):
        evaluate(place.config())
    assert not run.evaluation_summary_file("test").exists()


def test_run_without_predictions(place: Workplace) -> None:
    run = place.run("a", lambda n: None)
    with pytest.raises(HemsegError, match="no predictions of split test") as error:
        evaluate(place.config())
    assert f"hemseg predict --run {run.path} --split test" in error.value.hint


def test_split_without_cases_names_those_there_are(place: Workplace) -> None:
    place.run("a", truth, split="val")
    with pytest.raises(HemsegError, match="split val has no cases") as error:
        evaluate(place.config(evaluate__split="val"))
    assert "test, train" in error.value.hint


def test_hand_edited_case_table_with_a_bad_number(place: Workplace) -> None:
    table = place.root / "data/toy/cases.csv"
    table.write_text(table.read_text().replace("1.2", "1,2x").replace('"', ""))
    place.run("a", truth)
    with pytest.raises(
        FileFormatError, match=r"cases.csv, line 2: voxel_volume_mm3 = '1'|is not a number"
    ):
        evaluate(place.config())


def test_scans_that_share_a_patient_with_training_are_warned_of(place: Workplace) -> None:
    table = place.root / "data/toy/cases.csv"
    text = table.read_text().replace("scan9,p9", "scan9,p1")
    table.write_text(text)
    write_cases(table, with_shared_patients(read_cases(table)))
    place.run("a", truth)
    warnings = evaluate(place.config()).runs[0].summary.to_dict()["warnings"]
    assert "1 of 4 scans share a patient with another split: scan1" in warnings


def test_run_of_another_data_set_that_trained_on_these_scans_is_contaminated(
    place: Workplace,
) -> None:
    bigger = place.root / "data" / "bigger"
    shutil.copytree(place.root / "data" / "toy", bigger)
    cases = read_cases(bigger / "cases.csv")
    table = (bigger / "cases.csv").read_text().replace("scan1,p1,test", "scan1,p1,train")
    (bigger / "cases.csv").write_text(table)
    run = place.run("a", truth)
    run.config_file.write_text(f'[data]\nroot = "{place.root / "data"}"\ndataset = "bigger"\n')
    shutil.copytree(run.predictions("test"), run.on("toy").predictions("test"))
    warnings = evaluate(place.config()).runs[0].summary.to_dict()["warnings"]
    assert len(cases) == 5
    assert any(
        warning.startswith("contaminated: 1 of 4 scans") and warning.endswith("scan1")
        for warning in warnings
    )


def test_train_split_says_that_it_was_trained_on(place: Workplace) -> None:
    place.run("a", truth, split="train", scans=("scan9",))
    warnings = evaluate(place.config(evaluate__split="train")).runs[0].summary.to_dict()["warnings"]
    assert any("was trained on split train" in warning for warning in warnings)


def test_truth_is_that_of_the_runs_own_data_set(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run("a", truth)
    monkeypatch.chdir(place.root)
    result = evaluate(load(None, options={"compute.workers": 0}, environ={}))
    assert result.runs[0].summary.to_dict()["n_cases"] == 4


def test_paper_protocol_of_a_run(place: Workplace) -> None:
    run = place.run("a", lambda n: np.zeros(SHAPE, dtype=np.uint8) if n == 0 else half(n))
    summary = evaluate(place.config(evaluate__protocol="paper")).runs[0].summary.to_dict()
    rows = rows_of(run.evaluation_cases_file("test"))
    assert sorted(rows[0]) == sorted([*PAPER_COLUMNS, "hd95_voxel"])
    assert rows[0]["hd95_voxel"] == ""
    assert set(summary["metrics"]) == {"dice", "iou", "hd95_voxel"}
    assert summary["metrics"]["hd95_voxel"]["n"] == 3
    dices = [float(row["dice"]) for row in rows]
    expected = paper_interval(dices)
    assert summary["metrics"]["dice"]["mean"] == pytest.approx(expected.mean, abs=1e-4)
    assert summary["metrics"]["dice"]["ci_low"] == pytest.approx(expected.ci_low, abs=1e-4)
    assert summary["bootstrap"] == {
        "samples": 5000,
        "confidence": 0.95,
        "seed": 47,
        "unit": "case",
        "method": "published",
    }
    assert any("1 of 4 cases have no hd95_voxel" in warning for warning in summary["warnings"])


def test_two_processes_give_what_one_gives(place: Workplace) -> None:
    run = place.run("a", half)
    evaluate(place.config())
    alone = run.evaluation_cases_file("test").read_text()
    evaluate(place.config(compute__workers=2))
    assert run.evaluation_cases_file("test").read_text() == alone


def test_folders_of_another_tool_join_by_name(place: Workplace) -> None:
    masks, labels = place.root / "masks", place.root / "labels"
    for n, name in enumerate(("b_mask.nii.gz", "a.nii.gz", "c.nii")):
        write_volume(masks / name, Volume(truth(n), AFFINE))
    for n, name in enumerate(("b.nii.gz", "a.nii.gz", "c.nii.gz")):
        write_volume(labels / name, Volume(truth(n), AFFINE))
    write_volume(masks / "stray.nii.gz", Volume(truth(0), AFFINE))
    result = evaluate(place.config(), predictions=masks, labels=labels)
    summary = result.runs[0].summary.to_dict()
    assert summary["metrics"]["dice"]["mean"] == 1.0
    assert summary["bootstrap"]["unit"] == "case"
    assert any("stray" in warning for warning in summary["warnings"])
    rows = rows_of(masks / "evaluation" / "cases.csv")
    assert [row["scan"] for row in rows] == ["a", "b", "c"]
    assert float(rows[1]["truth_ml"]) == pytest.approx(
        32 * 1.25 / 1000
    )  # the header's voxel volume


def test_folder_of_labels_of_the_data_set_knows_patients_and_volumes(place: Workplace) -> None:
    masks = place.run("a", truth).predictions("test")
    result = evaluate(place.config(), predictions=masks, labels=place.root / "data/toy/test/label")
    assert result.runs[0].summary.to_dict()["bootstrap"]["unit"] == "patient"
    assert result.runs[0].table["truth_ml"][0] == pytest.approx(32 * VOXEL_MM3 / 1000)


def test_two_masks_of_one_scan_are_refused(place: Workplace) -> None:
    masks = place.run("a", truth).predictions("test")
    write_volume(masks / "scan0_mask.nii.gz", Volume(truth(0), AFFINE))
    with pytest.raises(HemsegError, match="both masks of scan scan0"):
        evaluate(place.config())


def test_labels_without_predictions_is_a_usage_error(place: Workplace) -> None:
    with pytest.raises(UsageError, match="--labels without --predictions"):
        evaluate(place.config(), labels=place.root)


def test_masks_of_another_tool_are_scored_against_the_data_sets_split(place: Workplace) -> None:
    masks = place.run("a", truth).predictions("test")
    expected = evaluate(place.config()).runs[0]
    # Other tools put an ending behind the name, in letters of any case, or write other formats.
    renamed = place.root / "theirs"
    renamed.mkdir()
    endings = ("_seg.nii.gz", "-label.NII.GZ", "_Mask.nrrd", ".mha")
    for number, mask in enumerate(sorted(masks.glob("*.nii.gz"))):
        image = sitk.ReadImage(str(mask))
        name = mask.name.removesuffix(".nii.gz") + endings[number % len(endings)]
        sitk.WriteImage(image, str(renamed / name.lower()))
        (renamed / name.lower()).rename(renamed / name)

    found = evaluate(place.config(), predictions=renamed).runs[0]
    assert found.summary.to_dict()["metrics"]["dice"] == pytest.approx(
        expected.summary.to_dict()["metrics"]["dice"]
    )
    assert list(found.table["scan"]) == list(expected.table["scan"])
    assert list(found.table["patient"]) == list(expected.table["patient"])


def test_masks_that_fit_no_scan_are_named_in_the_hint(place: Workplace) -> None:
    masks = place.run("a", truth).predictions("test")
    first = sorted(masks.glob("*.nii.gz"))[0]
    first.rename(first.with_name(f"x{first.name}"))
    with pytest.raises(HemsegError, match=r"1 of .* scans have no mask") as error:
        evaluate(place.config(), predictions=masks)
    assert f"x{first.name} fit no scan" in str(error.value.hint)


def test_a_scan_whose_own_name_ends_as_a_labels_keeps_its_name(tmp_path: Path) -> None:
    for folder in ("masks", "labels"):
        for name in ("a", "a_seg"):
            write_volume(tmp_path / folder / f"{name}.nii.gz", Volume(truth(0), AFFINE))
    folders = {"predictions": tmp_path / "masks", "labels": tmp_path / "labels"}
    found = evaluate(load(environ={}), **folders).runs[0]
    assert list(found.table["scan"]) == ["a", "a_seg"]

    # A label that no mask shares its full name with is that of the shorter name.
    (tmp_path / "labels/a_seg.nii.gz").rename(tmp_path / "labels/a_label.nii.gz")
    with pytest.raises(HemsegError, match="both masks of scan a"):
        evaluate(load(environ={}), **folders)


def test_folder_that_is_not_there_is_named(place: Workplace) -> None:
    masks, nowhere = place.run("a", truth).predictions("test"), place.root / "nowhere"
    with pytest.raises(HemsegError, match=r"--labels .*nowhere is not a folder"):
        evaluate(place.config(), predictions=masks, labels=nowhere)
    with pytest.raises(HemsegError, match=r"--predictions .*nowhere is not a folder"):
        evaluate(place.config(), predictions=nowhere)


def test_a_scan_that_one_run_missed_counts_in_the_comparison(place: Workplace) -> None:
    place.run("a", truth)
    place.run("b", lambda n: None if n == 3 else half(n))
    result = evaluate(place.config(), runs=["a", "b"], allow_missing=True)
    assert result.comparison is not None
    found = result.comparison.to_dict()
    assert (found["n_scans"], found["n_patients"], found["left_out"]) == (4, 3, [])
    assert found["without_mask"] == ["scan3"]
    dice = next(pair for pair in found["pairs"] if pair["metric"] == "dice")
    assert (dice["a"], dice["b"]) == ("a", "b")
    # The missed scan counts with Dice 0: (3 * 1/3 + 1) / 4; without it 1/3 is left.
    assert dice["difference"] == pytest.approx(0.5, abs=1e-5)
    complete = next(pair for pair in found["complete_case"] if pair["metric"] == "dice")
    assert complete["difference"] == pytest.approx(1 / 3, abs=1e-5)
    assert [rank["run"] for rank in found["ranking"]] == ["a", "b"]
    assert [table.title for table in result.tables()][-3:] == [
        "Differences on 4 scans of 3 patients",
        "Complete cases: differences on the 3 scans that every run has a mask of",
        "Ranking",
    ]


def test_runs_on_different_splits_do_not_compare(place: Workplace) -> None:
    other = place.root / "data" / "other"
    shutil.copytree(place.root / "data" / "toy", other)
    write_cases(
        other / "cases.csv",
        [case for case in read_cases(other / "cases.csv") if case.scan != "scan3"],
    )
    place.run("a", truth)
    run = place.run("b", truth)
    run.config_file.write_text(f'[data]\nroot = "{place.root / "data"}"\ndataset = "other"\n')
    config = place.config().model_copy(update={"data": type(place.config().data)()})
    with pytest.raises(
        HemsegError, match=r"split test of a and of b differ: 1 scans are only in a's \(scan3\)"
    ):
        evaluate(config, runs=["a", "b"])


def test_runs_on_different_labels_do_not_compare(place: Workplace) -> None:
    other = place.root / "data" / "other"
    shutil.copytree(place.root / "data" / "toy", other)
    write_volume(other / "test/label/scan1.nii.gz", Volume(half(1), AFFINE))
    place.run("a", truth)
    run = place.run("b", truth)
    run.config_file.write_text(f'[data]\nroot = "{place.root / "data"}"\ndataset = "other"\n')
    config = place.config().model_copy(update={"data": type(place.config().data)()})
    with pytest.raises(
        HemsegError, match="a and b were scored against different labels of 1 scans: scan1"
    ):
        evaluate(config, runs=["a", "b"])


def test_split_without_any_hemorrhage_has_counts_and_no_means(place: Workplace) -> None:
    empty = np.zeros(SHAPE, dtype=np.uint8)
    for scan in SCANS:
        write_volume(place.root / f"data/toy/test/label/{scan}.nii.gz", Volume(empty, AFFINE))
    place.run("a", lambda n: truth(n) if n == 0 else empty)
    place.run("b", lambda n: empty)
    result = evaluate(place.config(), runs=["a", "b"])
    summary = result.runs[0].summary.to_dict()
    assert (summary["n_empty_truth"], summary["n_false_positive"], summary["n_missed"]) == (4, 1, 0)
    assert summary["metrics"]["dice"] == {
        "mean": None,
        "ci_low": None,
        "ci_high": None,
        "n": 0,
        "method": "",
    }
    assert summary["metrics"]["lesion_precision"]["mean"] == 0.0
    assert json.loads(json.dumps(result.payload(), allow_nan=False))["comparison"]["ranking"] == []


def test_bca_and_its_numbers_reach_the_summary(place: Workplace) -> None:
    add_scans(place, 24)
    scans = [*SCANS, *(f"more{n}" for n in range(24))]
    place.run("a", lambda n: block(2 + n % 3) if n >= 4 else half(n), scans=scans)
    config = place.config(evaluate__method="bca", evaluate__bootstrap=500, evaluate__seed=3)
    run = evaluate(config).runs[0]
    patients = [
        patient or scan for scan, patient in zip(run.table.scan, run.table.patient, strict=True)
    ]
    expected = Bootstrap(samples=500, seed=3, method="bca").mean(run.table["dice"], patients)
    found = run.summary.metrics["dice"]
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.ci_low, expected.ci_high))
    assert (found.method, run.summary.bootstrap.method) == ("bca", "bca")


def test_tolerance_names_its_column(place: Workplace) -> None:
    run = place.run("a", half)
    summary = evaluate(place.config(evaluate__nsd_tolerance_mm=1.0)).runs[0].summary.to_dict()
    assert "nsd_1mm" in summary["metrics"]
    assert "nsd_1mm" in rows_of(run.evaluation_cases_file("test"))[0]


def test_run_is_scored_once_however_it_is_named(place: Workplace) -> None:
    place.run("a", half)
    result = evaluate(place.config(), runs=["a", "latest", "a"])
    assert [run.name for run in result.runs] == ["a"]
    assert result.comparison is None


def test_label_that_is_not_there_fails_its_case(place: Workplace) -> None:
    place.run("a", truth)
    (place.root / "data/toy/test/label/scan2.nii.gz").unlink()
    assert "scan2.nii.gz does not exist" in evaluate(place.config()).failures["scan2"]


def test_every_number_of_the_summary_follows_from_the_table_of_the_cases(place: Workplace) -> None:
    add_scans(place, 8)
    write_volume(
        place.root / "data/toy/test/label/scan0.nii.gz",
        Volume(np.zeros(SHAPE, dtype=np.uint8), AFFINE),
    )
    masks = [truth(0), half(1), None, block(5, shift=9)]
    masks += [block(2 + n % 4, shift=4 * (n == 6)) for n in range(8)]
    scans = [*SCANS, *(f"more{n}" for n in range(8))]
    run = place.run("a", lambda n: masks[n], scans=scans)
    evaluate(place.config(), allow_missing=True)
    written = json.loads(run.evaluation_summary_file("test").read_text())

    # By the file alone, in plain Python.
    rows = rows_of(run.evaluation_cases_file("test"))
    hemorrhage = [row for row in rows if float(row["truth_ml"]) > 0]
    assert written["n_empty_truth"] == len(rows) - len(hemorrhage) == 1
    assert written["n_missing"] == sum(row["mask"] == "missing" for row in rows) == 1
    assert written["n_missed"] == sum(float(row["predicted_ml"]) == 0 for row in hemorrhage)
    assert written["n_false_positive"] == 1

    def column(name: str, chosen: list[dict[str, str]]) -> list[float]:
        return [float(row[name]) for row in chosen if row[name] != ""]

    for name in ("dice", "iou", "hd95_mm", "nsd_2mm"):
        values = column(name, rows)
        assert len(values) == len(hemorrhage)
        assert written["metrics"][name]["mean"] == pytest.approx(np.mean(values))
    for name in ("volume_error_ml", "abs_volume_error_ml", "lesion_f1_case"):
        assert written["metrics"][name]["mean"] == pytest.approx(np.mean(column(name, rows)))
    for name in ("relative_volume_difference", "abs_relative_volume_difference"):
        assert written["metrics"][name]["mean"] == pytest.approx(np.mean(column(name, rows)))

    count = {name: sum(column(f"lesions_{name}", rows)) for name in written["lesions"]}
    assert written["lesions"] == count
    assert count["false"] > 0
    rates = {
        "lesion_sensitivity": count["detected"] / count["truth"],
        "lesion_precision": 1 - count["false"] / count["predicted"],
        "lesion_f1": 2 * count["detected"] / (count["detected"] + count["truth"] + count["false"]),
    }
    for name, rate in rates.items():
        assert written["metrics"][name]["mean"] == pytest.approx(rate)

    tilted = [row for row in rows if abs(float(row["tilt_deg"])) > 0.5]
    assert written["strata"]["tilt"]["tilted"]["n"] == len(tilted)
    assert written["strata"]["tilt"]["tilted"]["metrics"]["dice"]["mean"] == pytest.approx(
        np.mean(column("dice", tilted))
    )
    assert written["strata"]["volume"]["<1"]["n"] == len(hemorrhage)

    # The intervals too: the summary of the table that was read back is the one written.
    config = place.config().evaluate
    table = read_case_table(run.evaluation_cases_file("test"), metric_rows("native", 2.0))
    again = summarise(table, config, Scored("test")).to_dict()
    for key in ("metrics", "strata", "agreement", "lesions"):
        assert again[key] == written[key]


def test_summary_comes_back_as_it_was_written(place: Workplace) -> None:
    run = place.run("a", half)
    summary = evaluate(place.config()).runs[0].summary
    written = json.loads(run.evaluation_summary_file("test").read_text())
    assert Summary.from_dict(written, place="x").to_dict() == summary.to_dict() == written


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("n_cases", "many", "n_cases"),
        ("metrics", [1, 2], "metrics"),
        ("metrics", {"dice": {"mean": {}}}, "metrics.dice.mean"),
        ("strata", {"volume": 3}, "strata.volume"),
        ("bootstrap", None, "bootstrap"),
        ("protocol", "papr", "protocol"),
        ("format", 99, "form 99"),
    ],
)
def test_summary_of_another_form_is_named(
    place: Workplace, key: str, value: Any, words: str
) -> None:
    place.run("a", half)
    written = evaluate(place.config()).runs[0].summary.to_dict()
    with pytest.raises(FileFormatError, match=words):
        Summary.from_dict(written | {key: value}, place="summary.json")


@pytest.mark.parametrize("values", [None, [], "text", {}])
def test_what_is_no_summary_is_named(values: Any) -> None:
    with pytest.raises(FileFormatError, match=r"summary\.json is not a summary"):
        Summary.from_dict(values, place="summary.json")


def test_results_go_where_out_says_and_read_only_masks_stay(place: Workplace) -> None:
    place.run("a", truth)
    masks = place.root / "runs/a/predictions/test"
    out = place.root / "elsewhere"
    labels = place.root / "data/toy/test/label"
    result = evaluate(place.config(), predictions=masks, labels=labels, out=out)
    assert result.runs[0].summary_file == out / "summary.json"
    assert not (masks / "evaluation").exists()
    place.run("b", half)
    several = evaluate(place.config(), runs=["a", "b"], out=out)
    assert [run.cases_file for run in several.runs] == [
        out / "a" / "cases.csv",
        out / "b" / "cases.csv",
    ]


def test_run_trained_on_one_data_set_and_scored_on_another_says_both(place: Workplace) -> None:
    shutil.copytree(place.root / "data" / "toy", place.root / "data" / "other")
    run = place.run("a", truth)
    run.config_file.write_text(f'[data]\nroot = "{place.root / "data"}"\ndataset = "other"\n')
    shutil.copytree(run.predictions("test"), run.on("toy").predictions("test"))
    result = evaluate(place.config())
    summary = result.runs[0].summary
    assert (summary.dataset, summary.trained_on) == ("toy", "other")
    assert any("trained on data set other and is scored on toy" in w for w in summary.warnings)
    assert "of toy (trained on other)" in result.tables()[0].title


def test_project_that_was_moved_is_scored_where_it_lies_now(place: Workplace) -> None:
    run = place.run("a", truth)
    run.config_file.write_text('[data]\nroot = "/nowhere/data"\ndataset = "toy"\n')
    config = place.config()
    stated = config.data.model_copy(update={})
    stated.model_fields_set.discard("root")
    assert evaluate(config.model_copy(update={"data": stated})).runs[0].summary.n_cases == 4


def test_a_name_that_a_spreadsheet_would_run_is_kept_from_it(place: Workplace) -> None:
    table = place.root / "data/toy/cases.csv"
    table.write_text(table.read_text().replace("scan1,p1", "scan1,=1+1"))
    run = place.run("a", half)
    evaluate(place.config())
    assert rows_of(run.evaluation_cases_file("test"))[1]["patient"] == "'=1+1"
    read = read_case_table(run.evaluation_cases_file("test"), metric_rows("native", 2.0))
    assert read["patient"][1] == "=1+1"


def test_paper_protocol_says_which_masks_were_resampled(place: Workplace) -> None:
    run = place.run("a", half)
    config = place.config(evaluate__protocol="paper")
    resampled = evaluate(config)
    assert resampled.runs[0].summary.n_resampled == 4
    assert "RESAMPLED" in resampled.tables()[0].caption
    for n, scan in enumerate(SCANS):
        own = prepare_label(Volume(truth(n), AFFINE), PAPER_GRID)
        write_volume(run.network_mask_file("test", scan), Volume(own, np.eye(4)))
    own_grid = evaluate(config)
    assert own_grid.runs[0].summary.n_resampled == 0
    assert own_grid.runs[0].summary.metrics["dice"].mean == 1.0
    assert "RESAMPLED" not in own_grid.tables()[0].caption


def test_oblique_label_of_unknown_origin_is_taken_by_its_header_and_said(place: Workplace) -> None:
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:3, 1] = (0, np.cos(angle), -np.sin(angle))
    affine[:3, 2] = np.array((0, np.sin(angle), np.cos(angle))) * 5
    masks, labels = place.root / "masks", place.root / "labels"
    for folder in (masks, labels):
        write_volume(folder / "a.nii.gz", Volume(truth(0), affine))
    run = evaluate(place.config(), predictions=masks, labels=labels).runs[0]
    assert run.table["truth_ml"][0] == pytest.approx(32 * 5 / 1000)
    assert any(
        "5 mm3 a voxel, as the header says; 4.698 mm3" in warning
        for warning in run.summary.warnings
    )


@pytest.mark.parametrize(("voxel_mm3", "sheared"), [(5 * np.cos(np.radians(20)), True), (5, False)])
def test_distances_follow_the_voxel_that_the_case_table_knows(
    tmp_path: Path, voxel_mm3: float, sheared: bool
) -> None:
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:3, 1] = (0, np.cos(angle), -np.sin(angle))
    affine[:3, 2] = np.array((0, np.sin(angle), np.cos(angle))) * 5
    label, mask = np.zeros((2, 9, 9, 5), dtype=np.uint8)
    label[4, 4, 1] = mask[4, 6, 3] = 1
    write_volume(tmp_path / "label.nii.gz", Volume(label, affine))
    write_volume(tmp_path / "mask.nii.gz", Volume(mask, affine))
    files = CaseFiles(
        "a",
        tmp_path / "label.nii.gz",
        tmp_path / "mask.nii.gz",
        voxel_volume_mm3=voxel_mm3,
        tilt_deg=20.0,
    )
    # Two pixels and two slices apart: at right angles, or with the slices straight above.
    expected = np.sqrt(4 + 100 - 40 * np.sin(angle) * sheared)
    assert score_case(files).values["hd95_mm"] == pytest.approx(expected)


def test_false_alarms_are_reported_by_scan_and_volume(tmp_path: Path) -> None:
    # Ten scans without hemorrhage, three with a false alarm of 8, 16 and 24 voxels of 1.2 mm3.
    scans = [f"clean{n}" for n in range(10)]
    folder = tmp_path / "data" / "toy"
    empty = np.zeros(SHAPE, dtype=np.uint8)
    cases = []
    for scan in scans:
        case = Case(scan, patient=scan, split="test", label=f"test/label/{scan}.nii.gz")
        cases.append(dataclasses.replace(case, voxel_volume_mm3=VOXEL_MM3))
        write_volume(folder / case.label, Volume(empty, AFFINE))
    write_cases(folder / "cases.csv", cases)
    place = Workplace(tmp_path)
    place.run("clean", lambda n: block(n + 1) if n < 3 else empty, scans=scans)

    summary = evaluate(place.config(), runs=["clean"]).runs[0].summary
    assert (summary.n_empty_truth, summary.n_false_positive) == (10, 3)
    rate = summary.metrics["scan_specificity"]
    assert rate.mean == 0.7
    exact = binomtest(7, 10).proportion_ci(method="exact")
    # A little wider: ten patients tell badly how alike scans are (Korn and Graubard).
    assert rate.method == "exact"
    assert (rate.ci_low, rate.ci_high) == pytest.approx((exact.low, exact.high), abs=0.03)
    assert rate.ci_low < exact.low < exact.high < rate.ci_high
    alarm = summary.metrics["false_alarm_ml"]
    assert (alarm.mean, alarm.n) == (pytest.approx((8 + 16 + 24) * VOXEL_MM3 / 1000 / 10), 10)
