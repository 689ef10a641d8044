"""The tables of a report: one serves the page, Markdown, LaTeX, the CSV file and the terminal."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hemseg_cli.core.files import table_text
from hemseg_cli.reporting.published import Estimate

if TYPE_CHECKING:
    from pandas import DataFrame

Value = str | float | int | Estimate | None
UNDEFINED = "\u2013"


@dataclass(frozen=True)
class Column:
    """A column: `key` in the CSV file, `title` with its unit for people.

    `digits`: decimals of its numbers; None for words. `definition`: what the number means, shown
    with the column.
    """

    key: str
    title: str
    digits: int | None = None
    definition: str = ""


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
        few = f" ({value.method})" if value.method == "too few" else ""
        return _fixed(value.mean, digits) + few
    return (
        f"{_fixed(value.mean, digits)} [{_fixed(value.low, digits)}, {_fixed(value.high, digits)}]"
    )


def sort_value(value: Value) -> float | str | None:
    """What a column is sorted by."""
    return value.mean if isinstance(value, Estimate) else value


def to_frame(table: ReportTable) -> "DataFrame":
    """Return the table with full precision; an estimate takes three columns.

    Mean, `_ci_low`, `_ci_high`. What is undefined is empty.
    """
    import pandas  # slow to import

    # A column is wide where any row has an interval, else rows would not line up.
    columns: list[str] = []
    cells: list[list[object]] = [[] for _ in table.rows]
    for n, column in enumerate(table.columns):
        wide = any(isinstance(row[n], Estimate) for row in table.rows)
        endings = ("", "_ci_low", "_ci_high") if wide else ("",)
        columns += [column.key + ending for ending in endings]
        for row, line in zip(table.rows, cells, strict=True):
            value = row[n]
            parts = (
                (value.mean, value.low, value.high)
                if isinstance(value, Estimate)
                else (value, None, None)
            )
            line += parts[: len(endings)]
    return pandas.DataFrame(cells, columns=columns, dtype=object)


def to_csv(table: ReportTable) -> str:
    """Return the table as CSV."""
    return table_text(to_frame(table))


def to_markdown(table: ReportTable) -> str:
    """Return the table as a GitHub pipe table under its title, the note and definitions below."""
    import pandas  # slow to import

    frame = pandas.DataFrame(
        [
            [
                escape_markdown(text) if isinstance(value, str) else text
                for value, text in zip(row, texts, strict=True)
            ]
            for row, texts in zip(table.rows, table.texts(), strict=True)
        ],
        columns=[escape_markdown(column.title) for column in table.columns],
    )
    align = ["left" if column.digits is None else "right" for column in table.columns]
    grid = frame.to_markdown(index=False, colalign=align, disable_numparse=True)
    lines = [f"### {escape_markdown(table.title)}", "", grid]

    # Definitions are a list below the table: a pipe table has no room for them.
    lines += ["", escape_markdown(table.note)] if table.note else []
    defined = [column for column in table.columns if column.definition]
    if defined:
        lines.append("")
    for column in defined:
        lines.append(f"- {escape_markdown(column.title)}: {escape_markdown(column.definition)}")
    return "\n".join(lines) + "\n"


def to_latex(table: ReportTable) -> str:
    """Return the table for a paper: booktabs rules, the title as caption, the note below."""
    import pandas  # slow to import

    frame = pandas.DataFrame(
        [[_latex(text) for text in texts] for texts in table.texts()],
        columns=[_latex(column.title) for column in table.columns],
    )
    text = frame.to_latex(
        index=False,
        escape=False,
        column_format="".join("l" if column.digits is None else "r" for column in table.columns),
        caption=_latex(table.title),
        label=f"tab:{table.key}",
    )
    return f"{text}% {' '.join(table.note.split())}\n"


def numeric_titles(table: ReportTable) -> frozenset[str]:
    """The titles of the columns that hold numbers."""
    return frozenset(column.title for column in table.columns if column.digits is not None)


def _fixed(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "\u2212")


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is: no markup, no HTML, no cell border."""
    text = text.replace("&", "&amp;")
    for character in "\\`*_[]<>|#":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u2212": "$-$",
    UNDEFINED: "--",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
