"""Files that ask for servers, code or folders outside; tables of models; impossible values."""

from pathlib import Path

import pytest

from hemseg_cli.config import dump, load
from hemseg_cli.core.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    return project / "hemseg.toml"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[compute]\nscheduler = 'tcp://other:8786'\n", "compute.scheduler"),
        ("[convert]\nkaggle_url = 'https://other'\n", "convert.kaggle_url"),
        ("[train]\nfactory = 'module:function'\n", "train.factory"),
        ("[data]\nroot = '/elsewhere'\n", "data.root"),
        ("[predict]\nkeep_identity = true\n", "predict.keep_identity"),
        ("[runs]\nroot = '../runs'\n", "runs.root"),
    ],
)
def test_file_is_asked_about_once_and_again_when_the_value_changes(
    file: Path, text: str, key: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match="--trust-config") as caught:
        load(environ={})
    assert key in str(caught.value)
    assert "hemseg.toml:2" in str(caught.value)

    load(environ={}, trust=True)
    load(environ={})
    file.write_text(text + "[evaluate]\nsplit = 'val'\n")
    load(environ={})
    file.write_text(text.replace("other", "third").replace("function", "run").replace("s'", "x'"))
    if file.read_text() != text:
        with pytest.raises(ConfigError, match="--trust-config"):
            load(environ={})


def test_what_the_user_types_needs_no_trust(file: Path) -> None:
    scheduler = "tcp://mine:1"
    assert load(options={"compute.scheduler": scheduler}, environ={}).compute.scheduler == scheduler
    load(assignments=["data.root=/elsewhere"], environ={})
    load(environ={"HEMSEG_COMPUTE__SCHEDULER": scheduler})
    file.write_text("[compute]\nscheduler = 'tcp://other:1'\n")
    load(options={"compute.scheduler": scheduler}, environ={})  # the file's own is not used


def test_precedence_of_a_models_table(file: Path) -> None:
    file.write_text(
        "[train]\nlr = 0.1\n[train.network]\nkernels = [3]\n[train.models.unet]\nlr = 0.2\n"
    )
    unet = {"train.model": "unet"}
    assert load(environ={}).train.lr == 0.1
    assert load(options=unet, environ={}).train.lr == 0.2
    assert load(options=unet, environ={}).train.network == {}
    assert load(options=unet, environ={"HEMSEG_TRAIN__LR": "0.3"}).train.lr == 0.3
    assert load(options=unet, assignments=["train.lr=0.4"], environ={}).train.lr == 0.4
    assert load(environ={}).train.network == {"kernels": [3]}
    assert load(assignments=["train.network={}"], environ={}).train.network == {}
    config = load(options=unet, assignments=["train.lr=0.4"], environ={})
    file.write_text(dump(config))
    assert load(environ={}) == config


@pytest.mark.parametrize(
    "text",
    [
        "[train]\nepochs = " + "9" * 5000,
        "[train]\nepochs = " + "9" * 400,
        "a = " + "[" * 3000 + "]" * 3000,
        ".".join("a" * 3000) + " = 1",
        "[train]\nlr = nan",
        "[train.network]\nx = [inf]",
        "[train]\nmodel = 2020-01-01",
        "[train.models.unet]\nlrr = 1",
        "[train.models.unet]\nmodel = 'x'",
        "[train.models]\nunet = 3",
        "[data]\nroot = '$HEMSEG_NO_SUCH_VARIABLE/x'",
    ],
)
def test_impossible_values_are_config_errors(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"hemseg\.toml"):
        load(environ={})


def test_secrets_of_urls_are_not_written(file: Path) -> None:
    url = "https://user:password@host/slices.zip?signature=abc#token"
    text = dump(load(options={"convert.dicom": url}, environ={}))
    assert "https://host/slices.zip" in text
    assert "password" not in text
    assert "abc" not in text
    assert "token" not in text
