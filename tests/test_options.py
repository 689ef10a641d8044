"""Options as a user types them: `~`, `--run` or the bare name, and what is shown of a URL."""

import json
from pathlib import Path

import pytest

from hemseg_cli.app import run
from hemseg_cli.core import console
from tests.inference.small_model import make_run


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, and a project with a run in it that is the current folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    make_run(tmp_path / "project")
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["--run", "run"], ["--run=run"], ["run", "--run", "run"], ["runs/run"], []],
)
def test_export_takes_the_run_either_way(home: Path, arguments: list[str]) -> None:
    assert run(["export", *arguments, "--out=~/shared.zip", "--quiet"]) == 0
    assert (home / "shared.zip").is_file()


def test_export_of_two_runs_is_a_usage_error(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", "run", "--run", "other"]) == 2
    assert "two runs" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["run"], ["--run", "run"], ["--run=~/project/runs/run"]])
def test_report_takes_the_run_either_way(
    home: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", *arguments]) == 1
    err = capsys.readouterr().err
    assert "runs/run has no evaluation" in err
    # What comes before it is named too: one hint does not lead to the next error.
    assert "hemseg predict --run runs/run --split test" in err
    assert "hemseg evaluate --run runs/run --split test" in err


@pytest.mark.parametrize("given", ["~/hemseg.toml", "$HOME/hemseg.toml"])
def test_config_is_found_below_home(
    home: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "hemseg.toml").write_text('[runs]\nroot = "~/elsewhere"\n')
    assert run(["config", "show", f"--config={given}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"]["root"] == str(home / "elsewhere")


@pytest.mark.parametrize("command", [["predict"], ["export"], ["evaluate"], ["report"]])
def test_missing_archive_is_a_missing_file(
    home: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--run", "absent.zip"]) == 1
    err = capsys.readouterr().err
    assert "there is no file absent.zip" in err
    assert "hemseg train" not in err


def test_no_token_of_a_url_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    url = "https://user:secret@host/a.zip?X-Signature=secret"
    payload = {"source": url, "more": [{"said": f'"{url}" was read'}]}
    table = console.Table("", ["source"], [[url]])
    for json_wanted in (True, False):
        console.configure(json=json_wanted)
        console.result(payload, table)
        out = capsys.readouterr().out
        assert "secret" not in out
        assert "https://host/a.zip" in out
        if json_wanted:
            assert json.loads(out)["more"][0]["said"] == '"https://host/a.zip" was read'
