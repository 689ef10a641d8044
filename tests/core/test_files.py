"""Atomic writes, leftovers, JSON, CSV tables with a schema, and locks."""

import csv
import errno
import io
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError, HemsegError, WriteError
from hemseg_cli.core.files import (
    atomic_path,
    file_lock,
    read_json,
    read_table,
    read_text,
    remove_leftovers,
    temporary_path,
    write_json,
    write_table,
    write_text,
)


def test_atomic_write_replaces_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent
        assert temporary.name.endswith("file.txt")
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def half_written() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half_written()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"cannot write .*file\.txt: the disk is full"),
        (errno.EDQUOT, r"cannot write .*file\.txt: your disk quota is used up"),
        (errno.EROFS, r"cannot write .*file\.txt: Read-only file system"),
    ],
)
def test_a_failed_write_says_what_the_disk_lacks(tmp_path: Path, number: int, message: str) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write() -> None:
        with atomic_path(path):
            raise OSError(number, os.strerror(number))

    with pytest.raises(HemsegError, match=message):
        write()
    assert path.read_text() == "old"


def test_really_full_disk_is_named(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")

    def write() -> None:
        with atomic_path(tmp_path / "x") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x" * 10_000)

    with pytest.raises(HemsegError, match="the disk is full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_the_block_reads_keeps_its_own_error(tmp_path: Path) -> None:
    def read_within() -> None:
        with atomic_path(tmp_path / "x"):
            (tmp_path / "missing").read_text()

    with pytest.raises(FileNotFoundError, match="missing"):
        read_within()


def test_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    target = tmp_path / "mine.txt"
    target.write_text("mine")
    (tmp_path / "link.txt").symlink_to(target)
    write_text(tmp_path / "link.txt", "new")
    assert target.read_text() == "mine"
    assert not (tmp_path / "link.txt").is_symlink()


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
def test_files_get_the_permissions_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "x", "text")
        with file_lock(tmp_path / ".lock"):
            lock_mode = (tmp_path / ".lock").stat().st_mode & 0o777
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o666 & ~umask
    assert lock_mode == 0o666 & ~umask


@pytest.mark.parametrize("length", [1, 180, 255])
def test_the_longest_name_can_be_written(tmp_path: Path, length: int) -> None:
    write_text(tmp_path / ("ä" * (length // 2) + "x" * (length % 2)), "text")
    (written,) = tmp_path.iterdir()
    assert len(os.fsencode(written.name)) == max(1, length // 2 * 2 + length % 2)


# Leaves one temporary file and one temporary folder, and says their names.
KILLED = """
import os, sys
from pathlib import Path
from hemseg_cli.core.files import temporary_path
file, folder = (temporary_path(Path(sys.argv[1]) / name) for name in ("x.nii.gz", "entry"))
file.write_text("half")
folder.mkdir()
(folder / "image.npy").write_text("half")
print("ready", flush=True)
sys.stdin.read()
"""


def test_leftovers_of_a_killed_command_are_removed_and_those_of_a_living_one_kept(
    tmp_path: Path,
) -> None:
    (tmp_path / "x.nii.gz").write_text("whole")
    ours = temporary_path(tmp_path / "ours.txt")
    ours.write_text("being written")
    stranger = tmp_path / ".something.part.of_somebody"
    stranger.write_text("not ours")

    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.iterdir())) == 5
        process.kill()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours, stranger, tmp_path / "x.nii.gz"])


def test_a_process_number_that_was_given_again_protects_nothing(tmp_path: Path) -> None:
    ours = temporary_path(tmp_path / "x")
    machine, process, started, rest = ours.name.split("-", 3)
    old = ours.with_name("-".join([machine, process, str(int(started) - 1000), rest]))
    old.write_text("of an earlier process with our number")
    remove_leftovers(tmp_path)
    assert not old.exists()


def test_leftovers_of_another_machine_stay_for_a_day(tmp_path: Path) -> None:
    name = temporary_path(tmp_path / "x").name
    machine = "00000000" if name[1:9] != "00000000" else "11111111"
    young, old = (tmp_path / f".{machine}{name[9:]}{n}" for n in (1, 2))
    young.write_text("")
    old.write_text("")
    os.utime(old, times=(time.time() - 90_000,) * 2)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [young]


def test_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None], "b": "ü"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "y.json", {"dice": math.nan})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b"\xff\xfe{}", "not text in UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b"", "not JSON"),
    ],
    ids=["cut", "nan", "infinity", "utf-16", "deep", "empty"],
)
def test_bad_json_is_one_error_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=rf"x\.json.*{message}"):
        read_json(tmp_path / "x.json")


