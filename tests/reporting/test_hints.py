"""What `report` says to type ends its refusal: no hint leads in a circle."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hemseg_cli.app import run
from tests.evaluation.toy import Workplace, make_workplace, truth

OPTIONS = ["--set", "compute.workers=0", "--set", "evaluate.bootstrap=100"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """Two evaluated runs on the val split; neither is what the commands take by themselves."""
    place = make_workplace(tmp_path)
    # The scans belong to val, so that every default (split test, the newest run) is another one.
    table = tmp_path / "data/toy/cases.csv"
    table.write_text(table.read_text().replace("test", "val"))
    (tmp_path / "data/toy/test").rename(tmp_path / "data/toy/val")
    for name in ("a", "b"):
        place.run(name, truth, split="val")
    place.run("newest", lambda _n: None)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "hemseg.toml").write_text('[data]\ndataset = "toy"\n')
    for name in ("a", "b"):
        assert run(["evaluate", "--run", name, "--split", "val", *OPTIONS]) == 0
    return place


def _damage(text: str, name: str) -> Callable[[], object]:
    return lambda: Path("runs/a/evaluation/val", name).write_text(text)


def _of_another_form() -> None:
    path = Path("runs/a/evaluation/val/summary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def _lost() -> None:
    Path("runs/a/evaluation/val/summary.json").unlink()


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(_damage("{", "summary.json"), id="damaged summary"),
        pytest.param(_damage("scan\n", "cases.csv"), id="damaged table"),
        pytest.param(_of_another_form, id="summary of another form"),
        pytest.param(_lost, id="no summary"),
    ],
)
def test_what_report_says_to_type_ends_its_refusal(
    harm: Callable[[], object], place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    del place
    harm()
    report = ["report", "--run", "a", "--run", "b", "--split", "val"]
    capsys.readouterr()
    assert run(report) == 1
    hint = capsys.readouterr().err.splitlines()[-1].strip()

    # What stands behind three blanks says what the command does.
    for command in hint.partition("   ")[0].split(" && "):
        assert run([*shlex.split(command)[1:], *OPTIONS]) == 0, command
    assert run(report) == 0, capsys.readouterr().err
