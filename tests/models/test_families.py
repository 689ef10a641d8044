import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import hemseg_cli
from hemseg_cli import app
from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import FileFormatError, UsageError
from hemseg_cli.inference.ensemble import load_networks
from hemseg_cli.models.families import NETWORK, NNUNET, LazyFamily, imported
from hemseg_cli.models.registry import (
    MODELS,
    build_network,
    check_patch,
    listed_models,
    model_to_train,
    require_model,
)
from tests.training.small_run import small_config, small_data, write_config

OWN_NETWORK = """
import torch

import hemseg_cli

class TwoLayers(torch.nn.Module):
    def __init__(self, in_channels, width=4):
        super().__init__()
        self.first = torch.nn.Conv3d(in_channels, width, 3, padding=1)
        self.last = torch.nn.Conv3d(width, 1, 1)

    def forward(self, image):
        return self.last(torch.relu(self.first(image)))

not_callable = 3
"""


@pytest.mark.parametrize("family", [NETWORK, NNUNET], ids=["network", "nnunet"])
def test_every_function_of_a_family_can_be_imported(family: LazyFamily) -> None:
    for field in fields(family):
        name = getattr(family, field.name)
        if isinstance(name, str) and ":" in name:
            assert callable(imported(name)), field.name


def test_families_and_registry_load_neither_torch_nor_the_rooms_above() -> None:
    code = (
        "import sys, hemseg_cli.models.families, hemseg_cli.models.registry\n"
        "above = ('torch', 'monai', 'numpy', 'hemseg_cli.training', 'hemseg_cli.inference')\n"
        "print([name for name in above if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "own_nets.py").write_text(OWN_NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("_HEMSEG_ALLOWED_FACTORIES", "")
    yield "own_nets"
    sys.modules.pop("own_nets", None)
    importlib.invalidate_caches()


def test_own_factory_trains_and_predicts_locally_and_never_travels_in_an_archive(
    tmp_path: Path,
    own_module: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_data(tmp_path)
    factory = f"{own_module}:TwoLayers"
    config = small_config(tmp_path, "train.epochs=1", network=("train.network={width=2}",))
    file = str(write_config(tmp_path, config))
    command = ["--config", file, "--set", f"train.factory={factory}"]
    scan = str(next((tmp_path / "data").rglob("image/val*")))

    assert app.run(["train", *command, "--run", "mine"]) == 0
    assert app.run(["predict", *command, "--run", "mine", scan, "--out", str(tmp_path / "o")]) == 0
    assert len(list((tmp_path / "o").glob("val*.nii.gz"))) == 1
    capsys.readouterr()

    # Without the user's word the same checkpoint is refused: a file does not bring its code.
    monkeypatch.setenv("_HEMSEG_ALLOWED_FACTORIES", "")
    best = tmp_path / "runs" / "mine" / "checkpoints" / "best.pt"
    with pytest.raises(FileFormatError, match=r"best\.pt: .* is not run unasked") as caught:
        load_networks(best, PredictConfig(), torch.device("cpu"), None)
    assert f"--set train.factory={factory}" in caught.value.hint

    archive = str(tmp_path / "model.zip")
    assert app.run(["export", *command, "mine", "--out", archive]) == 1
    assert "an archive carries no code" in capsys.readouterr().err
    assert not Path(archive).exists()


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("absent_package.nets:Net", "No module named 'absent_package'"),
        ("own_nets:Absent", "has no attribute 'Absent'"),
        ("own_nets:not_callable", "neither a callable nor a ModelEntry"),
    ],
)
def test_missing_network_of_ones_own_is_named(
    tmp_path: Path, own_module: str, factory: str, message: str
) -> None:
    train = small_config(tmp_path, network=(f"train.factory={factory}",)).train
    with pytest.raises(UsageError, match=message):
        model_to_train(train)


def test_network_of_an_installed_package_is_listed_built_and_checked(
    tmp_path: Path, own_module: str
) -> None:
    about = tmp_path / "own_nets-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-nets\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        f"[hemseg.models]\ntwo-layers = {own_module}:TwoLayers\n"
    )
    assert require_model("two-layers").source == f"{own_module}:TwoLayers"
    assert [model.name for model in listed_models()] == [*MODELS, "two-layers"]
    check_patch("two-layers", {}, (7, 5, 3))
    network = build_network("two-layers", {"width": 3}, 2)
    assert [tuple(weight.shape) for weight in network.state_dict().values()] == [
        (3, 2, 3, 3, 3),
        (3,),
        (1, 3, 1, 1, 1),
        (1,),
    ]
    with pytest.raises(UsageError, match=r"train\.network\.widht.*did you mean width"):
        build_network("two-layers", {"widht": 3}, 2)


def test_broken_package_of_a_network_is_named(tmp_path: Path, own_module: str) -> None:
    about = tmp_path / "broken-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[hemseg.models]\nbroken = gone_package:Net\n")
    with pytest.raises(
        UsageError, match=r"train\.model = broken: No module named 'gone_package'"
    ) as caught:
        require_model("broken")
    assert "pip install broken" in caught.value.hint


def test_row_in_the_registry_is_all_that_a_network_takes(tmp_path: Path) -> None:
    """On a copy of the package: the row is inserted as a contributor would, and trained."""
    package = Path(hemseg_cli.__file__).parent
    shutil.copytree(package, tmp_path / "hemseg_cli", ignore=shutil.ignore_patterns("__pycache__"))
    registry = tmp_path / "hemseg_cli" / "models" / "registry.py"
    row = """\
        ModelEntry(
            name="basic-unet",
            title="BasicUNet",
            source="MONAI BasicUNet",
            factory=f"{_NETS}:BasicUNet",
            parameters=None,
            model_config={"spatial_dims": 3, "out_channels": 1, "features": [4, 4, 8, 8, 8, 4]},
            multiple=_same(16),
        ),
"""
    before, mark, after = registry.read_text().partition(
        '        ModelEntry(\n            name="nnunet"'
    )
    registry.write_text(before + row + mark + after)

    small_data(tmp_path)
    network = ("train.model=basic-unet", "train.patch=[32, 16, 16]", "train.epochs=1")
    file = write_config(tmp_path, small_config(tmp_path, network=network))

    def hemseg(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "hemseg_cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "basic-unet" in hemseg("train", "--list")
    trained = json.loads(hemseg("train", "--config", str(file), "--run", "a", "--json"))
    assert trained["model"] == "basic-unet"
    exported = hemseg("export", "--config", str(file), "a", "--out", "model.zip", "--json")
    assert json.loads(exported)["bytes"] == (tmp_path / "model.zip").stat().st_size
