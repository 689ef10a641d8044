"""What a person sees: the only module that knows rich and tqdm.

stdout carries the result alone (tables, or one JSON object); progress, notices and the log go to
stderr. On a terminal progress is a live bar; elsewhere one plain line now and then. Library layers
call `progress`, `live`, `say` and `warn` and never print.
"""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

T = TypeVar("T")

log = logging.getLogger("hemseg")
log.addHandler(logging.NullHandler())
_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_PLAIN_LINE_EVERY_S = 10.0


@dataclass
class _Output:
    """How the running command talks; set once by `configure`."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    log_file: Path | None = None


_output = _Output()


@dataclass(frozen=True)
class Table:
    """A result table. Cells are text; a column whose name is in `right` is right-aligned."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = field(default_factory=list)
    caption: str = ""
    right: frozenset[str] = frozenset()


def configure(*, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
    """Set how the command talks; called once, at its start."""
    _output.json, _output.quiet, _output.verbose = json, quiet, verbose
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False


def add_log_file(path: Path) -> None:
    """Append everything said from now on to `path` too."""
    close_log_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    log.addHandler(handler)
    _output.log_file = path


def close_log_file() -> None:
    """Stop writing to the log file."""
    for handler in list(log.handlers):
        if isinstance(handler, logging.FileHandler):
            log.removeHandler(handler)
            handler.close()
    _output.log_file = None


def log_file() -> Path | None:
    """The file that `add_log_file` named last."""
    return _output.log_file


def is_live() -> bool:
    """Whether progress may be drawn in place: stderr is a terminal and the command is not quiet."""
    return sys.stderr.isatty() and not _output.quiet and os.environ.get("TERM") != "dumb"


def say(message: str) -> None:
    """A notice on stderr, and in the log."""
    log.info(message)
    if not _output.quiet:
        _stderr().print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """A warning on stderr, also when quiet, and in the log."""
    log.warning(message)
    _stderr().print(
        f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True
    )


def fail(message: str) -> None:
    """The last words of a command that could not do its work: on stderr and in the log."""
    log.error(message)
    _stderr().print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)


def result(payload: Mapping[str, Any], *tables: Table) -> None:
    """The result of the command on stdout.

    `payload` as one JSON object with `--json`, else the tables. Called once per command.
    """
    if _output.json:
        print_text(json.dumps(payload, indent=2, default=str, allow_nan=False))
    else:
        for table in tables:
            print_table(table)


def print_table(table: Table) -> None:
    """One table on stdout, drawn by rich; wide tables are not cut off a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    terminal = sys.stdout.isatty()
    drawn = RichTable(
        title=table.title or None,
        caption=table.caption or None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for column in table.columns:
        drawn.add_column(
            column,
            justify="right" if column in table.right else "left",
            overflow="fold",
            no_wrap=not terminal,
        )
    for row in table.rows:
        drawn.add_row(*(_plain(cell) for cell in row))
    console = Console(width=None if terminal else 200)
    with console.capture() as captured:
        console.print(drawn)
    print_text(captured.get())


def print_text(text: str) -> None:
    """Text on stdout as it is. A reader that went away (`| head`) is no error.

    The rest goes nowhere.
    """
    try:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Track:
    """The handle that `live` yields: `update` moves the bar and sets the fields beside it."""

    def __init__(
        self,
        label: str,
        total: float | None,
        unit: str,
        bar: "Progress | None",
        task: "TaskID | None",
    ) -> None:
        self._label, self._total, self._unit, self._bar, self._task = label, total, unit, bar, task
        self._done = 0.0
        self._fields: dict[str, str] = {}
        self._last_line = time.monotonic()

    def update(
        self,
        *,
        advance: float = 0.0,
        done: float | None = None,
        total: float | None = None,
        **fields: str,
    ) -> None:
        """Move by `advance` or to `done`; `fields` are shown as `name value`, e.g.

        `loss="0.41"`.
        """
        self._done = done if done is not None else self._done + advance
        self._total = total if total is not None else self._total
        self._fields.update(fields)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, total=self._total, note=self._note())
        elif not _output.quiet and time.monotonic() - self._last_line >= _PLAIN_LINE_EVERY_S:
            self._last_line = time.monotonic()
            _stderr().print(self._plain_line(), markup=False, highlight=False, soft_wrap=True)

    def _note(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self._fields.items())

    def _plain_line(self) -> str:
        share = f" {self._done:g}/{self._total:g}" if self._total else f" {self._done:g}"
        if self._unit == "%" and self._total:
            share = f" {self._done / self._total:.0%}"
        return f"{self._label}{share}  {self._note()}".rstrip()


@contextlib.contextmanager
def live(label: str, *, total: float | None = None, unit: str = "") -> Iterator[Track]:
    """A live bar on a terminal, a plain line every ten seconds elsewhere.

    `unit="B"` shows bytes and their rate; `unit="%"` the share that is done, and leaves the time
    that is left to the caller's fields.
    """
    if not is_live():
        yield Track(label, total, unit, None, None)
        return
    from rich import progress as rich_progress

    amount: dict[str, list[Any]] = {
        "B": [rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()],
        "%": [rich_progress.TaskProgressColumn()],
    }
    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(bar_width=28),
        *amount.get(unit, [rich_progress.MofNCompleteColumn()]),
        rich_progress.TimeElapsedColumn(),
        *([] if unit == "%" else [rich_progress.TimeRemainingColumn()]),
        rich_progress.TextColumn("{task.fields[note]}", markup=False),
        console=_stderr(),
        transient=True,
    )
    with bar:
        yield Track(label, total, unit, bar, bar.add_task(label, total=total, note=""))


def progress(items: Iterable[T], *, label: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar that moves as each next one is asked for (`total`.

    Their number, where `len` does not tell).
    """
    count = total if total is not None else (len(items) if isinstance(items, Sequence) else None)
    with live(label, total=count) as track:
        for item in items:
            yield item
            track.update(advance=1)


def library_progress(items: Iterable[T], *, label: str, total: int | None = None) -> Iterable[T]:
    """A tqdm bar for a long inner loop.

    It composes with libraries that draw tqdm bars of their own, and is silent off a terminal.
    """
    from tqdm.auto import tqdm

    return tqdm(
        items,
        desc=label,
        total=total,
        file=sys.stderr,
        leave=False,
        disable=not is_live(),
        dynamic_ncols=True,
    )


def _stderr() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _plain(cell: str) -> Any:
    from rich.text import Text

    return Text(cell)
