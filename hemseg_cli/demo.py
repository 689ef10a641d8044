"""Run the whole pipeline on a drawn data set, through the functions behind the commands."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemseg_cli.core import console
from hemseg_cli.core.classes import HEMORRHAGE_ONLY
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.names import counted, first_few

if TYPE_CHECKING:
    from hemseg_cli.config import Config

PHANTOM_FOLDER = Path("phantom")
PHANTOM_PATIENTS = 26
PHANTOM_MATRIX = 128
PHANTOM_HEALTHY = 3
"""So many of the patients have no hemorrhage."""
PHANTOM_SMALLEST_ML = 1.0
"""Below, a bleed is some ten voxels of the demo's coarse slices: nothing that minutes teach."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo made: its folder, its page, and the results of training and evaluation."""

    folder: Path
    page: Path
    seconds: float
    train: Any
    evaluate: Any

    @property
    def failed(self) -> bool:
        """Never: a stage that fails ends the demo with an error."""
        return False

    def payload(self) -> dict[str, Any]:
        """The JSON object of `--json`."""
        return {
            "folder": str(self.folder.resolve()),
            "report": str(self.page.resolve()),
            "seconds": round(self.seconds, 1),
            "train": self.train.payload(),
            "evaluate": self.evaluate.payload(),
        }

    def tables(self) -> list[console.Table]:
        """The metrics, and what to do next."""
        done = console.Table(
            "Done",
            ["what", "where"],
            [
                ["report", str(self.page)],
                ["next", f"cd {self.folder}; hemseg evaluate --bootstrap 5000"],
            ],
        )
        return [*self.evaluate.tables(), done]


def run_demo(
    folder: Path, *, model: str, seed: int, minutes: float, classes: Sequence[str] = ()
) -> DemoResult:
    """Draw a data set into `folder` and take it through every stage, training for `minutes`.

    `classes`: keys of the classes to draw, label and tell apart (none: one class, hemorrhage).
    HemsegError naming the stage where one fails.
    """
    from hemseg_cli.dataset.phantom.plans import phantom_classes
    from hemseg_cli.models.registry import require_model

    # Before anything is written.
    require_model(model)
    keys = tuple(classes) or (HEMORRHAGE_ONLY[0].key,)
    phantom_classes(keys)
    start = time.monotonic()
    _make_folder(folder)
    with contextlib.chdir(folder):
        config = _write_config(model, seed=seed, minutes=minutes, several=len(keys) > 1)
        results = {
            stage.name: _run(stage, number)
            for number, stage in enumerate(_stages(config, seed, keys), 1)
        }
    return DemoResult(
        folder=folder,
        page=folder / results["report"].html,
        seconds=time.monotonic() - start,
        train=results["train"],
        evaluate=results["evaluate"],
    )


@dataclass(frozen=True)
class _Stage:
    """One stage: what it does, what a user would type for it, the function behind it."""

    name: str
    does: str
    typed: str
    work: Callable[[], Any]


def _stages(config: "Config", seed: int, classes: Sequence[str]) -> list[_Stage]:
    return [
        _Stage(
            "phantom",
            "draws head CTs as RSNA-shaped DICOM slices",
            "(the demo's own)",
            lambda: _phantom(seed, classes),
        ),
        _Stage(
            "fetch-labels",
            "verifies and lays out labels and case table",
            "hemseg fetch-labels",
            lambda: _fetch(config),
        ),
        _Stage(
            "convert",
            "DICOM to one NIfTI per scan, on the label's grid",
            "hemseg convert",
            lambda: _convert(config),
        ),
        _Stage(
            "train",
            f"trains {config.train.model} for {config.train.max_minutes:g} min",
            "hemseg train",
            lambda: _train(config),
        ),
        _Stage(
            "predict",
            "masks and volumes of the test split",
            "hemseg predict",
            lambda: _predict(config),
        ),
        _Stage(
            "evaluate",
            "Dice, IoU, HD95, volumes, with intervals",
            "hemseg evaluate",
            lambda: _evaluate(config),
        ),
        _Stage("report", "one page to look at", "hemseg report", lambda: _report(config)),
    ]


