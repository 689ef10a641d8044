"""Predict a list of scans, here, in workers or on a cluster, and note what became of each."""

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.executor import Outcome, default_workers, map_cases
from hemseg_cli.core.names import duration_text, first_few
from hemseg_cli.core.printable import printable
from hemseg_cli.core.threads import use_threads
from hemseg_cli.inference.case import (
    PredictedCase,
    PredictionTask,
    compute_case,
    predict_case,
    read_case,
    write_case,
)
from hemseg_cli.inference.checkpoints import TrainedModels
from hemseg_cli.inference.inputs.finding import LABEL_MAP, LeftOut
from hemseg_cli.inference.inputs.scan_input import ScanInput
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.inference.pipeline import pipelined
from hemseg_cli.inference.predict_result import PredictResult
from hemseg_cli.inference.records import Claim, is_done, rebuild_tables, release

_FILES_NAMED = 6
# The tables are written as scans finish, but take no more than this share of the time.
_TABLES_SHARE = 0.05
_ELSEWHERE_POLL_S = 0.5


@dataclass(frozen=True)
class Call:
    """What is the same for all scans of one call."""

    config: Config
    models: TrainedModels
    folder: OutputFolder
    settings_hash: str
    inputs: frozenset[Path]
    force: bool

    def is_done(self, source: ScanInput) -> bool:
        """Whether every output of a scan stands already."""
        try:
            return is_done(self.folder, source, self.config.predict, self.settings_hash)
        except (HemsegError, OSError):  # the input cannot be read: said when its turn comes
            return False

    def task(self, source: ScanInput) -> PredictionTask:
        """Return all that is needed to predict a scan, in whatever process."""
        workers = self.config.compute.workers or 0
        # Absolute paths: a worker may stand in another folder.
        return PredictionTask(
            replace(source, path=source.path.absolute()),
            self.folder,
            tuple(path.absolute() for path in self.models.checkpoints),
            self.config.predict,
            _device(self.config.compute.device),
            _memory_mb(self.config, workers),
            self.settings_hash,
            self.inputs,
            self.force,
            threads=_threads(self.config, workers),
        )


def predict_all(call: Call, tasks: list[PredictionTask], result: PredictResult) -> None:
    """Predict the tasks; those that another process has at hand are waited for, then looked at."""
    tables, pace = _Tables(call.folder), _Pace(len(tasks))
    with console.live("predict", total=len(tasks)) as track:
        while tasks:
            elsewhere = []
            track.update(scan=printable(tasks[0].source.name))

            for number, outcome in enumerate(_outcomes(call.config, tasks), 1):
                if outcome.value is Claim.ELSEWHERE:
                    elsewhere.append(outcome.item)
                    continue
                _note(call, result, outcome)
                upcoming = tasks[min(number, len(tasks) - 1)]
                each, left = pace.step()
                shown = printable(upcoming.source.name)
                track.update(advance=1, each=each, left=left, scan=shown)
                tables.update()

            if elsewhere and len(elsewhere) == len(tasks):
                track.update(scan="waiting for another hemseg predict in this folder")
                time.sleep(_ELSEWHERE_POLL_S)
            tasks = elsewhere


def _outcomes(
    config: Config, tasks: Sequence[PredictionTask]
) -> Iterator[Outcome[PredictionTask, PredictedCase | Claim]]:
    """Predict here, reading and writing beside the computing, or in workers, or on a cluster."""
    workers, scheduler = config.compute.workers or 0, config.compute.scheduler
    if scheduler is None and min(workers, len(tasks)) <= 1:
        use_threads(config.compute.threads)
        return pipelined(tasks, read=read_case, compute=compute_case, write=write_case)
    return map_cases(predict_case, tasks, workers=workers, scheduler=scheduler)


def _note(
    call: Call, result: PredictResult, outcome: Outcome[PredictionTask, PredictedCase | Claim]
) -> None:
    """Put what became of a scan into the result."""
    name = outcome.item.source.name
    if isinstance(outcome.value, PredictedCase):
        result.predicted.append(outcome.value.row)
        # A watched study that was completed after it had failed has failed no longer.
        result.failures.pop(name, None)
        result.hints.pop(name, None)
        result.no_interval = printable(outcome.value.no_interval)
        if outcome.value.warnings:
            result.warnings[name] = [printable(text) for text in outcome.value.warnings]
        for warning in outcome.value.warnings:
            console.warn(printable(f"{name}: {warning}"))
        return

    if outcome.value is Claim.DONE:
        result.already_done.append(name)
        return

    if outcome.value is Claim.LABEL_MAP:
        left_out = LeftOut(outcome.item.source.path, LABEL_MAP)
        result.left_out.append(left_out)
        say_left_out([left_out])
        return

    release(call.folder, name)
    result.failures[name] = outcome.error or ""
    result.hints[name] = outcome.hint
    console.warn(printable(f"{name}: {outcome.error}"))


class _Pace:
    """Says how long a scan takes and how much time is left, over all scans done so far."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._begun_s = time.monotonic()

    def step(self) -> tuple[str, str]:
        """Count one scan as done; return the time that each took, and the time that is left."""
        self._done += 1
        each_s = (time.monotonic() - self._begun_s) / self._done
        left = duration_text(each_s * (self._total - self._done))
        return f"{each_s:.1f} s", left


class _Tables:
    """Writes `volumes.csv` and `lesions.csv` as scans finish.

    Not after every one: with a thousand scans in the folder that would take longer than they do.
    """

    def __init__(self, folder: OutputFolder) -> None:
        self._folder = folder
        self._next_s = 0.0

    def update(self) -> None:
        start_s = time.monotonic()
        if start_s < self._next_s:
            return
        rebuild_tables(self._folder)
        end_s = time.monotonic()
        self._next_s = end_s + (end_s - start_s) / _TABLES_SHARE


def say_left_out(left_out: Sequence[LeftOut]) -> None:
    """Print one line for each reason, with the first files that it holds for."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in left_out:
        by_reason[one.reason].append(str(one.file))
    for reason, files in by_reason.items():
        console.say(printable(f"left out, {reason}: {first_few(files, _FILES_NAMED)}"))


def _threads(config: Config, workers: int) -> int | None:
    """The threads of each of several workers, which share out the cores; None: of this process."""
    if workers <= 1:
        return None
    return config.compute.threads or max(1, default_workers() // workers)


def _memory_mb(config: Config, workers: int) -> int | None:
    """The memory of one process; None: half of what is free where the network is loaded."""
    total = config.compute.memory_mb
    if workers <= 1 or config.compute.scheduler is not None:
        return total
    if total is None:
        import psutil

        total = int(psutil.virtual_memory().available / 2**21)
    return max(64, total // workers)


def _device(name: str) -> str:
    """Under torchrun each rank of a machine takes a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if local is not None and name in ("auto", "cuda"):
        import torch

        if torch.cuda.is_available():
            return f"cuda:{int(local) % torch.cuda.device_count()}"
    return name
