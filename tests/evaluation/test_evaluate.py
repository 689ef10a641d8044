"""`evaluate` from files to files.

Every number of the summary by hand, and every bad input by name.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.config import load
from hemseg_cli.core.cases import read_cases, with_shared_patients, write_cases
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.evaluation.bootstrap import Bootstrap
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.evaluation.metrics import diagonal_mm
from hemseg_cli.evaluation.paper_protocol import paper_interval
from hemseg_cli.imaging.nifti import Volume, write_volume
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
    "lesions_truth",
    "lesions_predicted",
    "lesions_detected",
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
        "method": "percentile",
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
    summary = evaluate(place.config()).runs[0].summary
    last = 2 * 8 / 32  # 8 of 16 layers in common
    dices = [2 / 3, 2 / 3, 2 / 3, last]
    found = summary["metrics"]["dice"]
    assert found["mean"] == pytest.approx(np.mean(dices))
    expected = Bootstrap().mean(dices, ["p0", "p1", "p2", "p2"])
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((expected.ci_low, expected.ci_high))
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
    strata = evaluate(place.config()).runs[0].summary["strata"]
    assert {
        name: (found["n"], round(found["dice"]["mean"], 4))
        for name, found in strata["tilt"].items()
    } == {
        "straight": (2, 1.0),
        "tilted": (2, 0.6667),
    }
    assert {name: found["n"] for name, found in strata["volume"].items()} == {"<1": 4}
    assert {
        name: (found["n"], round(found["dice"]["mean"], 4))
        for name, found in strata["class"].items()
    } == {
        "0": (2, 0.8333),
        "1": (1, 1.0),
    }


def test_missed_case_counts_and_is_told(place: Workplace) -> None:
    place.run("a", lambda n: np.zeros(SHAPE, dtype=np.uint8) if n == 0 else truth(n))
    result = evaluate(place.config())
    summary = result.runs[0].summary
    assert summary["n_missed"] == 1
    assert summary["metrics"]["dice"]["mean"] == pytest.approx(0.75)
    assert summary["metrics"]["hd95_mm"]["mean"] == pytest.approx(
        diagonal_mm(SHAPE, SPACING_MM) / 4
    )
    assert "1 missed scan counts with the scan's diagonal" in result.tables()[0].caption


def test_false_positive_on_a_scan_without_hemorrhage_is_counted_apart(place: Workplace) -> None:
    write_volume(
        place.root / "data/toy/test/label/scan0.nii.gz",
        Volume(np.zeros(SHAPE, dtype=np.uint8), AFFINE),
    )
    place.run("a", truth)
    summary = evaluate(place.config()).runs[0].summary
    assert (summary["n_false_positive"], summary["n_empty_truth"], summary["n_missed"]) == (1, 1, 0)
    assert summary["metrics"]["dice"] == {"mean": 1.0, "ci_low": 1.0, "ci_high": 1.0, "n": 3}
    assert summary["metrics"]["lesion_precision"]["mean"] == pytest.approx(0.75)


def test_missing_prediction_is_named_and_refused(place: Workplace) -> None:
    place.run("a", lambda n: None if n == 2 else truth(n))
    with pytest.raises(HemsegError, match=r"1 of 4 scans have no mask in .*: scan2") as error:
        evaluate(place.config())
    assert "--allow-missing" in error.value.hint


def test_allowed_missing_prediction_counts_as_missed(place: Workplace) -> None:
    place.run("a", lambda n: None if n == 2 else truth(n))
    summary = evaluate(place.config(), allow_missing=True).runs[0].summary
    assert (summary["n_missed"], summary["n_missing"], summary["n_cases"]) == (1, 1, 4)
    assert summary["metrics"]["dice"]["mean"] == pytest.approx(0.75)
    assert any("scan2" in warning for warning in summary["warnings"])


def test_one_case_has_an_undefined_interval_and_says_so(place: Workplace) -> None:
    table = place.root / "data/toy/cases.csv"
    write_cases(table, [case for case in read_cases(table) if case.scan in ("scan0", "scan9")])
    place.run("a", truth, scans=SCANS[:1])
    result = evaluate(place.config())
    assert result.runs[0].summary["metrics"]["dice"] == {
        "mean": 1.0,
        "ci_low": None,
        "ci_high": None,
        "n": 1,
    }
    assert "one patient only: intervals are undefined" in result.runs[0].summary["warnings"]
    assert result.tables()[0].rows[0][2] == "undefined"


def test_grids_that_differ_fail_the_case_and_spare_the_others(place: Workplace) -> None:
    run = place.run("a", truth)
    write_volume(run.prediction_file("test", "scan1"), Volume(truth(1)[:, :, :-1], AFFINE))
    shifted = AFFINE.copy()
    shifted[0, 3] += 3.0
    write_volume(run.prediction_file("test", "scan3"), Volume(truth(3), shifted))
    result = evaluate(place.config())
    assert set(result.failed) == {"scan1", "scan3"}
    assert "is not on the grid of" in result.failed["scan1"]
    assert result.runs[0].summary["n_cases"] == 2
    assert sum("was not scored" in warning for warning in result.runs[0].summary["warnings"]) == 2


def test_mask_in_another_orientation_is_the_same_mask(place: Workplace) -> None:
    run = place.run("a", half)
    flipped = AFFINE.copy()
    flipped[:3, 0] *= -1
    flipped[:3, 3] = AFFINE[:3, 3] + (SHAPE[0] - 1) * AFFINE[:3, 0]
    write_volume(run.prediction_file("test", "scan1"), Volume(half(1)[::-1], flipped))
    result = evaluate(place.config())
    assert not result.failed
    assert result.runs[0].summary["metrics"]["dice"]["mean"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [2, 255, -1])
def test_mask_with_other_values_is_named(place: Workplace, value: int) -> None:
    run = place.run("a", truth)
    write_volume(
        run.prediction_file("test", "scan0"), Volume(truth(0).astype(np.int16) * value, AFFINE)
    )
    assert f"it holds {value}" in evaluate(place.config()).failed["scan0"]


def test_label_with_other_values_is_named(place: Workplace) -> None:
    label = truth(1).astype(np.float32)
    label[0, 0, 0] = np.nan
    label[0, 0, 1] = 0.5
    write_volume(place.root / "data/toy/test/label/scan1.nii.gz", Volume(label, AFFINE))
    place.run("a", truth)
    failed = evaluate(place.config()).failed
    assert "scan1.nii.gz is not a mask of 0 and 1: it holds 0.5, 1, nan" in failed["scan1"]


def test_prediction_that_is_no_nifti_fails_its_case(place: Workplace) -> None:
    run = place.run("a", truth)
    run.prediction_file("test", "scan0").write_text("no mask")
    assert "is not a NIfTI file" in evaluate(place.config()).failed["scan0"]


def test_nothing_that_can_be_scored_is_an_error(place: Workplace) -> None:
    run = place.run("a", truth)
    for scan in SCANS:
        run.prediction_file("test", scan).write_text("no mask")
    with pytest.raises(HemsegError, match="no case of a could be scored"):
        evaluate(place.config())
    assert not run.evaluation_summary_file("test").exists()


def test_run_without_predictions(place: Workplace) -> None:
    place.run("a", lambda n: None)
    with pytest.raises(HemsegError, match="no predictions of split test") as error:
        evaluate(place.config())
    assert "hemseg predict --run a --split test" in error.value.hint


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
    warnings = evaluate(place.config()).runs[0].summary["warnings"]
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
    warnings = evaluate(place.config()).runs[0].summary["warnings"]
    assert len(cases) == 5
    assert any(
        warning.startswith("contaminated: 1 of 4 scans") and warning.endswith("scan1")
        for warning in warnings
    )


def test_train_split_says_that_it_was_trained_on(place: Workplace) -> None:
    place.run("a", truth, split="train", scans=("scan9",))
    warnings = evaluate(place.config(evaluate__split="train")).runs[0].summary["warnings"]
    assert any("was trained on split train" in warning for warning in warnings)


def test_truth_is_that_of_the_runs_own_data_set(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.run("a", truth)
    monkeypatch.chdir(place.root)
    result = evaluate(load(None, options={"compute.workers": 0}, environ={}))
    assert result.runs[0].summary["n_cases"] == 4


def test_paper_protocol_of_a_run(place: Workplace) -> None:
    run = place.run("a", lambda n: np.zeros(SHAPE, dtype=np.uint8) if n == 0 else half(n))
    summary = evaluate(place.config(evaluate__protocol="paper")).runs[0].summary
    rows = rows_of(run.evaluation_cases_file("test"))
    assert list(rows[0]) == [*COLUMNS, "hd95_voxel"]
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
    summary = result.runs[0].summary
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
    assert result.runs[0].summary["bootstrap"]["unit"] == "patient"
    assert result.runs[0].scores[0].metrics.truth_ml == pytest.approx(32 * VOXEL_MM3 / 1000)


def test_two_masks_of_one_scan_are_refused(place: Workplace) -> None:
    masks = place.run("a", truth).predictions("test")
    write_volume(masks / "scan0_mask.nii.gz", Volume(truth(0), AFFINE))
    with pytest.raises(HemsegError, match="both masks of scan scan0"):
        evaluate(place.config())


def test_predictions_without_labels_is_a_usage_error(place: Workplace) -> None:
    with pytest.raises(UsageError, match="belong together"):
        evaluate(place.config(), predictions=place.root)


def test_folder_that_is_not_there_is_named(place: Workplace) -> None:
    with pytest.raises(HemsegError, match=r"--labels .*nowhere is not a folder"):
        evaluate(place.config(), predictions=place.root, labels=place.root / "nowhere")


def test_runs_are_compared_on_the_scans_that_both_have(place: Workplace) -> None:
    place.run("a", truth)
    place.run("b", lambda n: None if n == 3 else half(n))
    result = evaluate(place.config(), runs=["a", "b"], allow_missing=True)
    assert result.comparison is not None
    assert (
        result.comparison["n_scans"],
        result.comparison["n_patients"],
        result.comparison["left_out"],
    ) == (3, 3, ["scan3"])
    dice = next(pair for pair in result.comparison["pairs"] if pair["metric"] == "dice")
    assert (dice["a"], dice["b"]) == ("a", "b")
    assert dice["difference"] == pytest.approx(1 / 3)
    assert [rank["run"] for rank in result.comparison["ranking"]] == ["a", "b"]
    assert [table.title for table in result.tables()][-2:] == [
        "Differences on 3 scans of 3 patients",
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
    summary = result.runs[0].summary
    assert (summary["n_empty_truth"], summary["n_false_positive"], summary["n_missed"]) == (4, 1, 0)
    assert summary["metrics"]["dice"] == {"mean": None, "ci_low": None, "ci_high": None, "n": 0}
    assert summary["metrics"]["lesion_precision"]["mean"] == 0.0
    assert json.loads(json.dumps(result.payload(), allow_nan=False))["comparison"]["ranking"] == []


def test_bca_and_its_numbers_reach_the_summary(place: Workplace) -> None:
    place.run("a", lambda n: half(n) if n else truth(n))
    summary = (
        evaluate(place.config(evaluate__method="bca", evaluate__bootstrap=500, evaluate__seed=3))
        .runs[0]
        .summary
    )
    expected = Bootstrap(samples=500, seed=3, method="bca").mean(
        [1.0, 2 / 3, 2 / 3, 2 / 3], ["p0", "p1", "p2", "p2"]
    )
    found = summary["metrics"]["dice"]
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((expected.ci_low, expected.ci_high))
    assert summary["bootstrap"]["method"] == "bca"


def test_tolerance_names_its_column(place: Workplace) -> None:
    run = place.run("a", half)
    summary = evaluate(place.config(evaluate__nsd_tolerance_mm=1.0)).runs[0].summary
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
    assert "scan2.nii.gz does not exist" in evaluate(place.config()).failed["scan2"]
