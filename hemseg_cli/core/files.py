"""Atomic writes, JSON, CSV tables and locks: how every file of a run or a data set is written.

A file is written under a temporary name in its own folder and then renamed, so that a killed
command leaves no half file under a final name. The temporary name says which process writes it:
the next command in that folder removes those of processes that are gone.
"""

import contextlib
import csv
import errno
import functools
import io
import json
import math
import os
import platform
import re
import secrets
import shutil
import stat
import time
import warnings
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError, HemsegError, WriteError
from hemseg_cli.core.names import first_few
from hemseg_cli.core.printable import printable

if TYPE_CHECKING:
    import filelock
    import pandas as pd

MOST_TABLE_BYTES = 256 * 2**20
MOST_TEXT_BYTES = 64 * 2**20
_FULL_DISK_BYTES = 2**20
"""With less than this free a failed write of a library is laid to the full disk."""

# --- Atomic writes -------------------------------------------------------------------------------

_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}\.part\.")
_MOST_NAME_BYTES = 180
_START_TOLERANCE_S = 2
_FOREIGN_LEFTOVER_AGE_S = 24 * 3600.0


def temporary_path(path: Path) -> Path:
    """Return a hidden name beside `path` that carries this machine, process and its start.

    It ends as `path` does, since libraries choose a format by the suffix; a long name is shortened
    at its front. Use it for a folder or a link; a file goes through `atomic_path`.
    """
    token = f"{_machine()}-{os.getpid()}-{_started_s(os.getpid())}-{secrets.token_hex(4)}"
    ending = path.name
    while len(os.fsencode(ending)) > _MOST_NAME_BYTES:  # by characters: half of one is no name
        ending = ending[1:]
    return path.with_name(f".{token}.part.{ending}")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, renamed onto it when the block ends well.

    It is removed when the block does not, and so is what a killed command has left of this file. A
    link at `path` is replaced, never written through; a new file gets the permissions of the user's
    umask. WriteError names the file where it cannot be written, and says so when the disk is full;
    a device, pipe or socket at `path` is never replaced.
    """
    _refuse_special(path)
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers_of(path, temporary)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        # A file that the block reads has its own error: it is not this file that is at fault.
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (
            temporary,
            path,
            path.parent,
        ):
            raise
        raise cannot_write(path, error) from error
    except RuntimeError as error:
        # torch and SimpleITK report a full disk as an error of their own.
        if _is_full(path.parent):
            raise cannot_write(path, OSError(errno.ENOSPC, "")) from error
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _refuse_special(path: Path) -> None:
    """Raise WriteError for what is no file: root could rename a file onto `/dev/null`."""
    with contextlib.suppress(OSError):  # not there
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise WriteError(
                f"cannot write {path}: it is a device, pipe or socket",
                hint="name a file in a folder of yours",
            )


def cannot_write(path: Path, error: OSError) -> WriteError:
    """Return the error for a file or folder that could not be written, with what helps."""
    # numpy tells of a write that was cut short, and not why.
    if error.errno is None and _is_full(path.parent):
        error = OSError(errno.ENOSPC, "")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        what = "the disk is full" if error.errno == errno.ENOSPC else "your disk quota is used up"
        return WriteError(
            f"cannot write {path}: {what}",
            hint="free some space or choose another folder, then run again",
        )
    return WriteError(
        f"cannot write {path}: {error.strerror or error}",
        hint="mind the permissions or choose another folder, then run again",
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a binary file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; ValueError for NaN and infinity, which are no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove_leftovers(folder: Path, *, below: bool = True) -> None:
    """Remove what killed commands left in `folder` under temporary names.

    `below`: in its folders too. Files of living processes stay. Those of another machine, whose
    processes cannot be seen from here, are removed a day after they were last written.
    """
    for path in list((folder.rglob if below else folder.glob)(".*.part.*")):
        _remove_if_abandoned(path)


def _remove_leftovers_of(path: Path, temporary: Path) -> None:
    """Remove what killed commands left of the one file `path`."""
    # The same ending is the same file: what is in front of it names machine and process.
    ending = temporary.name.partition(".part.")[1:]
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.endswith("".join(ending))]
    for name in names:
        _remove_if_abandoned(path.with_name(name))


def _remove_if_abandoned(path: Path) -> None:
    named = _TEMPORARY.match(path.name)
    if named is None or not _is_abandoned(path, named):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _is_abandoned(path: Path, named: re.Match[str]) -> bool:
    if named[1] != _machine():
        try:
            return time.time() - path.lstat().st_mtime > _FOREIGN_LEFTOVER_AGE_S
        except OSError:
            return False
    # A process number is given again: only the same number and start mean the same process.
    started_s = _started_s(int(named[2]))
    return started_s is None or abs(started_s - int(named[3])) > _START_TOLERANCE_S


@functools.cache
def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode('utf-8', 'replace')):08x}"


def _started_s(process: int) -> int | None:
    """When a process started, in seconds since 1970; None where there is none of that number."""
    import psutil

    try:
        return int(psutil.Process(process).create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:  # it lives, but belongs to somebody else
        return 0


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < _FULL_DISK_BYTES
    except OSError:
        return False


# --- Reading text and JSON -----------------------------------------------------------------------


def read_text(path: Path, *, hint: str = "") -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    FileFormatError where it is not UTF-8, not a regular file, or larger than `MOST_TEXT_BYTES`;
    HemsegError where it cannot be read.
    """
    return _read_text(path, MOST_TEXT_BYTES, hint)


