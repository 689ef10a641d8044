"""`hemseg predict`: masks, volumes and previews for a run's split or for any scans.

Only what is missing is done.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hemseg_cli.config import Config, config_of_run, data_of
from hemseg_cli.core import console
from hemseg_cli.core.console import Table
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.executor import Outcome, default_workers, map_cases
from hemseg_cli.core.files import write_text
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.inference.case import (
    Predicted,
    PredictionTask,
    compute_case,
    predict_case,
    read_case,
    write_case,
)
from hemseg_cli.inference.checkpoints import TrainedModels, ensemble_run, find_models
from hemseg_cli.inference.inputs.finding import Inputs, ScanInput, path_inputs, split_inputs
from hemseg_cli.inference.outputs import OutputFolder, is_done, rebuild_volumes, settings_hash_of
from hemseg_cli.inference.pipeline import pipelined

DEFAULT_OUT = Path("predictions")
MASK_SUFFIX = "_mask"
_NAMED_AT_MOST = 6


@dataclass(frozen=True)
class Failure:
    """A scan that could not be predicted, and why."""

    scan: str
    error: str
    hint: str = ""


@dataclass(frozen=True)
class PredictResult:
    """What one call did."""

    folder: Path
    run: str
    predicted: list[dict[str, Any]] = field(default_factory=list)
    already_done: list[str] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    left_out: tuple[tuple[Path, str], ...] = ()

    def payload(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return {
            "run": self.run,
            "folder": str(self.folder),
            "volumes": str(self.folder / "volumes.csv"),
            "predicted": self.predicted,
            "already_done": self.already_done,
            "failed": [
                {"scan": failure.scan, "error": failure.error, "hint": failure.hint}
                for failure in self.failed
            ],
            "warnings": self.warnings,
            "left_out": [{"file": str(file), "reason": reason} for file, reason in self.left_out],
        }

    def tables(self) -> list[Table]:
        """The result as a person sees it."""
        rows = [
            [
                str(row["scan"]),
                f"{row['predicted_ml']:.2f}",
                str(row["lesions"]),
                f"{row['largest_ml']:.2f}",
            ]
            for row in self.predicted
        ]
        done = f"; {len(self.already_done)} were done already" if self.already_done else ""
        tables = [
            Table(
                f"{len(self.predicted)} scans predicted by {self.run}",
                ["scan", "mL", "lesions", "largest mL"],
                rows,
                caption=f"in {self.folder}{done}",
                right=frozenset({"mL", "lesions", "largest mL"}),
            )
        ]
        if self.failed:
            reasons = [[failure.scan, failure.error, failure.hint] for failure in self.failed]
            tables.append(
                Table(f"{len(self.failed)} scans failed", ["scan", "reason", "what helps"], reasons)
            )
        return tables


def predict(
    config: Config,
    *,
    runs: Sequence[str] | None = None,
    inputs: Sequence[Path] = (),
    out: Path | None = None,
    part: str | None = None,
    force: bool = False,
) -> PredictResult:
    """Predict `inputs` (none: the scans of split `predict.split`) with these runs (none.

    The newest; several: their mean).

    Masks go to the run, or to `out/<name>_mask.nii.gz`. `part`: `K/N`, every N-th scan from the
    K-th on. `force`: also what is done. A scan that fails is named in the result; the others go on.
    HemsegError if there is nothing to predict with or nothing to predict.
    """
    share = _share(part)
    if config.predict.format == "dicom-seg":
        from hemseg_cli.imaging.dicom.seg import require_highdicom

        require_highdicom()
    models = find_models(config, runs)
    run = ensemble_run(config, models)
    found = (
        path_inputs(inputs, uneven=config.convert.uneven)
        if inputs
        else Inputs(_split_sources(config, models))
    )
    sources = found.sources
    _say_left_out(found)
    folder = _folder(config, run, inputs, out)
    settings_hash = settings_hash_of(models.checkpoints, config.predict)
    mine = sources[share[0] :: share[1]]
    waiting = (
        mine
        if force
        else [source for source in mine if not _done(folder, source, config, settings_hash)]
    )
    names = {source.name for source in waiting}
    result = PredictResult(
        folder.path,
        run.name,
        already_done=[source.name for source in mine if source.name not in names],
        left_out=found.left_out,
    )
    if not inputs and len(models.runs) > 1 and out is None:
        _describe_ensemble(run, models)
    resolved = frozenset(source.path.resolve() for source in sources)
    jobs = [
        _job(config, models, folder, source, settings_hash, resolved, force) for source in waiting
    ]
    for outcome in console.progress(_outcomes(config, jobs), label="predict", total=len(jobs)):
        _note(result, outcome)
    rebuild_volumes(folder)
    result.predicted.sort(key=lambda row: str(row["scan"]))
    return result


def _say_left_out(inputs: Inputs) -> None:
    """One line for each reason, with the first files that it holds for."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for file, reason in inputs.left_out:
        by_reason[reason].append(str(file))
    for reason, files in by_reason.items():
        more = f" and {len(files) - _NAMED_AT_MOST} more" if len(files) > _NAMED_AT_MOST else ""
        console.say(f"left out, {reason}: {', '.join(files[:_NAMED_AT_MOST])}{more}")


