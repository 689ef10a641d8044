"""`evaluate` of label maps: each class and their union, from files to files."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from scipy.stats import beta

from hemseg_cli.core.classes import write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.evaluation.case_table import read_case_table
from hemseg_cli.evaluation.comparison import holm
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.evaluation.metric_table import metric_rows
from hemseg_cli.evaluation.summary import Scored, Summary, summarise
from hemseg_cli.imaging.nifti import Volume, write_volume
from tests.evaluation.class_toy import (
    AFFINE,
    PREDICTED,
    SCANS,
    SHAPE,
    SPACING_MM,
    TRUTH,
    VOXEL_ML,
    add_run,
    label_map,
    make_place,
    perturbed,
)
from tests.evaluation.toy import Workplace


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return make_place(tmp_path)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def one_hot(masks: np.ndarray[Any, Any]) -> torch.Tensor:
    """[1, 4, i, j, k]: background and the classes in order of the truth's values."""
    return torch.from_numpy(np.stack([masks == value for value in range(4)])[None]).float()


def test_every_class_equals_monai_on_one_hot_masks(place: Workplace) -> None:
    maps = [perturbed(n, seed=1) for n in range(6)]
    run = add_run(place, "a", maps)
    evaluate(place.config())
    rows = rows_of(run.evaluation_cases_file("test"))
    assert [row["class"] for row in rows[:4]] == ["union", "IPH", "SDH", "SAH"]

    for n, drawn in enumerate(maps):
        ours, theirs = one_hot(drawn), one_hot(label_map(n))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI warns of empty masks
            dice = compute_dice(ours, theirs, include_background=False)[0]
            iou = compute_iou(ours, theirs, include_background=False)[0]
            hd95 = compute_hausdorff_distance(
                ours, theirs, include_background=False, percentile=95, spacing=SPACING_MM
            )[0]

        for c, key in enumerate(("IPH", "SDH", "SAH")):
            row = next(row for row in rows if (row["scan"], row["class"]) == (f"scan{n}", key))
            if not (label_map(n) == c + 1).any():
                assert row["dice"] == row["hd95_mm"] == ""  # absent: no metric of its mask
                continue
            assert float(row["dice"]) == pytest.approx(float(dice[c]), abs=1e-5)
            assert float(row["iou"]) == pytest.approx(float(iou[c]), abs=1e-5)
            assert float(row["hd95_mm"]) == pytest.approx(float(hd95[c]), abs=1e-4)


def test_the_union_is_scored_as_one_mask(place: Workplace, tmp_path: Path) -> None:
    maps = [perturbed(n, seed=2) for n in range(6)]
    add_run(place, "a", maps)
    several = evaluate(place.config()).runs[0].summary

    alone = Workplace(tmp_path / "alone")
    make_place(alone.root)
    (alone.root / "data" / "toy" / "classes.toml").unlink()
    for n, scan in enumerate(SCANS):
        label = alone.root / "data" / "toy" / "test" / "label" / f"{scan}.nii.gz"
        write_volume(label, Volume((label_map(n) > 0).astype(np.uint8), AFFINE))
    alone.run("a", lambda n: None)
    for scan, drawn in zip(SCANS, maps, strict=True):
        file = alone.root / "runs" / "a" / "predictions" / "test" / f"{scan}.nii.gz"
        write_volume(file, Volume((drawn > 0).astype(np.uint8), AFFINE))
    one = evaluate(alone.config()).runs[0].summary

    assert one.classes == {}
    assert several.to_dict() | {"classes": {}} == one.to_dict()


