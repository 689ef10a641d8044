"""Rehearse a long training in minutes: every save, validation, resume, fold and process event.

python benchmarks/long_run.py [--scans 200,500] [--epochs 300] [--folder DIR]
    trains a tiny network on a case table of full size (scans of 32 x 32 x 8) by the command line:
    whole, stopped and resumed again and again, as one of five folds, and in two processes. Prints
    one JSON object: memory (MB) and processor seconds per epoch in the first and the last third of
    each training and their ratios, whether the stopped training gave the weights of the whole one,
    and whether history and TensorBoard hold every epoch and validation

Small try: python benchmarks/long_run.py --scans 20 --epochs 20
"""

import argparse
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from hemseg_cli.core.cases import Case, write_cases
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.models.checkpoint import read_checkpoint

_AFFINE = np.diag([5.0, 5.0, 5.0, 1.0])
_SHAPE = (32, 32, 8)
_VALIDATION_EVERY = 5
_STOPS = 5  # of the training that is stopped and resumed
_POLL_S = 0.2
_CONFIG = """
[data]
root = "{root}"
dataset = "tiny"
[runs]
root = "{root}/runs"
[compute]
device = "cpu"
workers = 0
[train]
epochs = {epochs}
validation_every = {every}
validation_cases = 20
patch = [16, 16, 4]
batch_size = {batch}
patches_per_scan = 1
save_minutes = 0.02
trackers = ["tensorboard"]
choose = "none"
network = {{ channels = [4, 4, 8], strides = [1, [2, 2, 1], 2], kernels = [[3, 3, 1], 3, 3], \
supervised_levels = 1 }}
"""