def _split_sources(config: Config, models: TrainedModels) -> list[ScanInput]:
    trained = config_of_run(config, models.runs[0].config_file)
    return split_inputs(data_of(config, trained), config.predict.split)


def _outcomes(
    config: Config, jobs: Sequence[PredictionTask]
) -> Iterator[Outcome[PredictionTask, Predicted]]:
    """Here with reading and writing beside the computing; or in worker processes.

    Or on a cluster.
    """
    workers, scheduler = config.compute.workers or 0, config.compute.scheduler
    if scheduler is None and min(workers, len(jobs)) <= 1:
        return pipelined(jobs, read=read_case, compute=compute_case, write=write_case)
    return map_cases(predict_case, jobs, workers=workers, scheduler=scheduler)


def _job(
    config: Config,
    models: TrainedModels,
    folder: OutputFolder,
    source: ScanInput,
    settings_hash: str,
    inputs: frozenset[Path],
    force: bool,
) -> PredictionTask:
    workers = config.compute.workers or 0
    # Absolute paths: a worker may stand in another folder.
    return PredictionTask(
        replace(source, path=source.path.absolute()),
        folder,
        tuple(path.absolute() for path in models.checkpoints),
        config.predict,
        _device(config.compute.device),
        _memory_mb(config, workers),
        settings_hash,
        inputs,
        force,
        threads=max(1, default_workers() // workers) if workers > 1 else None,
    )


def _memory_mb(config: Config, workers: int) -> int | None:
    """The memory of one process; None: half of what is free where the network is loaded."""
    total = config.compute.memory_mb
    if workers <= 1 or config.compute.scheduler is not None:
        return total
    if total is None:
        import psutil

        total = int(psutil.virtual_memory().available / 2**21)
    return max(64, total // workers)


def _note(result: PredictResult, outcome: Outcome[PredictionTask, Predicted]) -> None:
    name = outcome.item.source.name
    if outcome.value is None:
        result.failed.append(Failure(name, outcome.error or "", outcome.hint))
        console.warn(f"{name}: {outcome.error}")
        return
    result.predicted.append(outcome.value.volumes)
    if outcome.value.warnings:
        result.warnings[name] = list(outcome.value.warnings)
    for warning in outcome.value.warnings:
        console.warn(f"{name}: {warning}")


def _folder(
    config: Config, run: RunDirectory, inputs: Sequence[Path], out: Path | None
) -> OutputFolder:
    if inputs or out is not None:
        return OutputFolder((out or DEFAULT_OUT).absolute(), MASK_SUFFIX)
    return OutputFolder(run.predictions(config.predict.split).absolute())


def _done(folder: OutputFolder, source: ScanInput, config: Config, settings_hash: str) -> bool:
    try:
        return is_done(folder, source, config.predict, settings_hash)
    except HemsegError:  # the input cannot be read: said when its turn comes
        return False


def _describe_ensemble(run: RunDirectory, models: TrainedModels) -> None:
    """An ensemble's folder is a run of its own, which evaluate and report take."""
    first = models.runs[0].config_file
    if first.is_file():
        write_text(run.config_file, first.read_text(encoding="utf-8"))


def _share(part: str | None) -> tuple[int, int]:
    """Which scans are this call's: first and step.

    Under torchrun the part is divided among the ranks.
    """
    first, step = 0, 1
    if part is not None:
        number, slash, count = part.partition("/")
        if (
            not slash
            or not number.isdigit()
            or not count.isdigit()
            or not 1 <= int(number) <= int(count)
        ):
            raise UsageError(
                f"--part {part}: not of the form K/N with K from 1 to N",
                hint="for example --part 1/4",
            )
        first, step = int(number) - 1, int(count)
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return first + rank * step, step * world


def _device(name: str) -> str:
    """Under torchrun each rank of a machine takes a GPU of its own."""
    local = os.environ.get("LOCAL_RANK")
    if local is not None and name in ("auto", "cuda"):
        import torch

        if torch.cuda.is_available():
            return f"cuda:{int(local) % torch.cuda.device_count()}"
    return name