def test_a_pipe_or_device_is_no_file_to_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "zero.json"):
        with pytest.raises(FileFormatError, match="not a regular file"):
            read_json(tmp_path / name)
    with pytest.raises(HemsegError, match=r"cannot read .*nothing: No such file"):
        read_text(tmp_path / "nothing")


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n"), max_size=12)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            TEXT.map(str.strip),
            st.one_of(st.none(), st.integers(-(10**9), 10**9)),
            st.one_of(st.none(), st.floats(-1e6, 1e6).map(lambda value: round(value, 6))),
            st.one_of(st.none(), st.booleans()),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_a_table_is_read_as_it_was_written(tmp_path: Path, rows: list[tuple[object, ...]]) -> None:
    frame = pd.DataFrame(rows, columns=["text", "count", "ml", "done"]).astype(
        {"count": "Int64", "ml": "float64", "done": "boolean"}
    )
    frame.insert(0, "scan", [f"s{n}" for n in range(len(rows))])
    write_table(tmp_path / "t.csv", frame)
    columns = {"scan": str, "text": str, "count": int, "ml": float, "done": bool}
    read = read_table(tmp_path / "t.csv", columns=columns).reset_index(drop=True)
    pd.testing.assert_frame_equal(
        read.astype({"text": object, "scan": object}),
        frame.astype({"text": object, "scan": object}),
    )


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "'=1", "-"])
def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path: Path, cell: str) -> None:
    write_table(tmp_path / "t.csv", pd.DataFrame({"scan": [cell], "ml": [-1.5]}))
    with (tmp_path / "t.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["scan"] == f"'{cell}"
    assert row["ml"] == "-1.5"
    read = read_table(tmp_path / "t.csv", columns={"scan": str, "ml": float})
    assert read["scan"].tolist() == [cell]


def test_floats_have_six_digits_and_what_is_missing_is_empty(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1 / 3, math.nan], "b": [None, "x"], "c": [1, None]})
    write_table(tmp_path / "t.csv", frame.astype({"c": "Int64"}))
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n0.333333,,1\n,x,\n"


@pytest.mark.parametrize(
    ("text", "ml"),
    [
        ("scan,ml\na,2.5\n", 2.5),
        ("\ufeffscan;ml\r\na;2,5\r\n", 2.5),
        ("scan\tml\na\t1e1\n", 10.0),
        ("\n\nscan,ml,remark\n\na, 2.5 ,\n\n", 2.5),
        ('"scan","ml"\n"a",".5"\n', 0.5),
        ("scan,ml\na\n", None),
        ("scan,ml\na,1,,\n", 1.0),
    ],
)
def test_tables_of_other_programs_are_read(tmp_path: Path, text: str, ml: float | None) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    frame = read_table(tmp_path / "t.csv", columns={"scan": str, "ml": float})
    assert frame["scan"].tolist() == ["a"]
    value = frame["ml"].iloc[0]
    assert math.isnan(value) if ml is None else value == ml


