"""What a person reads."""

from pathlib import Path

import pytest

from hemseg_cli.evaluation.evaluate import EvaluationResult, evaluate
from hemseg_cli.evaluation.metric_table import format_interval, format_number, format_p
from tests.evaluation.toy import Workplace, block, make_workplace, truth


@pytest.fixture
def result(tmp_path: Path) -> EvaluationResult:
    place: Workplace = make_workplace(tmp_path)
    place.run("a", truth)
    place.run("b", lambda n: block(2 + 2 * n))
    return evaluate(place.config(), runs=["a", "b"])


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (None, 4, "-"),
        (float("nan"), 2, "-"),
        (0.81234, 4, "0.8123"),
        (-0.00001, 2, "0.00"),
        (83.476, 2, "83.48"),
    ],
)
def test_numbers(value: float | None, digits: int, shown: str) -> None:
    assert format_number(value, digits) == shown


def test_interval_without_bounds_says_why() -> None:
    assert format_interval(None, None, 2) == "undefined"
    assert format_interval(None, None, 2, "too few") == "too few"
    assert format_interval(0.25, 12.5, 2) == "[0.25, 12.50]"


@pytest.mark.parametrize(
    ("p", "shown"),
    [
        (0.0499, "0.0499"),
        (0.0501, "0.0501"),
        (0.0009, "< 0.001"),
        (1.0, "1.000"),
        (None, "-"),
        (float("nan"), "-"),
    ],
)
def test_p_values_as_papers_print_them(p: float | None, shown: str) -> None:
    assert format_p(p) == shown


def test_metrics_table_repeats_the_summary(result: EvaluationResult) -> None:
    table = result.tables()[2]
    assert table.title == "b, split test, native protocol, 4 scans"
    shown = {row[0]: row[1] for row in table.rows}
    assert shown["Dice"] == "0.6667"
    assert shown["Volume error (mL)"] == f"{-(2 + 4 + 6 + 8) * 8 * 1.2e-3 / 4:.2f}"
    assert "resamples of patients" in table.caption
    definitions = {row[0]: row[-1] for row in table.rows}
    assert "larger of the two directed 95th percentiles" in definitions["HD95 (mm)"]
    assert "signed" in definitions["Relative volume difference"]


def test_strata_table_ends_with_the_agreement_of_volumes(result: EvaluationResult) -> None:
    table = result.tables()[1]
    assert list(table.rows[0])[:3] == ["volume <1 mL", "4", "1.0000 too few"]
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
