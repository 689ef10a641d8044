"""The classes on the page: each by itself, what it was taken for, and their comparison."""

from pathlib import Path

import pytest

from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.reporting.class_tables import classes_table, confusion_table, dice_by_class
from hemseg_cli.reporting.comparison import comparison_tables
from hemseg_cli.reporting.report import report
from hemseg_cli.reporting.results import RunResults, read_run
from hemseg_cli.reporting.svg import tips_of
from tests.evaluation.class_toy import VOXEL_ML, add_run, label_map, make_place, perturbed
from tests.evaluation.toy import Workplace


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """Run `whole` predicts the truth, run `part` something near it; both are evaluated."""
    place = make_place(tmp_path)
    add_run(place, "part", [perturbed(n, seed=7) for n in range(6)])
    add_run(place, "whole", [label_map(n) for n in range(6)])
    evaluate(place.config(), runs=["part", "whole"])
    return place


def read(place: Workplace, *names: str) -> list[RunResults]:
    return [read_run(RunDirectory(place.root / "runs" / name), "test") for name in names]


def test_each_class_has_a_row_with_its_own_numbers(place: Workplace) -> None:
    table = classes_table(read(place, "whole"))
    assert table is not None
    texts = [dict(zip((c.key for c in table.columns), row, strict=True)) for row in table.texts()]
    assert [(row["class"], row["n_present"], row["n_missed"]) for row in texts] == [
        ("IPH", "6", "0"),
        ("SDH", "3", "0"),
        ("SAH", "2", "0"),
    ]
    assert texts[0]["dice"].startswith("1.0000")
    assert texts[0]["scan_sensitivity"] == "1.000 [0.541, 1.000]"  # Clopper and Pearson, 6 of 6
    assert texts[0]["scan_specificity"] == "\u2013"  # no scan is without it


def test_confusion_holds_the_true_volume_of_every_class(place: Workplace) -> None:
    table = confusion_table(read(place, "part"))
    assert table is not None
    assert [column.title for column in table.columns] == [
        *("Run", "True class", "as SAH (mL)", "as IPH (mL)", "as SDH (mL)", "as no class (mL)")
    ]
    for value, row in enumerate(table.rows, start=1):
        true_ml = sum(int((label_map(n) == value).sum()) for n in range(6)) * VOXEL_ML
        assert sum(row[2:]) == pytest.approx(true_ml)  # type: ignore[arg-type]


def test_runs_are_compared_in_each_class(place: Workplace) -> None:
    tables = {table.key: table for table in comparison_tables(read(place, "part", "whole"))}
    found = tables["comparison_classes"]
    assert [row[0] for row in found.rows[:3]] == ["IPH", "SDH", "SAH"]
    assert found.columns[0].key == "class"
    assert tables["comparison"].columns[0].key == "metric"  # one class: no such column


def test_dice_is_drawn_for_each_class(place: Workplace) -> None:
    figure = dice_by_class(read(place, "part", "whole"))
    assert figure is not None
    tips = tips_of(figure.wide)
    names = ["IPH", "SDH", "SAH"]
    assert [[tip.split("\n")[0] for tip in tips[run]] for run in ("0", "1")] == [names, names]
    assert [tip.split("Dice ")[1][:5] for tip in tips["1"]] == ["1.000"] * 3


def test_the_report_has_a_section_of_the_classes(place: Workplace) -> None:
    result = report(place.config(), runs=["whole"])
    page = result.html.read_text()
    assert '<a href="#classes">Classes</a>' in page
    assert "What each class was taken for" in page
    assert {"classes.csv", "confusion.csv"} <= {path.name for path in result.csv_files}
    assert "as no class (mL)" in result.markdown.read_text()


def test_one_class_has_no_such_section(place: Workplace) -> None:
    run = read(place, "whole")[0]
    run.summary.classes.clear()
    assert classes_table([run]) is None
    assert confusion_table([run]) is None
    assert dice_by_class([run]) is None
