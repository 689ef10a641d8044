"""What a person reads."""

from pathlib import Path

import pytest

from hemseg_cli.evaluation.display import interval, number, title
from hemseg_cli.evaluation.evaluate import EvaluationResult, evaluate
from tests.evaluation.toy import Workplace, block, make_workplace, truth


@pytest.fixture
def result(tmp_path: Path) -> EvaluationResult:
    place: Workplace = make_workplace(tmp_path)
    place.run("a", truth)
    place.run("b", lambda n: block(2 + 2 * n))
    return evaluate(place.config(), runs=["a", "b"])


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0.81234, "0.8123"), (-0.5, "-0.5000"), (83.476, "83.48")]
)
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_interval_without_bounds_is_undefined() -> None:
    assert interval({"ci_low": None, "ci_high": None}) == "undefined"
    assert interval({"ci_low": 0.25, "ci_high": 12.5}) == "[0.2500, 12.50]"


def test_surface_dice_is_named_with_its_tolerance() -> None:
    assert title("nsd_2.5mm") == "NSD at 2.5 mm"


def test_metrics_table_repeats_the_summary(result: EvaluationResult) -> None:
    table = result.tables()[2]
    assert table.title == "b, split test, native protocol, 4 scans"
    shown = {row[0]: row[1] for row in table.rows}
    assert shown["Dice"] == "0.6667"
    assert shown["volume error, mL"] == f"{-(2 + 4 + 6 + 8) * 8 * 1.2e-3 / 4:.4f}"
    assert "resamples of patients" in table.caption
    assert "larger of the two directed 95th percentiles" in table.caption


def test_strata_table_ends_with_the_agreement_of_volumes(result: EvaluationResult) -> None:
    table = result.tables()[1]
    assert list(table.rows[0])[:4] == ["volume", "<1 mL", "4", "1.0000 [1.0000, 1.0000]"]
    assert (
        "bias 0.0000 mL, limits of agreement [0.0000, 0.0000] mL, concordance 1.0000 (4 scans)"
        in table.caption
    )


def test_comparison_tables(result: EvaluationResult) -> None:
    pairs, ranking = result.tables()[-2:]
    dice = pairs.rows[0]
    assert list(dice)[:3] == ["Dice", "a - b", "0.3333"]
    assert [list(row)[:3] for row in ranking.rows] == [["1", "a", "1.0000"], ["2", "b", "0.6667"]]
    assert ranking.rows[0][-1] == "100%"