def test_a_line_is_the_one_in_the_file_also_after_cells_of_many_lines(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('scan,ml\n"a\nb\nc",1\n\nd,x\n')
    with pytest.raises(FileFormatError, match=r"line 6: ml = 'x' is not a number"):
        read_table(tmp_path / "t.csv", columns={"scan": str, "ml": float})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan,ml\na,1_000\n", "line 2: ml = '1_000' is not a number"),
        ("scan,ml\na,inf\nb,1\nc,nan\n", r"line 2: ml = 'inf' is not a number \(nor in lines 4\)"),
        ("scan,ml\na,1e999\n", "line 2: ml = '1e999' is too large|'1e999' is too large"),
        ("scan,ml\na,0x10\n", "line 2: ml = '0x10' is not a number"),
        ("scan,ml\na,\x1b[2J\n", r"line 2: ml = .*x1b.*2J' is not a number"),
        ("scan,ml\na,1,2\n", "line 2: 3 cells, but 2 columns"),
        ("scan,ml,ml\na,1,2\n", "two columns ml"),
        ("scan\na\n", "no column ml"),
        ("", "no column scan, ml"),
        ('scan,ml\n"a,1\n', "not a table"),
        ("scan,n,ml\na,2.5,1\n", "line 2: n = '2.5' is not a whole number"),
        ("scan,n,ml\na,99999999999999999999,1\n", "is not a whole number"),
    ],
)
def test_a_bad_table_is_refused_with_line_and_column(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_table(tmp_path / "t.csv", columns={"scan": str, "n": int, "ml": float}, optional={"n"})
    assert "t.csv" in caught.value.message


HOLDER = """
import sys
from pathlib import Path
from hemseg_cli.core.files import file_lock
with file_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_is_free_when_that_one_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for wait_s in (0.0, 0.3):
            with (
                pytest.raises(HemsegError, match=f"busy by process {process.pid}"),
                file_lock(lock, doing="busy", wait_s=wait_s),
            ):
                pass
        process.kill()
    with file_lock(lock):
        assert (lock.parent / ".lock.holder").read_text() == f"{os.getpid()}\n"
    assert not (lock.parent / ".lock.holder").exists()


@pytest.mark.parametrize("kind", ["link", "hard link", "link of holder"])
def test_nothing_is_written_through_a_lock_that_was_prepared(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    if kind == "link":
        (tmp_path / ".lock").symlink_to(mine)
        with pytest.raises(HemsegError, match="is a link"), file_lock(tmp_path / ".lock"):
            pass
    else:
        name = tmp_path / (".lock" if kind == "hard link" else ".lock.holder")
        name.hardlink_to(mine) if kind == "hard link" else name.symlink_to(mine)
        with file_lock(tmp_path / ".lock"):
            pass
    assert mine.read_text() == "mine"


# A file system whose flock answers ENOSYS, as some network disks and FUSE do.
NO_FLOCK = """
import errno, fcntl, os, sys
def flock(handle, how):
    raise OSError(int(sys.argv[2]), os.strerror(int(sys.argv[2])))
fcntl.flock = flock
from pathlib import Path
from hemseg_cli.core import console
from hemseg_cli.core.files import file_lock
console.configure()
with file_lock(Path(sys.argv[1])):
    print("working")
"""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_without_locks_the_work_goes_on(tmp_path: Path, number: int) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", NO_FLOCK, str(tmp_path / ".lock"), str(number)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout == "working\n", done.stderr
        assert done.returncode == 0
        assert re.fullmatch(r"(warning: the file system of .* has no locks.*\n)?", done.stderr)


def test_table_text_is_what_csv_reads(tmp_path: Path) -> None:
    frame = pd.DataFrame({"scan": ['a "b", c', "d\ne"], "n": [1, 2]})
    write_table(tmp_path / "t.csv", frame)
    rows = list(csv.reader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert rows == [["scan", "n"], ['a "b", c', "1"], ["d\ne", "2"]]
    assert json.dumps(rows)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_never_replaced(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = tmp_path / "out.csv"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    before = path.lstat()

    with pytest.raises(WriteError, match=r"out\.csv: it is a device, pipe or socket"):
        write_text(path, "text")

    assert path.lstat() == before
    assert [each.name for each in tmp_path.iterdir()] == ["out.csv"]


def test_link_to_a_device_is_replaced_and_the_device_stays(tmp_path: Path) -> None:
    (tmp_path / "out.csv").symlink_to(os.devnull)

    write_text(tmp_path / "out.csv", "text")

    assert (tmp_path / "out.csv").read_text() == "text"
    assert not Path(os.devnull).is_file()