def read_json(path: Path, *, hint: str = "") -> Any:
    """Read a JSON file; FileFormatError names it where it is not JSON or holds NaN."""
    text = read_text(path, hint=hint)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not JSON: {printable(str(error))}", hint=hint) from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _read_text(path: Path, most_bytes: int, hint: str) -> str:
    # A pipe or device under the name would block or never end.
    if path.exists() and not path.is_file():
        raise FileFormatError(f"{path} is not a regular file", hint=hint)
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise HemsegError(f"cannot read {path}: {error.strerror}", hint=hint) from None
    if len(data) > most_bytes:
        raise FileFormatError(f"{path} is larger than {most_bytes // 2**20} MB", hint=hint)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not text in UTF-8: {error}", hint=hint) from None


# --- Tables --------------------------------------------------------------------------------------

_DECIMALS = 6
# Apostrophes before it too, so that what is read is what was written.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,18}(\.0*)?", re.ASCII)
_TRUTH = {"true": True, "false": False, "1": True, "0": False}
_LINE = "line"


def write_table(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table as CSV, atomically: floats rounded to 6 digits, what is missing empty.

    A text cell that a spreadsheet would run as a formula (it begins with = + - @ and is no number)
    gets an apostrophe in front, which `read_table` takes off.
    """
    write_text(path, table_text(frame))


def table_text(frame: "pd.DataFrame") -> str:
    """Return the table as `write_table` writes it."""
    import pandas as pd

    columns = {}
    for number, name in enumerate(frame.columns):
        column = frame.iloc[:, number]
        if pd.api.types.is_float_dtype(column):
            columns[_harmless(str(name))] = column.round(_DECIMALS)
        else:
            columns[_harmless(str(name))] = column.astype(object).map(_cell)
    text = io.StringIO()
    pd.DataFrame(columns).to_csv(text, index=False, lineterminator="\n")
    return text.getvalue()


def _cell(value: Any) -> Any:
    """One cell of a column that is not all floats."""
    import pandas as pd

    if isinstance(value, str):
        return _harmless(value)
    if value is None or value is pd.NA:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(round(value, _DECIMALS))
    return value


def _harmless(text: str) -> str:
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def _as_it_was(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def read_table(
    path: Path,
    *,
    columns: Mapping[str, type],
    optional: Collection[str] = (),
    hint: str = "",
) -> "pd.DataFrame":
    """Read a CSV with a checked schema; its index is the line of the file that a row began on.

    `columns`: name -> str, int, float or bool; of those in `optional` each may be lacking and is
    then empty. Empty cells are "" in text and missing (NaN, NA) in numbers. Columns of other names
    are kept as text. The separator is a comma, a semicolon (then also with decimal commas) or a
    tab. FileFormatError names file, line and column.
    """
    import pandas as pd

    text = _read_text(path, MOST_TABLE_BYTES, hint)
    separator = _separator(text, columns)
    lines, rows = _rows(path, text, separator, hint)
    header = [name.strip() for name in rows[0]] if rows else []
    _check_header(path, header, [name for name in columns if name not in optional], hint)

    lines, rows = lines[1:], rows[1:]
    cells = [_fitted(path, line, row, len(header)) for line, row in zip(lines, rows, strict=True)]
    frame = pd.DataFrame(cells, columns=header, dtype=object)
    frame.index = pd.Index(lines, name=_LINE)
    for name, kind in columns.items():
        if name not in frame:
            frame[name] = ""
        decimal_comma = separator == ";" and kind is not str
        column = frame[name].str.replace(",", ".") if decimal_comma else frame[name]
        frame[name] = _typed(path, name, column, kind, hint)
    return frame


def _separator(text: str, columns: Mapping[str, type]) -> str:
    """The separator that finds most of the wanted columns in the first line; a comma if none."""
    first = text.lstrip("\r\n").split("\n", 1)[0]

    def found(separator: str) -> int:
        names = {name.strip().strip('"') for name in first.split(separator)}
        return len(names & set(columns))

    return max((",", ";", "\t"), key=found)


def _rows(path: Path, text: str, separator: str, hint: str) -> tuple[list[int], list[list[str]]]:
    """The rows that are not empty, and the line of the file that each began on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    lines: list[int] = []
    rows: list[list[str]] = []
    before = 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append(before + 1)
                rows.append([_as_it_was(cell.strip()) for cell in row])
            before = reader.line_num
    except csv.Error as error:
        raise FileFormatError(
            f"{path}, line {reader.line_num}: not a table: {error}", hint=hint
        ) from None
    return lines, rows


def _check_header(path: Path, header: list[str], wanted: Sequence[str], hint: str) -> None:
    missing = [name for name in wanted if name not in header]
    if missing:
        raise FileFormatError(f"{path}: no column {', '.join(missing)}", hint=hint)
    twice = sorted({name for name in header if header.count(name) > 1 and name})
    if twice:
        raise FileFormatError(f"{path}: two columns {printable(twice[0])}", hint=hint)


def _fitted(path: Path, line: int, row: list[str], width: int) -> list[str]:
    # Spreadsheets leave out empty cells at the end of a row, or add some.
    if any(row[width:]):
        raise FileFormatError(f"{path}, line {line}: {len(row)} cells, but {width} columns")
    return row[:width] + [""] * (width - len(row))


def _typed(path: Path, name: str, column: "pd.Series[Any]", kind: type, hint: str) -> Any:
    """The column as its type; FileFormatError names the first cells that are not of it."""
    import pandas as pd

    if kind is str:
        return column
    if kind is bool:
        good = column.str.lower().isin([*_TRUTH, ""])
    else:
        pattern = _WHOLE if kind is int else _NUMBER
        good = column.map(lambda cell: not cell or pattern.fullmatch(cell) is not None)
    if not good.all():
        bad = column[~good]
        what = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
        first = f"{path}, line {bad.index[0]}: {name} = {printable(bad.iloc[0])!r} is not {what}"
        others = f" (nor in lines {first_few(list(bad.index[1:]))})" if len(bad) > 1 else ""
        raise FileFormatError(first + others, hint=hint)

    if kind is bool:
        return column.str.lower().map(_TRUTH).astype("boolean")
    numbers = pd.to_numeric(column.where(column != ""), errors="coerce").astype("float64")
    if kind is int:
        whole = column.map(lambda cell: int(cell.partition(".")[0]) if cell else pd.NA)
        return whole.astype("Int64")
    # 1e999 has the form of a number and is none.
    endless = numbers.abs() == math.inf
    if endless.any():
        line = numbers.index[endless][0]
        raise FileFormatError(f"{path}, line {line}: {name} = {column[line]!r} is too large")
    return numbers


# --- Locks ---------------------------------------------------------------------------------------

_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
_WAIT_SLICE_S = 0.1


@contextlib.contextmanager
def file_lock(path: Path, *, doing: str = "", wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for one process; the system frees it when the process dies.

    HemsegError names the process that holds it after `wait_s` seconds; `doing` says in that error
    what cannot be done twice ("run x is being trained"). Where the file system has no locks a
    warning is all. A link under the name is an error: nothing is ever written through it.
    """
    import filelock

    holder = path.with_name(f"{path.name}.holder")
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            raise HemsegError(f"{path} is a link, not a lock file", hint=f"rm {path}")
        held = _acquire(lock, wait_s)
    except filelock.Timeout:
        raise HemsegError(
            f"{doing or f'{path.parent} is in use'} by process {_holder(holder)}",
            hint="wait for it, then run again",
        ) from None
    except OSError as error:
        raise cannot_write(path, error) from None

    if held:
        # The number is for the other's error message alone: a full disk does not matter.
        with contextlib.suppress(HemsegError):
            write_text(holder, f"{os.getpid()}\n")
    else:
        console.warn(
            f"the file system of {path.parent} has no locks: let no second command work there"
        )
    try:
        yield
    finally:
        if held:
            with contextlib.suppress(OSError):
                holder.unlink(missing_ok=True)
            lock.release()


def _acquire(lock: "filelock.BaseFileLock", wait_s: float) -> bool:
    """Take the lock; False where the file system has none."""
    try:
        with warnings.catch_warnings():  # filelock warns of its fallback to a marker file
            warnings.simplefilter("ignore")
            lock.acquire(timeout=wait_s, poll_interval=_WAIT_SLICE_S)
    except NotImplementedError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _holder(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return "unknown"
    return text if text.isdigit() else "unknown"
