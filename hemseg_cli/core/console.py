"""What a person sees: with `text_table` the only module that knows rich and tqdm.

stdout carries the result alone (tables, or one JSON object); progress, notices and the log go to
stderr. On a terminal progress is a live bar; elsewhere one plain line now and then. Library layers
call `progress`, `live`, `say` and `warn` and never print.
"""

import contextlib
import dataclasses
import errno
import json
import logging
import math
import os
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from hemseg_cli.core.printable import printable
from hemseg_cli.core.streams import Stream, is_terminal
from hemseg_cli.core.text_table import Table as Table
from hemseg_cli.core.text_table import draw_table, wrapped
from hemseg_cli.core.urls import without_secrets, without_secrets_in

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

T = TypeVar("T")

log = logging.getLogger("hemseg")
log.addHandler(logging.NullHandler())
_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_PLAIN_LINE_EVERY_S = 10.0
_UNBOUNDED_COLUMNS = 100_000  # off a terminal no table is too wide
_BAR_WIDTH_COLUMNS = 28
_BAR_COLUMNS = _BAR_WIDTH_COLUMNS + 34  # with its counts, times and gaps


@dataclass
class _Output:
    """How the running command talks, set once by `configure`, and the file that it logs to."""

    talks: bool = False
    """Whether a command is running; without one (the Python API) nothing is printed."""
    json: bool = False
    quiet: bool = True
    verbose: bool = False
    log_file: Path | None = None


_output = _Output()


