import json

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
