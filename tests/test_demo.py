"""The demo's config is valid for every model, and a stage that leaves scans out stops the demo."""

import dataclasses
from pathlib import Path

import pytest

from hemseg_cli import demo
from hemseg_cli.config import load
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.models.registry import MODELS
from hemseg_cli.training.setup import check_network


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    demo._write_config("dynunet", seed=0, minutes=1.0, several=False)
    return tmp_path / "hemseg.toml"


@pytest.mark.parametrize("model", sorted(MODELS))
def test_config_of_the_demo_is_valid_for_every_model(config_file: Path, model: str) -> None:
    config = load(config_file, options={"train.model": model}, environ={})
    assert config.train.model == model
    if model != "nnunet":  # has no network of ours
        check_network(config)


def test_each_model_gets_its_own_table_alone(config_file: Path) -> None:
    dynunet = load(config_file, environ={}).train
    assert (dynunet.lr, dynunet.patch) == (0.005, (64, 64, 8))
    attention = load(config_file, options={"train.model": "attention-unet"}, environ={}).train
    assert (attention.lr, attention.patch) == (0.003, (96, 96, 16))
    assert attention.network == {"channels": [8, 16, 32, 64], "strides": [2, 2, 2]}
    assert load(config_file, options={"train.model": "vnet"}, environ={}).train.network == {}


def test_classes_that_are_not_drawn_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="class 'ICH' is not drawn"):
        demo.run_demo(tmp_path / "d", model="dynunet", seed=0, minutes=1, classes=["IPH", "ICH"])
    assert not (tmp_path / "d").exists()


@dataclasses.dataclass(frozen=True)
class _Converted:
    failures: dict[str, str]

    @property
    def failed(self) -> bool:
        return bool(self.failures)


def test_stage_with_refused_scans_stops_the_demo_and_names_them() -> None:
    refused = _Converted({"scan3": "slice 7 is missing"})
    stage = demo._Stage("convert", "", "hemseg convert", lambda: refused)
    with pytest.raises(HemsegError, match=r"convert: 1 scan failed: scan3: slice 7 is missing"):
        demo._run(stage, 3)
    complete = _Converted({})
    assert demo._run(dataclasses.replace(stage, work=lambda: complete), 3) is complete


def test_several_classes_share_most_patches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    several = demo._write_config("dynunet", seed=0, minutes=1.0, several=True)
    assert several.train.foreground_share == 0.8
    one = demo._write_config("dynunet", seed=0, minutes=1.0, several=False)
    assert one.train.foreground_share == 0.5