def _run(stage: _Stage, number: int) -> Any:
    console.say(f"{number}/7  {stage.typed:19} {stage.does}")
    start = time.monotonic()
    result = stage.work()
    # Every result of a stage says by `failed` whether scans were left out (core.result.Result).
    if getattr(result, "failed", False):
        failures: dict[str, str] = getattr(result, "failures", {})
        named = [f"{scan}: {reason}" for scan, reason in failures.items()]
        raise HemsegError(
            f"{stage.name}: {counted(len(named), 'scan')} failed: {first_few(named)}",
            hint=f"in the demo's folder: {stage.typed}   does what is missing",
        )

    console.say(f"     done in {time.monotonic() - start:.1f} s")
    return result


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HemsegError(
            f"cannot create {folder}: {error.strerror}", hint="--dir DIR names another place"
        ) from None


def _write_config(model: str, *, seed: int, minutes: float, several: bool) -> "Config":
    """Write the demo's `hemseg.toml` into the current folder, and load it as commands do."""
    from hemseg_cli.config import load
    from hemseg_cli.core.files import write_text

    text = _CONFIG.format(
        model=model,
        seed=seed,
        minutes=minutes,
        phantom=PHANTOM_FOLDER,
        classes=_SEVERAL_CLASSES if several else "",
    )
    write_text(Path("hemseg.toml"), text)
    return load(Path("hemseg.toml"), environ={})


_SEVERAL_CLASSES = """\
# The classes share these patches, and most stand in few scans.
foreground_share = 0.8
"""
_CONFIG = """\
# Written by hemseg demo. hemseg config show prints every key.
[data]
dataset = "phantom"

[fetch]
source = "{phantom}"

[convert]
dicom = "{phantom}"

[train]
model = "{model}"
seed = {seed}
max_minutes = {minutes}
# Small: the phantom's slices are 128 x 128, and a laptop has minutes, not days.
patch = [96, 96, 16]
patches_per_scan = 4
validation_every = 1000
validation_cases = 4
ema_share = 0.05
# Higher than the recipe's: the demo has minutes.
lr = 0.003
{classes}
# What one model alone takes stands in a table of that model.
[train.models.dynunet]
lr = 0.005
patch = [64, 64, 8]
network.channels = [8, 16, 32, 64]
network.strides = [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2]]
network.kernels = [[3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3]]
network.supervised_levels = 1

[train.models.unet]
network = {{ channels = [8, 16, 32, 64], strides = [2, 2, 2] }}

[train.models.attention-unet]
network = {{ channels = [8, 16, 32, 64], strides = [2, 2, 2] }}

[train.models.unetr]
lr = 0.001
network = {{ feature_size = 8, hidden_size = 96, mlp_dim = 384, num_heads = 4 }}

[train.models.swin-unetr]
lr = 0.001
patch = [96, 96, 32]
network.feature_size = 12

[train.nnunet]
memory_gb = 1.0
iterations_per_epoch = 25
validation_iterations = 5
mirror = false
"""


def _phantom(seed: int, classes: Sequence[str]) -> None:
    from hemseg_cli.dataset.phantom.dataset import make_phantom

    make_phantom(
        PHANTOM_FOLDER,
        seed=seed,
        patients=PHANTOM_PATIENTS,
        matrix=PHANTOM_MATRIX,
        classes=classes,
        healthy=PHANTOM_HEALTHY,
        smallest_ml=PHANTOM_SMALLEST_ML,
        workers=None,
    )


def _fetch(config: "Config") -> Any:
    from hemseg_cli.dataset.labels.fetch import fetch_labels

    return fetch_labels(config)


def _convert(config: "Config") -> Any:
    from hemseg_cli.dataset.conversion.convert import convert

    return convert(config)


def _train(config: "Config") -> Any:
    from hemseg_cli.training.train import train

    return train(config)


def _predict(config: "Config") -> Any:
    from hemseg_cli.inference.predict import predict

    return predict(config)


def _evaluate(config: "Config") -> Any:
    from hemseg_cli.evaluation.evaluate import evaluate

    return evaluate(config)


def _report(config: "Config") -> Any:
    from hemseg_cli.reporting.report import report

    return report(config)
