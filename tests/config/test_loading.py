from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemseg_cli.config import Config, dump, load, template, validate_file
from hemseg_cli.core.errors import ConfigError


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hemseg.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_precedence_is_option_then_set_then_environment_then_file_then_default(
    tmp_path: Path,
) -> None:
    file = _file(
        tmp_path, "[train]\nepochs = 2\nseed = 2\nfolds = 3\n[data]\ndataset = 'from-file'\n"
    )
    config = load(
        file,
        environ={
            "HEMSEG_TRAIN__EPOCHS": "3",
            "HEMSEG_TRAIN__SEED": "3",
            "HEMSEG_TRAIN__FOLDS": "4",
        },
        assignments=["train.epochs=4", "train.seed=4"],
        options={"train.epochs": 5, "train.model": None},
    )
    assert (config.train.epochs, config.train.seed, config.train.folds) == (5, 4, 4)
    assert config.data.dataset == "from-file"
    assert config.runs.root == Path("runs")


def test_recipe_lies_between_default_and_file(tmp_path: Path) -> None:
    assert load(assignments=["train.recipe=paper"], environ={}).train.epochs == 200
    assert (
        load(_file(tmp_path, "[train]\nrecipe = 'paper'\nepochs = 7\n"), environ={}).train.epochs
        == 7
    )


def test_config_in_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _file(tmp_path, "[train]\nepochs = 11\n")
    monkeypatch.chdir(tmp_path)
    assert load(environ={}).train.epochs == 11


def test_unknown_key_names_the_line_and_the_nearest_key(tmp_path: Path) -> None:
    file = _file(tmp_path, "# a comment\n[train]\nmodel = 'unet'\nepohs = 3\n")
    with pytest.raises(ConfigError) as caught:
        load(file, environ={})
    assert (
        f"train.epohs: unknown key ({file}:4); did you mean train.epochs?" in caught.value.message
    )
    assert caught.value.exit_code == 2


def test_unknown_section_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"trian: unknown key .*hemseg.toml:1.*did you mean train\?"
    ):
        load(_file(tmp_path, "[trian]\nepochs = 3\n"), environ={})


@pytest.mark.parametrize("value", ["'3'", "0", "1.5", "true", "[1]"])
def test_wrong_type_or_value_names_key_value_and_line(tmp_path: Path, value: str) -> None:
    file = _file(tmp_path, f"[train]\nepochs = {value}\n")
    with pytest.raises(ConfigError) as caught:
        validate_file(file)
    assert caught.value.message.startswith("train.epochs: ")
    assert f"({file}:2)" in caught.value.message


def test_every_problem_is_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(assignments=["train.epochs=0", "predict.overlap=2"], environ={})
    assert "train.epochs" in caught.value.message
    assert "predict.overlap" in caught.value.message


@pytest.mark.parametrize("text", ["epochs=3", "train.epochs", "=3"])
def test_set_that_is_no_assignment_shows_the_form(text: str) -> None:
    with pytest.raises(ConfigError, match="not of the form"):
        load(assignments=[text], environ={})


def test_environment_variable_is_named_in_the_message() -> None:
    with pytest.raises(ConfigError, match="HEMSEG_TRAIN__EPOCHS"):
        load(environ={"HEMSEG_TRAIN__EPOCHS": "many"})


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "absent.toml")
    assert "absent.toml does not exist" in caught.value.message
    assert "hemseg config init" in caught.value.hint


@pytest.mark.parametrize("content", [b"[train\n", b"model = unet\n", b"\xff\xfe[train]"])
def test_file_that_is_not_toml_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "hemseg.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"hemseg\.toml is not"):
        load(file, environ={})


def test_template_is_valid_and_equals_the_defaults(tmp_path: Path) -> None:
    assert load(_file(tmp_path, template()), environ={}) == load(environ={})


def test_template_describes_every_key() -> None:
    text = template()
    for section in Config.model_fields:
        assert f"[{section}]" in text
    assert text.count("\n# ") > 30


def test_dump_reads_back_as_the_same_config(tmp_path: Path) -> None:
    config = load(
        assignments=["train.recipe=paper", "train.model=swin-unetr", "compute.workers=3"],
        environ={},
    )
    assert load(_file(tmp_path, dump(config)), environ={}) == config


def test_config_is_frozen() -> None:
    config = load(environ={})
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3  # type: ignore[misc]  # the point of the test


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_as_a_file_gives_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.mktemp("config") / "hemseg.toml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        said = "" if isinstance(load(file, environ={}), Config) else "neither a config nor an error"
    except ConfigError as error:
        said = "" if str(file) in str(error) or ":" in error.message else error.message
    assert said == ""
