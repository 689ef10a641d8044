import csv
import io

import pytest

from hemseg_cli.reporting.published import Estimate
from hemseg_cli.reporting.tables import (
    Column,
    ReportTable,
    Value,
    cell_text,
    p_value_text,
    to_csv,
    to_markdown,
)

DICE = Column("dice", "Dice", 3)
TABLE = ReportTable(
    "t",
    "Title",
    (Column("run", "Run"), DICE, Column("empty", "Nothing", 1)),
    (("a|b", Estimate(0.81234567, 0.7, 0.9), None), ("<i>_c_", 0.5, None)),
    "A note.",
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Estimate(0.81249, 0.7, 0.9), "0.812 [0.700, 0.900]"),
        (Estimate(0.5), "0.500"),
        (Estimate(None), "\u2013"),
        (None, "\u2013"),
        (-1.5, "\u22121.500"),
        (-0.0001, "0.000"),
        ("word", "word"),
    ],
)
def test_cells_as_people_read_them(value: Value, text: str) -> None:
    assert cell_text(value, DICE) == text


def test_csv_has_three_columns_for_an_estimate_and_full_precision() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0] == {
        "run": "a|b",
        "dice": "0.812346",
        "dice_ci_low": "0.7",
        "dice_ci_high": "0.9",
        "empty": "",
    }
    assert rows[1] == {
        "run": "<i>_c_",
        "dice": "0.5",
        "dice_ci_low": "",
        "dice_ci_high": "",
        "empty": "",
    }


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "@x", "-x"])
def test_csv_keeps_a_spreadsheet_from_running_a_name(name: str) -> None:
    table = ReportTable("t", "", (Column("scan", "Scan"),), ((name,),))
    assert to_csv(table).splitlines()[1] == f"'{name}"


def test_markdown_escapes_names_and_keeps_numbers() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[2] == "| Run | Dice | Nothing |"
    assert lines[3] == "|---|---:|---:|"
    assert lines[4] == "| a\\|b | 0.812 [0.700, 0.900] | \u2013 |"
    assert lines[5].startswith("| \\<i\\>\\_c\\_ | 0.500 |")


def test_columns_without_a_value_go() -> None:
    assert [column.key for column in TABLE.without_empty_columns().columns] == ["run", "dice"]


@pytest.mark.parametrize(
    ("p", "text"), [(0.04999, "0.050"), (0.0009, "< 0.001"), (1.0, "1.000"), (None, None)]
)
def test_p_values_as_papers_print_them(p: float | None, text: str | None) -> None:
    assert p_value_text(p) == text
