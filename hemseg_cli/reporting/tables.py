"""The tables of a report. One table serves the page, the Markdown file, the CSV file and the terminal."""

import csv
import io
from dataclasses import dataclass, field

from hemseg_cli.reporting.published import Estimate

Value = str | float | int | Estimate | None
UNDEFINED = "\u2013"


@dataclass(frozen=True)
class Column:
    """A column: `key` in the CSV file, `title` with its unit for people.

    `digits`: decimals of its numbers; None for words.
    """

    key: str
    title: str
    digits: int | None = None


@dataclass(frozen=True)
class ReportTable:
    """A table with its name and a note that says how to read it.

    `marks`: row index -> a word on the row (a style class of the page).
    """

    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    note: str = ""
    marks: dict[int, str] = field(default_factory=dict)

    def texts(self) -> list[list[str]]:
        """The cells as people read them."""
        return [self.texts_of(row) for row in self.rows]

    def texts_of(self, row: tuple[Value, ...]) -> list[str]:
        """The cells of one row as people read them."""
        return [cell_text(value, column) for value, column in zip(row, self.columns, strict=True)]

    def without_empty_columns(self) -> "ReportTable":
        """The same without columns that have no value in any row."""
        kept = [
            n
            for n in range(len(self.columns))
            if any(row[n] not in (None, "") for row in self.rows)
        ]
        return ReportTable(
            self.key,
            self.title,
            tuple(self.columns[n] for n in kept),
            tuple(tuple(row[n] for n in kept) for row in self.rows),
            self.note,
            self.marks,
        )


def cell_text(value: Value, column: Column) -> str:
    """A cell as people read it: a mean with its interval as `0.84 [0.80, 0.88]`.

    What is undefined as a dash.
    """
    digits = column.digits if column.digits is not None else 3
    if value is None:
        return UNDEFINED
    if isinstance(value, str):
        return value
    if not isinstance(value, Estimate):
        return _fixed(value, digits)
    if value.mean is None:
        return UNDEFINED
    if value.low is None or value.high is None:
        return _fixed(value.mean, digits)
    return (
        f"{_fixed(value.mean, digits)} [{_fixed(value.low, digits)}, {_fixed(value.high, digits)}]"
    )


def sort_value(value: Value) -> float | str | None:
    """What a column is sorted by."""
    return value.mean if isinstance(value, Estimate) else value


def p_value_text(p: float | None) -> str | None:
    """A p-value as papers print it: three decimals, `< 0.001` below that."""
    if p is None:
        return None
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def to_csv(table: ReportTable) -> str:
    """The table as CSV with full precision; an estimate takes three columns.

    Mean, `_ci_low`, `_ci_high`. Undefined is empty.
    """
    wide = [
        any(isinstance(row[n], Estimate) for row in table.rows) for n in range(len(table.columns))
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header: list[str] = []
    for column, is_wide in zip(table.columns, wide, strict=True):
        header += (
            [column.key, f"{column.key}_ci_low", f"{column.key}_ci_high"]
            if is_wide
            else [column.key]
        )
    writer.writerow(header)
    for row in table.rows:
        cells: list[str] = []
        for value, is_wide in zip(row, wide, strict=True):
            cells += _estimate_cells(value) if is_wide else [_csv_cell(value)]
        writer.writerow(cells)
    return text.getvalue()


def to_markdown(table: ReportTable) -> str:
    """The table as a GitHub pipe table under its title, the note below."""
    lines = [f"### {_markdown_text(table.title)}", ""]
    lines.append("| " + " | ".join(_markdown_text(column.title) for column in table.columns) + " |")
    lines.append(
        "|" + "|".join("---" if column.digits is None else "---:" for column in table.columns) + "|"
    )
    for row, texts in zip(table.rows, table.texts(), strict=True):
        cells = [
            _markdown_text(text) if isinstance(value, str) else text
            for value, text in zip(row, texts, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if table.note:
        lines += ["", _markdown_text(table.note)]
    return "\n".join(lines) + "\n"


def numeric_titles(table: ReportTable) -> frozenset[str]:
    """The titles of the columns that hold numbers."""
    return frozenset(column.title for column in table.columns if column.digits is not None)


def _estimate_cells(value: Value) -> list[str]:
    if isinstance(value, Estimate):
        return [_csv_cell(value.mean), _csv_cell(value.low), _csv_cell(value.high)]
    return [_csv_cell(value), "", ""]


def _csv_cell(value: Value) -> str:
    if value is None or isinstance(value, Estimate):
        return ""
    if isinstance(value, float):
        return repr(round(value, 6))
    text = str(value)
    # A spreadsheet runs a cell that starts so as a formula.
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "\u2212")


def _markdown_text(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no cell border."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())