def test_presence_of_a_class_has_exact_intervals(place: Workplace) -> None:
    # SDH is in scans 1, 3, 5: found in two of them, and seen once where there is none.
    maps = [label_map(n) for n in range(6)]
    maps[3][maps[3] == 2] = 0
    maps[4][0, 0, 0] = 2
    add_run(place, "a", maps)
    found = evaluate(place.config()).runs[0].summary.classes["SDH"]
    assert (found.n_present, found.n_absent) == (3, 3)
    assert (found.n_missed, found.n_false_positive) == (1, 1)
    for key in ("scan_sensitivity", "scan_specificity"):
        assert found.metrics[key].mean == pytest.approx(2 / 3)

    # Every scan has IPH and shows it: Clopper and Pearson's interval of 6 of 6.
    iph = evaluate(place.config()).runs[0].summary.classes["IPH"].metrics
    assert iph["scan_sensitivity"].mean == 1.0
    assert iph["scan_sensitivity"].ci_low == pytest.approx(beta.ppf(0.025, 6, 1), abs=1e-6)
    assert np.isnan(iph["scan_specificity"].mean)  # no scan is without it


def test_confusion_counts_the_volume_that_each_class_was_taken_for(place: Workplace) -> None:
    maps = [label_map(n) for n in range(6)]
    maps[0][(maps[0] == 1) & (np.arange(SHAPE[2]) == 3)] = 3  # a slice of 5 x 6 voxels
    maps[1][maps[1] == 2] = 0
    add_run(place, "a", maps)
    run = evaluate(place.config()).runs[0]
    iph, sdh = run.summary.classes["IPH"], run.summary.classes["SDH"]

    iph_ml = sum(int((label_map(n) == 1).sum()) for n in range(6)) * VOXEL_ML
    assert iph.taken_for_ml["SAH"] == pytest.approx(30 * VOXEL_ML)
    assert iph.taken_for_ml["IPH"] == pytest.approx(iph_ml - 30 * VOXEL_ML)
    assert (iph.taken_for_ml["SDH"], iph.taken_for_ml["none"]) == (0, 0)
    assert sdh.taken_for_ml["none"] == pytest.approx(18 * 3 * 4 * VOXEL_ML)


def test_the_summary_can_be_had_from_the_table_and_read_again(place: Workplace) -> None:
    run = add_run(place, "a", [perturbed(n, seed=3) for n in range(6)])
    config = place.config()
    written = evaluate(config).runs[0].summary
    table = read_case_table(run.evaluation_cases_file("test"), metric_rows("native", 2.0))
    again = summarise(table, config.evaluate, Scored("test", "toy", "toy", 0, TRUTH))
    assert again.to_dict() == written.to_dict()

    plain = json.loads(run.evaluation_summary_file("test").read_text())
    assert list(plain["classes"]) == ["IPH", "SDH", "SAH"]
    assert set(plain["classes"]["IPH"]["metrics"]) == set(plain["metrics"])
    assert Summary.from_dict(plain, place="summary.json").to_dict() == plain


def test_runs_are_compared_class_by_class_with_holm_over_the_classes(place: Workplace) -> None:
    add_run(place, "a", [perturbed(n, seed=4) for n in range(6)])
    add_run(place, "b", [label_map(n) for n in range(6)])
    comparison = evaluate(place.config(), runs=["a", "b"]).comparison
    assert comparison is not None

    dice = [pair for pair in comparison.by_class if pair.metric == "dice"]
    assert [pair.label_class for pair in dice] == ["IPH", "SDH", "SAH"]
    assert [pair.n for pair in dice] == [6, 3, 2]
    assert [pair.p_bootstrap_holm for pair in dice] == pytest.approx(
        holm([pair.p_bootstrap for pair in dice]), nan_ok=True
    )
    assert dice[0].p_bootstrap_holm >= dice[0].p_bootstrap
    # All classes together are one test: no correction.
    union = next(pair for pair in comparison.pairs if pair.metric == "dice")
    assert (union.label_class, union.p_bootstrap_holm) == ("", union.p_bootstrap)


