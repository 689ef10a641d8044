"""No label reaches prediction: what is learnt from the wrong scans' labels is worth nothing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.app import run
from hemseg_cli.core.cases import read_cases
from hemseg_cli.dataset.phantom.dataset import make_phantom
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume

CONFIG = """\
[data]
dataset = "phantom"
[fetch]
source = "phantom"
[convert]
dicom = "phantom"
[compute]
workers = 0
[train]
epochs = 12
seed = 0
patch = [48, 48, 8]
patches_per_scan = 4
validation_every = 12
validation_cases = 2
ema_share = 0.1
lr = 0.01
[train.network]
channels = [8, 16, 32]
strides = [[1, 1, 1], [2, 2, 1], [2, 2, 2]]
kernels = [[3, 3, 1], [3, 3, 3], [3, 3, 3]]
supervised_levels = 1
[predict]
previews = false
"""


def _trained_dice(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> float:
    """Mean Dice on the test split of a network trained in `folder`."""
    monkeypatch.chdir(folder)
    assert run(["train", "--run", name, "--quiet"]) == 0
    assert run(["predict", "--quiet"]) == 0
    assert run(["evaluate", "--bootstrap", "100", "--quiet"]) == 0
    summary = json.loads(Path(f"runs/{name}/evaluation/test/summary.json").read_text())
    return float(summary["metrics"]["dice"]["mean"])


def _shift_labels(folder: Path) -> None:
    """Give each scan of the train and val splits the hemorrhages of another one.

    The test split stays as it is.
    """
    for split in ("train", "val"):
        cases = [case for case in read_cases(folder / "cases.csv") if case.split == split]
        masks = [read_volume(folder / case.label) for case in cases]
        for number, (case, own) in enumerate(zip(cases, masks, strict=True)):
            other = masks[(number + len(masks) // 2) % len(masks)].array
            wrong = np.zeros_like(own.array)
            depth = min(wrong.shape[2], other.shape[2])
            wrong[:, :, :depth] = other[
                ::-1, :, :depth
            ]  # mirrored too: hemorrhages lie near the same middle of every head
            write_volume(folder / case.label, Volume(wrong, own.affine))


def test_dice_collapses_when_the_training_labels_are_those_of_other_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    make_phantom(
        right / "phantom", seed=11, patients=9, matrix=64, slices=(12, 14), smallest_ml=3.0
    )
    (right / "hemseg.toml").write_text(CONFIG)
    monkeypatch.chdir(right)
    assert run(["fetch-labels", "--quiet"]) == 0
    assert run(["convert", "--quiet"]) == 0
    shutil.copytree(right, wrong)
    _shift_labels(wrong / "data" / "phantom")
    learnt = _trained_dice(right, "right", monkeypatch)
    assert learnt > 0.5
    assert _trained_dice(wrong, "wrong", monkeypatch) < learnt / 2