def configure(*, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
    """Set how the command talks; called once, at its start."""
    _output.talks = True
    _output.json, _output.quiet, _output.verbose = json, quiet, verbose
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.propagate = False
    # MONAI imports matplotlib, which says at length that HOME cannot be written to.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


class _LogFile(logging.FileHandler):
    """A log file that never fails the work, and is never written through a link or a pipe."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(self.baseFilename, flags, 0o666)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise OSError(errno.EINVAL, "not a regular file")
        return open(handle, "a", encoding=self.encoding, errors=self.errors)

    def emit(self, record: logging.LogRecord) -> None:
        # The base class opens the file outside its own guard.
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's own name
        del record
        log.removeHandler(self)
        _output.log_file = None
        reason = sys.exc_info()[1]
        why = os.strerror(reason.errno) if isinstance(reason, OSError) and reason.errno else reason
        _print_line(f"warning: the log {self.baseFilename} cannot be written: {why}", "yellow")


def add_log_file(path: Path) -> None:
    """Append everything said from now on to `path` too.

    Where it cannot be written, or is a link, a warning is all.
    """
    close_log_file()
    with contextlib.suppress(OSError):  # the first line says so
        path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter(_LOG_FORMAT))
    log.addHandler(handler)
    _output.log_file = path


def close_log_file() -> None:
    """Stop writing to the log file."""
    for handler in list(log.handlers):
        if isinstance(handler, logging.FileHandler):
            log.removeHandler(handler)
            with contextlib.suppress(OSError):  # a full disk, met by the last flush
                handler.close()
    _output.log_file = None


def log_file() -> Path | None:
    """The file that `add_log_file` named last."""
    return _output.log_file


def is_live() -> bool:
    """Whether progress may be drawn in place: stderr is a terminal and the command is not quiet."""
    return is_terminal(sys.stderr) and not _output.quiet and os.environ.get("TERM") != "dumb"


def say(message: str) -> None:
    """Print a notice on stderr and in the log."""
    log.info(_shown(message))
    if not _output.quiet:
        _print_line(message)


def warn(message: str) -> None:
    """Print a warning on stderr, also when quiet, and in the log."""
    log.warning(_shown(message))
    if _output.talks:
        _print_line(f"warning: {message}", "yellow")


def fail(message: str) -> None:
    """Print why a command could not do its work, on stderr and in the log."""
    log.error(_shown(message))
    _print_line(f"error: {message}", "red")


def _shown(message: str) -> str:
    """Return the message without control characters, and its URLs without signatures."""
    return printable(without_secrets(message))


def _print_line(message: str, style: str = "") -> None:
    console = _stderr()
    # A file keeps each line whole, to be searched; a terminal would break it within a word.
    width = console.width if is_terminal(sys.stderr) else _UNBOUNDED_COLUMNS
    for line in wrapped(_shown(message), width):
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def result(payload: Mapping[str, Any], *tables: Table) -> None:
    """Print the result of the command on stdout, once per command.

    `payload` as one JSON object with `--json`, else the tables. HemsegError where stdout cannot
    take it (a full disk).
    """
    if _output.json:
        plain = without_secrets_in(payload)
        print_text(json.dumps(plain, indent=2, default=str, allow_nan=False))
    else:
        for table in tables:
            print_table(table)


def print_table(table: Table) -> None:
    """Print a table on stdout: as wide as it needs, or as the terminal is."""
    from rich.console import Console

    stream = Stream(sys.stdout)
    # What the terminal cannot show is replaced before widths are measured.
    shown = dataclasses.replace(
        table,
        title=_shown(table.title),
        rows=[[stream.shown(_shown(cell)) for cell in row] for row in table.rows],
        caption=_shown(table.caption),
    )
    width = None if is_terminal(sys.stdout) else _UNBOUNDED_COLUMNS
    draw_table(Console(file=cast("IO[str]", stream), width=width), shown)
    stream.finish()


def print_text(text: str) -> None:
    """Print text on stdout, control characters shown as text.

    A reader that went away (`| head`) is no error: the rest goes nowhere. HemsegError where stdout
    cannot take it (a full disk).
    """
    stream = Stream(sys.stdout)
    stream.write(printable(text if text.endswith("\n") else text + "\n"))
    stream.finish()


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
        """Move by `advance` or to `done`, and show `fields` as "name value" (`loss="0.41"`).

        A narrow terminal leaves out the last of them: give the one that matters most first.
        """
        self._done = done if done is not None else self._done + advance
        self._total = total if total is not None else self._total
        self._fields.update(fields)
        if self._bar is not None and self._task is not None:
            room = self._bar.console.width - len(self._label) - _BAR_COLUMNS
            note = self._note(room)
            self._bar.update(self._task, completed=self._done, total=self._total, note=note)
        elif not _output.quiet and time.monotonic() - self._last_line >= _PLAIN_LINE_EVERY_S:
            self._last_line = time.monotonic()
            _print_line(self._plain_line())

    def _note(self, room: float = math.inf) -> str:
        """The fields, in the order in which they were given first; those without room left out."""
        shown: list[str] = []
        for name, value in self._fields.items():
            text = printable(f"{name} {value}")
            if sum(len(each) + 2 for each in shown) + len(text) > room:
                break
            shown.append(text)
        return "  ".join(shown)

    def _plain_line(self) -> str:
        share = f" {self._done:g}/{self._total:g}" if self._total else f" {self._done:g}"
        if self._unit == "%" and self._total:
            share = f" {self._done / self._total:.0%}"
        return f"{self._label}{share}  {self._note()}".rstrip()


@contextlib.contextmanager
def live(label: str, *, total: float | None = None, unit: str = "") -> Iterator[Track]:
    """Show a live bar on a terminal, a plain line every ten seconds elsewhere.

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
        rich_progress.BarColumn(bar_width=_BAR_WIDTH_COLUMNS),
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
    """Yield the items, with a bar that moves as each next one is asked for.

    `total`: their number, where `len` does not tell.
    """
    count = total if total is not None else (len(items) if isinstance(items, Sequence) else None)
    with live(label, total=count) as track:
        for item in items:
            yield item
            track.update(advance=1)


def library_progress(items: Iterable[T], *, label: str, total: int | None = None) -> Iterable[T]:
    """Show a tqdm bar for a long inner loop.

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

    return Console(file=cast("IO[str]", Stream(sys.stderr)))
