"""Make trainings of a second, and real child processes to kill while they train."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hemseg_cli import app
from hemseg_cli.config import Config, dump
from hemseg_cli.core.cases import write_cases
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.models.checkpoint import read_checkpoint
from tests.training.scans import ball_scan, config_for

SMALL_DYNUNET = (
    "train.model=dynunet",
    "train.network={channels=[4, 4, 8], strides=[1, [2, 2, 1], 2], "
    "kernels=[[3, 3, 1], 3, 3], supervised_levels=1}",
)
_SMALL_TRAINING = (
    "train.patch=[16, 16, 4]",
    "train.patches_per_scan=3",
    "train.batch_size=2",
    "train.epochs=2",
    "train.validation_every=1",
    "train.seed=3",
)


def small_data(root: Path, *, train: int = 3, val: int = 2) -> None:
    """Write `root/data/tiny` with its case table."""
    folder = root / "data" / "tiny"
    splits = ["train"] * train + ["val"] * val
    cases = [
        ball_scan(folder, f"{split}{n}", shape=(24, 22, 8), seed=n, split=split)
        for n, split in enumerate(splits)
    ]
    write_cases(folder / "cases.csv", cases)


def small_config(root: Path, *assignments: str, network: tuple[str, ...] = SMALL_DYNUNET) -> Config:
    """A training of two epochs of five batches, in `root/runs`."""
    return config_for(
        root / "data", f"runs.root='{root / 'runs'}'", *_SMALL_TRAINING, *network, *assignments
    )


def write_config(root: Path, config: Config) -> Path:
    """The configuration as a file for the command line."""
    file = root / f"config-{time.monotonic_ns()}.toml"
    file.write_text(dump(config))
    return file


def start_child(
    arguments: list[str], output: Path, *, before: Callable[[], None] = lambda: None
) -> int:
    """Run the command line in a forked process, its output in a file; returns the process id.

    `before` runs in the child first.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        os.setpgid(0, 0)
        sys.stdout = sys.stderr = output.open("w", buffering=1)
        before()
        code = app.run(arguments)
    finally:
        os._exit(code)


def wait_for(condition: Callable[[], bool], pid: int) -> None:
    """Wait until the condition holds; an assertion fails if the child ends before."""
    while not condition():
        ended, status = os.waitpid(pid, os.WNOHANG)
        assert not ended, (
            f"the child ended with status {status} before the moment that the test waits for"
        )
        time.sleep(0.005)


def exit_code(pid: int) -> int:
    """Wait for the child's end: its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_child(pid: int, number: signal.Signals) -> int:
    """Send the signal and wait."""
    os.kill(pid, number)
    return exit_code(pid)


def marked(function: Callable[..., Any], marker: Path, *, call: int) -> Callable[..., Any]:
    """The function, which on its `call`-th call leaves a marker and waits a moment."""
    calls = [0]

    def with_mark(*arguments: Any, **keywords: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            marker.touch()
            time.sleep(0.2)
        return function(*arguments, **keywords)

    return with_mark


def tensors_of(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of a checkpoint by its path."""
    if isinstance(value, dict):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: value}
    return {
        key: leaf
        for name, item in pairs
        for key, leaf in tensors_of(item, f"{path}/{name}").items()
    }


def assert_same_state(run: RunDirectory, other: RunDirectory) -> None:
    """Bitwise the same networks, optimiser, history and position.

    Only what a clock says may differ.
    """
    ours, theirs = (tensors_of(read_checkpoint(one.checkpoint("last"))) for one in (run, other))
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        if path.rpartition("/")[2] in (
            "seconds",
            "validation_seconds",
            "patches_per_s",
        ) or path.startswith(("/config", "/random")):
            continue
        same = (
            torch.equal(value, theirs[path])
            if isinstance(value, torch.Tensor)
            else value == theirs[path]
        )
        assert same, f"{path}: {value} and {theirs[path]}"
