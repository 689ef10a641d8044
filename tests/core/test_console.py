import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hemseg_cli.core import console
from hemseg_cli.core.console import Table


def test_json_result_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(json=True)
    console.say("a notice")
    console.warn("a warning")
    console.result({"dice": 0.5}, Table("t", ["a"], [["b"]]))
    out, err = capsys.readouterr()
    assert json.loads(out) == {"dice": 0.5}
    assert "a notice" in err
    assert "a warning" in err


def test_table_shows_markup_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.result({}, Table("Cases", ["scan", "mL"], [["[red]x[/red]", "1.5"]], caption="note"))
    out, err = capsys.readouterr()
    assert "[red]x[/red]" in out
    assert "Cases" in out
    assert "note" in out
    assert err == ""


def test_quiet_hides_notices_but_not_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    console.configure(quiet=True)
    console.say("a notice")
    console.warn("a warning")
    assert capsys.readouterr().err == "warning: a warning\n"


def test_off_a_terminal_nothing_is_drawn_and_no_colour_is_used(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(console.progress([1, 2, 3], label="scans")) == [1, 2, 3]
    assert list(console.library_progress([1, 2], label="voxels")) == [1, 2]
    console.warn("x")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "warning: x\n"


def test_plain_progress_line_names_amount_and_fields(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_PLAIN_LINE_EVERY_S", 0.0)
    with console.live("epoch", total=4) as track:
        track.update(advance=1, loss="0.41")
    assert capsys.readouterr().err == "epoch 1/4  loss 0.41\n"


def test_log_file_holds_what_was_said(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]  # pytest's own fixture
    console.add_log_file(tmp_path / "deep" / "log.txt")
    console.say("a notice")
    console.fail("the end")
    text = (tmp_path / "deep" / "log.txt").read_text()
    assert "INFO a notice" in text
    assert "ERROR the end" in text
    assert "error: the end" in capsys.readouterr().err


def test_not_a_number_never_reaches_json() -> None:
    console.configure(json=True)
    with pytest.raises(ValueError, match="not JSON compliant"):
        console.result({"dice": float("nan")})


IDS = ["0a1b2c3d4e", "sub-strokecase0001_ses-2019-03_acq-thick_ct", "Müller_äöü"]
REASON = "slices are missing between 31.5 mm and 36.5 mm; the file ID_12ab.dcm is damaged"
PATHS = ["/data/archive/2019/series one/brain.nii.gz", "x.nii", "/mnt/" + "deep/" * 14 + "y.nii.gz"]
HINT = "hemseg convert --scan X --force   converts it anew"
PRINT_TABLE = """
import sys
from hemseg_cli.core.console import Table, print_table
from tests.core.test_console import wide_table
print_table(wide_table(int(sys.argv[1])))
"""
ROOT = Path(__file__).resolve().parents[2]


def wide_table(rows: int) -> Table:
    return Table(
        "Refused scans",
        ["scan", "mL", "Dice", "HD95 (mm)", "reason", "file", "hint"],
        [[IDS[n], "12.3", "0.812", "4.1", REASON, PATHS[n], HINT] for n in range(rows)],
        caption="A caption of many words that is longer than the table where there is no room.",
        right=frozenset({"mL", "Dice"}),
    )


def _printed(columns: int | None, rows: int, **environment: str) -> str:
    """What a child prints into a pipe (None) or a terminal of so many columns."""
    command = [sys.executable, "-c", PRINT_TABLE, str(rows)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1"} | environment
    if columns is None:
        printed = subprocess.run(command, env=env, check=True, capture_output=True).stdout
        return printed.decode(environment.get("PYTHONIOENCODING", "utf-8"))
    here, there = pty.openpty()
    with subprocess.Popen(command, env=env | {"COLUMNS": str(columns)}, stdout=there) as child:
        os.close(there)
        text = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while part := os.read(here, 65536):
                text += part
        assert child.wait() == 0
    os.close(here)
    return re.sub("\x1b\\[[0-9;]*m", "", text.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [None, 80, 120, 200, 400])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_no_table_breaks_an_id_a_path_or_a_word(columns: int | None, rows: int) -> None:
    text = _printed(columns, rows)
    for number in range(rows):
        assert IDS[number] in text
        for word in (*PATHS[number].split(), *REASON.split(), *HINT.split()):
            assert word in text
    for word in wide_table(rows).caption.split():
        assert word in text


def test_off_a_terminal_a_row_is_one_line() -> None:
    lines = [line for line in _printed(None, 3).splitlines() if any(scan in line for scan in IDS)]
    assert [
        REASON in line and PATHS[n] in line and HINT in line for n, line in enumerate(lines)
    ] == [True] * 3


def test_prose_is_wrapped_within_the_terminal() -> None:
    for line in _printed(120, 2).splitlines():
        assert len(line) <= 120 or "caption" in line


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_terminal_without_the_characters_gets_others(encoding: str) -> None:
    text = _printed(None, 3, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert "M\\xfcller" in text if encoding == "ascii" else "ller_" in text
    # Every row is as wide as the frame, whatever its characters became.
    frame = [line for line in text.splitlines() if line[:1] in "+|"]
    assert len({len(line) for line in frame}) <= 1


SAY = """
import sys
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
console.configure()
try:
    console.say("a notice")
    console.warn("scan\\udce9 \\x1b]0;title\\x07")
    with console.live("epoch", total=2) as track:
        track.update(advance=1, dice="0.5")
    console.result({}, console.Table("t", ["a"], [["b"]]))
except HemsegError as error:
    console.fail(str(error))
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        (">/dev/full", 1),
        ("2>/dev/full", 0),
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("| true", 0),
        ("2>&1 | head -c 1 >/dev/null", 0),
        ("<&- >/dev/null", 0),
    ],
)
def test_no_stream_that_fails_is_a_bug(redirection: str, code: int) -> None:
    command = f'"{sys.executable}" -c "$CODE" {redirection}'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "CODE": SAY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if code:
        assert "error: cannot print the result: No space left on device" in done.stderr


def test_names_cannot_steer_the_terminal_or_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.add_log_file(tmp_path / "log.txt")
    for act in (console.say, console.warn, console.fail, console.print_text):
        act("scan \x1b[2J\x07 \x9b end \udce9")
    console.print_table(Table("\x1bt", ["\x1bc"], [["\x1b[2J"]], caption="\x1bx"))
    out, err = capsys.readouterr()
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    for text in (out, err, log):
        assert not {"\x1b", "\x07", "\x9b"} & set(text)
        assert "scan \\x1b[2J\\x07 \\x9b end \\xe9" in text


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "below a file", "full disk"])
def test_a_log_that_cannot_be_written_is_a_warning_and_nothing_is_written_through_it(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, log = tmp_path / "mine.txt", tmp_path / "log.txt"
    mine.write_text("mine")
    if kind == "link":
        log.symlink_to(mine)
    elif kind == "pipe":
        os.mkfifo(log)
    elif kind == "folder":
        log.mkdir()
    elif kind == "below a file":
        log = mine / "log.txt"
    elif kind == "full disk":
        log.symlink_to("/dev/full")
    console.add_log_file(log)
    console.say("a notice")
    console.say("another")
    assert mine.read_text() == "mine"
    err = capsys.readouterr().err
    assert err.count("cannot be written") == 1
    assert "another" in err
    assert console.log_file() is None


def test_the_last_fields_give_way_in_a_narrow_terminal() -> None:
    track = console.Track("epoch", 10, "", None, None)
    track.update(dice="0.81", best="0.85", loss="0.123", left="3 min")
    assert track._note() == "dice 0.81  best 0.85  loss 0.123  left 3 min"
    assert track._note(30) == "dice 0.81  best 0.85"
    assert track._note(5) == ""