def test_folders_of_label_maps_take_the_classes_beside_the_labels(
    place: Workplace, tmp_path: Path
) -> None:
    labels, masks = tmp_path / "labels", tmp_path / "masks"
    for n in range(2):
        write_volume(labels / f"x{n}.nii.gz", Volume(label_map(n), AFFINE))
        write_volume(masks / f"x{n}.nii.gz", Volume(label_map(n), AFFINE))
    write_classes(DataDirectory(labels), TRUTH)
    result = evaluate(place.config(), predictions=masks, labels=labels).runs[0].summary
    assert list(result.classes) == ["IPH", "SDH", "SAH"]
    assert result.classes["SDH"].metrics["dice"].mean == 1.0

    # A classes.toml beside the masks says what their values mean: here every class is another.
    write_classes(DataDirectory(masks), PREDICTED)
    mixed = evaluate(place.config(), predictions=masks, labels=labels).runs[0].summary
    assert mixed.classes["SDH"].metrics["dice"].mean == 0.0
    assert mixed.metrics["dice"].mean == 1.0


def test_a_scan_without_a_mask_is_missed_in_every_class(place: Workplace) -> None:
    run = add_run(place, "a", [label_map(n) for n in range(6)])
    run.prediction_file("test", "scan5").unlink()
    summary = evaluate(place.config(), allow_missing=True).runs[0].summary
    assert {key: found.n_missed for key, found in summary.classes.items()} == {
        "IPH": 1,
        "SDH": 1,
        "SAH": 1,
    }
    assert summary.classes["SAH"].metrics["dice"].mean == 0.5


def test_one_class_runs_are_scored_on_all_kinds_together(place: Workplace) -> None:
    run = place.run("one", lambda _: None)
    for n, scan in enumerate(SCANS):
        mask = (label_map(n) > 0).astype(np.uint8)
        write_volume(run.prediction_file("test", scan), Volume(mask, AFFINE))
    summary = evaluate(place.config()).runs[0].summary
    assert (summary.metrics["dice"].mean, summary.classes) == (1.0, {})


def test_values_of_no_class_are_refused_by_name(place: Workplace) -> None:
    maps = [label_map(n) for n in range(6)]
    run = add_run(place, "a", maps)
    wrong = maps[0].copy()
    wrong[0, 0, 0] = 9
    write_volume(run.prediction_file("test", "scan0"), Volume(wrong, AFFINE))
    result = evaluate(place.config())
    assert list(result.failures) == ["scan0"]
    assert "holds 9, which is none of the classes (1 SAH, 2 IPH, 3 SDH)" in result.failures["scan0"]


def test_the_papers_protocol_refuses_several_classes(place: Workplace) -> None:
    add_run(place, "a", [label_map(n) for n in range(6)])
    with pytest.raises(HemsegError, match="one class, hemorrhage; run a is scored with 3"):
        evaluate(place.config(evaluate__protocol="paper"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [*rows, rows[1]], "scan scan0, class IPH, stands in two rows"),
        (lambda rows: [row for row in rows if row["class"] != "union"], "no row of class union"),
        (lambda rows: [{**rows[0]}, {**rows[1], "taken_for_SAH_ml": "x"}], "taken_for_SAH_ml"),
    ],
)
def test_a_damaged_table_of_classes_is_refused_by_place(
    place: Workplace, change: Any, message: str
) -> None:
    run = add_run(place, "a", [label_map(n) for n in range(6)])
    evaluate(place.config())
    file = run.evaluation_cases_file("test")
    rows = change(rows_of(file))
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(FileFormatError, match=message):
        read_case_table(file, metric_rows("native", 2.0))


def test_the_tables_show_every_class(place: Workplace) -> None:
    add_run(place, "a", [perturbed(n, seed=5) for n in range(6)])
    add_run(place, "b", [label_map(n) for n in range(6)])
    tables = {table.title: table for table in evaluate(place.config(), runs=["a", "b"]).tables()}
    classes = tables["b: classes"]
    assert [row[:3] for row in classes.rows] == [
        ["IPH", "6", "0"],
        ["SDH", "3", "0"],
        ["SAH", "2", "0"],
    ]
    confusion = tables["b: what each class was taken for (mL)"]
    assert confusion.columns == ["true class", "SAH", "IPH", "SDH", "none"]
    differences = next(table for title, table in tables.items() if "class by class" in title)
    assert [row[0] for row in differences.rows][:3] == ["Dice, IPH", "Dice, SDH", "Dice, SAH"]
