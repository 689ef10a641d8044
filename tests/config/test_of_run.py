"""The one rule by which a run finds its data set, and the commands that keep it."""

import json
from pathlib import Path

import pytest

from hemseg_cli.app import run
from hemseg_cli.config import config_of_run, data_of, load
from hemseg_cli.core import console
from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.core.errors import ConfigError
from hemseg_cli.imaging.nifti import Volume, write_volume
from tests.inference.small_model import make_run, scan, truth


def _folder(
    file: Path | None,
    trained: dict[str, str],
    *,
    assignments: tuple[str, ...] = (),
    environ: dict[str, str] | None = None,
) -> Path:
    config = load(file, assignments=assignments, environ=environ or {})
    return data_of(config, load(None, options=trained, environ={})).folder


def test_data_set_of_the_run_with_what_the_user_states_on_top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained = {"data.root": "there", "data.dataset": "hemseg-500"}
    file = tmp_path / "mine.toml"
    file.write_text("[data]\nroot = 'here'\n")
    assert _folder(None, trained) == Path("there/hemseg-500")
    assert _folder(file, trained) == Path("here/hemseg-500")
    assert _folder(None, trained, assignments=("data.dataset=hemseg-200",)) == Path(
        "there/hemseg-200"
    )  # though it is the default
    assert _folder(file, trained, environ={"HEMSEG_DATA__DATASET": "other"}) == Path("here/other")


def test_run_without_a_config_works_on_the_configured_data_set(tmp_path: Path) -> None:
    config = load(None, assignments=["data.root=here"], environ={})
    assert config_of_run(config, tmp_path / "config.toml") is config
    (tmp_path / "config.toml").write_text("[data]\ndataset = 3\n")
    with pytest.raises(ConfigError, match=r"data\.dataset"):
        config_of_run(config, tmp_path / "config.toml")


def _data_set(folder: Path, scan_id: str) -> None:
    image, label = f"test/image/{scan_id}.nii.gz", f"test/label/{scan_id}.nii.gz"
    drawn = scan()
    write_volume(folder / image, drawn)
    write_volume(folder / label, Volume(truth(drawn.array.shape), drawn.affine))
    write_cases(
        folder / "cases.csv", [Case(scan_id, "p", "test", 6, label, image, voxel_volume_mm3=125.0)]
    )


def test_predict_evaluate_and_report_work_on_the_same_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _data_set(
        tmp_path / "data/hemseg-200", "decoy"
    )  # where a user who states nothing would be without the run's config
    _data_set(tmp_path / "elsewhere/own", "mine")
    make_run(tmp_path)
    (tmp_path / "runs/run/config.toml").write_text('[data]\nroot = "elsewhere"\ndataset = "own"\n')
    (tmp_path / "elsewhere").rename(tmp_path / "moved")
    moved = ["--set", "data.root=moved", "--json", "--quiet"]
    answers = []
    for command in ("predict", "evaluate", "report"):
        assert run([command, *moved]) == 0, command
        answers.append(json.loads(capsys.readouterr().out))
    console.configure()
    assert [row["scan"] for row in answers[0]["predicted"]] == ["mine"]
    assert (
        (tmp_path / "runs/run/evaluation/test/cases.csv")
        .read_text()
        .splitlines()[1]
        .startswith("mine,")
    )
    assert answers[2]["viewer"] == {"scans": ["mine"], "left_out": {}}