@dataclass
class _Watched:
    """What was seen of a training: epochs done, MB and processor seconds at each look."""

    epochs: list[int] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def thirds(self) -> dict[str, Any]:
        """Compare the first third of the epochs, after a tenth that warms up, with the last."""
        last = max(self.epochs)
        early = [n for n, epoch in enumerate(self.epochs) if last / 10 <= epoch <= last / 3]
        # Not after the first process has ended and taken its seconds with it.
        whole = 1 + self.cpu_s.index(max(self.cpu_s))
        late = [n for n, epoch in enumerate(self.epochs[:whole]) if epoch >= last * 2 / 3]
        memory = [statistics.median(self.memory_mb[n] for n in part) for part in (early, late)]
        pace = [
            (self.cpu_s[part[-1]] - self.cpu_s[part[0]])
            / max(1, self.epochs[part[-1]] - self.epochs[part[0]])
            for part in (early, late)
        ]
        return {
            "memory_mb": [round(value, 1) for value in memory],
            "memory_ratio": round(memory[1] / memory[0], 4),
            "cpu_s_per_epoch": [round(value, 4) for value in pace],
            "pace_ratio": round(pace[1] / pace[0], 3),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scans", default="200,500")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where data and runs are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        counts = [int(count) for count in options.scans.split(",")]
        rows = [_rehearse(folder / str(count), count, options.epochs) for count in counts]
    print(json.dumps({"epochs": options.epochs, "trainings": rows}, indent=2))


def _rehearse(root: Path, scans: int, epochs: int) -> dict[str, Any]:
    """All four trainings on one case table."""
    _draw(root / "tiny", scans)
    config = root / "hemseg.toml"
    text = _CONFIG.format(root=root, epochs=epochs, every=_VALIDATION_EVERY, batch=scans // 10)
    config.write_text(text)
    row: dict[str, Any] = {"scans": scans}

    whole = _train(root, config, "whole")
    row["whole"] = {**whole.thirds(), **_complete(root, "whole", epochs)}
    print(json.dumps(row), file=sys.stderr, flush=True)

    row["stopped"] = {
        "stops": _train_with_stops(root, config, "stopped", epochs),
        "same_weights": _same_weights(root, "whole", "stopped"),
        **_complete(root, "stopped", epochs),
    }
    fold = _train(root, config, "fold", "--fold", "1", "--folds", "5")
    row["fold"] = {**fold.thirds(), **_complete(root, "fold", epochs)}
    two = _train(root, config, "two", processes=2)
    row["two_processes"] = {**two.thirds(), **_complete(root, "two", epochs)}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def _draw(folder: Path, scans: int) -> None:
    """Brain with one bright ball in each scan; three fifths to train on, a fifth to validate."""
    random = np.random.default_rng(0)
    grid, cases = np.indices(_SHAPE), []
    for number in range(scans):
        split = ("train", "train", "train", "val", "test")[number % 5]
        case = Case(
            f"s{number}",
            patient=f"p{number}",
            split=split,
            image=f"{split}/image/s{number}.nii.gz",
            label=f"{split}/label/s{number}.nii.gz",
        )
        centre = [random.integers(n // 4, 3 * n // 4 + 1) for n in _SHAPE]
        ball = sum(((g - c) / (n / 7)) ** 2 for g, c, n in zip(grid, centre, _SHAPE, strict=True))
        label = ball < 1
        hu = np.where(label, 65, 35) + random.normal(0, 3, _SHAPE)
        write_volume(folder / case.image, Volume(hu.astype(np.int16), _AFFINE))
        write_volume(folder / case.label, Volume(label.astype(np.uint8), _AFFINE))
        cases.append(case)
    write_cases(folder / "cases.csv", cases)


def _start(config: Path, run: str, *more: str, processes: int = 1) -> subprocess.Popen[bytes]:
    words = ["train", "--config", str(config), "--trust-config", "--run", run, *more, "--quiet"]
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        start += ["-m", "--"]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*start, "hemseg_cli", *words], stdout=subprocess.DEVNULL, env=environ)


def _train(root: Path, config: Path, run: str, *more: str, processes: int = 1) -> _Watched:
    """Train to the end, and look at the processes meanwhile."""
    child = _start(config, run, *more, processes=processes)
    watched, history = _Watched(), RunDirectory(root / "runs" / run).history_file
    while child.poll() is None:
        time.sleep(_POLL_S)
        epochs = _rows(history)
        if not epochs:
            continue
        try:
            parent = psutil.Process(child.pid)
            tree = [parent, *parent.children(recursive=True)]
            times = [one.cpu_times() for one in tree]
            memory = sum(one.memory_info().rss for one in tree) / 1e6
        except psutil.Error:  # it has just ended
            continue
        watched.epochs.append(epochs)
        watched.memory_mb.append(memory)
        watched.cpu_s.append(sum(one.user + one.system for one in times))
    if child.returncode != 0:
        raise SystemExit(f"the training {run} ended with exit code {child.returncode}")
    return watched


def _train_with_stops(root: Path, config: Path, run: str, epochs: int) -> int:
    """Train, stopped by SIGTERM at places spread over the epochs, each time resumed."""
    history, stops = RunDirectory(root / "runs" / run).history_file, 0
    for number in range(1, _STOPS + 1):
        child = _start(config, run, *(["--resume"] if number > 1 else []))
        while _rows(history) < epochs * number // (_STOPS + 1) and child.poll() is None:
            time.sleep(_POLL_S / 10)
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        stops += child.wait() == 128 + signal.SIGTERM
    _train(root, config, run, "--resume")
    return stops


def _rows(history: Path) -> int:
    return max(0, history.read_bytes().count(b"\n") - 1) if history.is_file() else 0


def _complete(root: Path, run: str, epochs: int) -> dict[str, bool]:
    """Whether the history has every epoch and validation, and TensorBoard the same numbers."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory = RunDirectory(root / "runs" / run)
    with directory.history_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    validated = [row for row in rows if row["val_dice"]]

    events = EventAccumulator(str(directory.history_file.parent / "tensorboard"))
    events.Reload()
    shown = {event.step: event.value for event in events.Scalars("val_dice")}
    same = all(
        abs(shown.get(int(row["epoch"]), -1.0) - float(row["val_dice"])) < 1e-6 for row in validated
    )
    return {
        "history_complete": [int(row["epoch"]) for row in rows] == list(range(1, epochs + 1))
        and len(validated) == -(-epochs // _VALIDATION_EVERY),
        "tensorboard_complete": same and len(shown) == len(validated),
    }


def _same_weights(root: Path, one: str, other: str) -> bool:
    networks = [
        read_checkpoint(RunDirectory(root / "runs" / run).checkpoint("last"))["network"]
        for run in (one, other)
    ]
    return all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())


if __name__ == "__main__":
    main()
