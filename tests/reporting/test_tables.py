import csv
import io
import re

import pytest

from hemseg_cli.reporting.published import Estimate
from hemseg_cli.reporting.tables import (
    Column,
    ReportTable,
    Value,
    cell_text,
    escape_markdown,
    to_csv,
    to_latex,
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
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:6]]
    assert cells[0] == ["Run", "Dice", "Nothing"]
    assert [cell[-1] for cell in cells[1]] == ["-", ":", ":"]
    assert cells[2] == ["a\\|b", "0.812 [0.700, 0.900]", "\u2013"]
    assert cells[3][:2] == ["\\<i\\>\\_c\\_", "0.500"]


def test_columns_without_a_value_go() -> None:
    assert [column.key for column in TABLE.without_empty_columns().columns] == ["run", "dice"]


def test_latex_escapes_names_and_aligns_numbers() -> None:
    text = to_latex(TABLE)
    assert r"\begin{tabular}{lrr}" in text
    assert r"a|b & 0.812 [0.700, 0.900] & -- \\" in text
    assert r"\textless{}i\textgreater{}\_c\_ & 0.500 & -- \\" in text
    assert r"\label{tab:t}" in text


@pytest.mark.parametrize("text", ["<script>x</script>", "<img src=x>", "&lt;b&gt;", "[a](b)"])
def test_markdown_shows_markup_as_text(text: str) -> None:
    escaped = escape_markdown(text)
    assert not re.search(r"(?<!\\)[<>\[\]]", escaped)
    assert "&lt;" not in escaped


def test_definitions_stand_below_the_markdown_table() -> None:
    table = ReportTable("t", "T", (Column("dice", "Dice", 3, "2 |P and T|"),), ((0.5,),))
    assert to_markdown(table).splitlines()[-1] == "- Dice: 2 \\|P and T\\|"
