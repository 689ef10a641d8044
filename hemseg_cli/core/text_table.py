"""Draw a result table as text: no cell is cut off, and no word of one is broken.

Off a terminal a table is as wide as it needs. On one that is too narrow, the first of these that
fits: columns that only explain are left out, columns are put below each other beside the names of
the rows, prose is wrapped between words, each row becomes a block of lines.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hemseg_cli.core.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_GAP_COLUMNS = 3  # beside each column of a table

Cells = Sequence[str]


@dataclass(frozen=True)
class Table:
    """A result table. Cells are text; a column whose name is in `right` is right-aligned.

    `explains`: columns that a narrow terminal may leave out. `n_named`: how many of the first
    columns name a row; where there are any, a narrow terminal repeats them and puts the other
    columns below each other.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Cells] = field(default_factory=list)
    caption: str = ""
    right: frozenset[str] = frozenset()
    explains: frozenset[str] = frozenset()
    n_named: int = 0

    def only(self, chosen: Sequence[int]) -> "Table":
        """Return the table with the columns of these positions alone, without title and caption."""
        return Table(
            "",
            [self.columns[n] for n in chosen],
            [[row[n] for n in chosen] for row in self.rows],
            right=self.right,
        )


def draw_table(console: "Console", table: Table) -> None:
    """Draw a table whose texts are fit to be shown."""
    title, caption = table.title, table.caption
    left_out = [column for column in table.columns if column in table.explains]
    if left_out and sum(_natural_widths(table)) > _room(table, console.width):
        table = table.only(
            [n for n, column in enumerate(table.columns) if column not in table.explains]
        )
        caption += f" Not shown for want of width: {', '.join(left_out)} (--json has all)."

    _draw_prose(console, title, "italic")
    folded = _folded(table, console.width)
    for part in folded or [table]:
        widths = _column_widths(part, console.width)
        if widths is None:
            _draw_blocks(console, part)
        else:
            _draw_grid(console, part, widths)
    _draw_prose(console, caption, "dim italic")


def wrapped(text: str, width: int) -> Iterator[str]:
    """Yield the lines of the text, broken between words, each part indented as its line."""
    import textwrap

    for line in text.split("\n"):
        indent = line[: len(line) - len(line.lstrip())]
        yield from textwrap.wrap(
            line,
            width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]


def plain(cell: str, style: str = "") -> "Text":
    """Return the text for rich, without its markup and with control characters as text."""
    from rich.text import Text

    return Text(printable(cell), style)


def _draw_prose(console: "Console", text: str, style: str) -> None:
    """Print a title or caption, broken between words alone: a path can be copied whole."""
    for line in wrapped(text, console.width) if text else []:
        console.print(plain(line, style), soft_wrap=True)


def _room(table: Table, width: int) -> int:
    """How many characters the cells of a row may have together."""
    return width - _GAP_COLUMNS * len(table.columns) - 1


def _natural_widths(table: Table) -> list[int]:
    """The width of each column where no cell is wrapped."""
    from rich.cells import cell_len

    cells = zip(table.columns, *table.rows, strict=True)
    return [max(cell_len(line) for cell in each for line in cell.split("\n")) for each in cells]


def _folded(table: Table, width: int) -> list[Table]:
    """Divide the columns into tables that fit side by side; none where that is no help."""
    widths = _natural_widths(table)
    if not table.n_named or sum(widths) <= _room(table, width):
        return []

    def fits(columns: list[int]) -> bool:
        return sum(widths[n] + _GAP_COLUMNS for n in columns) < width

    # As many columns as fit beside the names, then the next ones below them.
    named = [*range(table.n_named)]
    parts, part = [], named
    for n in range(table.n_named, len(widths)):
        if fits([*part, n]):
            part = [*part, n]
        elif part is named or not fits([*named, n]):
            return []
        else:
            parts.append(part)
            part = [*named, n]
    return [table.only(part) for part in [*parts, part]]


def _column_widths(table: Table, most: int) -> list[int] | None:
    """The width of each column so that the table is at most `most` wide and no word is broken.

    None where the longest words together are wider.
    """
    from rich.cells import cell_len

    cells = zip(table.columns, *table.rows, strict=True)
    widths = _natural_widths(table)
    least = [
        max((cell_len(word) for cell in each for word in cell.split()), default=0) for each in cells
    ]
    room = _room(table, most)
    if sum(least) > room:
        return None

    # The widest column that can give way is made narrower until the table fits.
    while (excess := sum(widths) - room) > 0:
        widest = max(
            (n for n in range(len(widths)) if widths[n] > least[n]), key=widths.__getitem__
        )
        widths[widest] = max(least[widest], widths[widest] - excess, widths[widest] // 2)
    return widths


def _draw_grid(console: "Console", table: Table, widths: Sequence[int]) -> None:
    from rich import box
    from rich.table import Table as RichTable

    drawn = RichTable(box=box.SIMPLE_HEAD, show_header=any(table.columns))
    for column, width in zip(table.columns, widths, strict=True):
        right = column in table.right
        drawn.add_column(plain(column), justify="right" if right else "left", width=width)
    for row in table.rows:
        drawn.add_row(*(plain(cell) for cell in row))
    console.print(drawn)


def _draw_blocks(console: "Console", table: Table) -> None:
    from rich.cells import cell_len

    margin = max(cell_len(column) for column in table.columns) + 2
    for row in table.rows:
        console.print()
        for column, cell in zip(table.columns, row, strict=True):
            if cell:
                name = plain(column + " " * (margin - cell_len(column)), "bold")
                console.print(name + plain(cell), soft_wrap=True)
    console.print()
