"""Predict masks, volumes and previews for a run's split or for any scans (`hemseg predict`).

Only what is missing is done.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hemseg_cli.config import Config, config_of_run, data_of
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.executor import Outcome, default_workers, map_cases
from hemseg_cli.core.files import remove_leftovers, write_text
from hemseg_cli.core.names import first_few, printable
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.core.threads import use_threads
from hemseg_cli.imaging.dicom.origin import IDENTIFYING
from hemseg_cli.inference.case import (
    PredictedCase,
    PredictionTask,
    compute_case,
    predict_case,
    read_case,
    write_case,
)
from hemseg_cli.inference.checkpoints import TrainedModels, ensemble_run, find_models
from hemseg_cli.inference.formats import OutputFormat, chosen_formats
from hemseg_cli.inference.inputs.finding import (
    LABEL_MAP,
    Inputs,
    LeftOut,
    ScanInput,
    path_inputs,
    split_inputs,
)
from hemseg_cli.inference.inputs.naming_rules import check_rule
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.inference.pipeline import pipelined
from hemseg_cli.inference.predict_result import PredictResult
from hemseg_cli.inference.records import Claim, is_done, rebuild_tables, release, settings_hash_of

DEFAULT_OUT = Path("predictions")
MASK_SUFFIX = "_mask"
_FILES_NAMED = 6
# The tables are written as scans finish, but take no more than this share of the time.
_TABLES_SHARE = 0.05
_ELSEWHERE_POLL_S = 0.5


def predict(
    config: Config,
    *,
    runs: Sequence[str] | None = None,
    inputs: Sequence[Path] = (),
    out: Path | None = None,
    part: str | None = None,
    force: bool = False,
) -> PredictResult:
    """Predict `inputs` with these runs.

    No inputs: the scans of split `predict.split`. No runs: the newest; several: their mean. Masks
    go to the run, or to `out/<name>_mask.nii.gz`. `part`: `K/N`, every N-th scan from the K-th on.
    `force`: also what is done. A scan that fails is named in the result; the others go on.
    HemsegError if there is nothing to predict with or nothing to predict.
    """
    share = _share(part)
    formats = chosen_formats(config.predict.format)
    check_rule(config.predict.name_by, keep_identity=config.predict.keep_identity)
    models = find_models(config, runs)
    run = ensemble_run(config, models)
    found, trained_on, data_set = _inputs(config, models, inputs, out)

    if data_set != trained_on:
        run = run.on(data_set)
    folder = _folder(config, run, inputs, out)
    remove_leftovers(folder.path)
    if not inputs and len(models.runs) > 1 and out is None:
        _describe_ensemble(run, models)

    call = _Call(
        config,
        models,
        folder,
        settings_hash_of(models.checkpoints, config.predict),
        frozenset(source.path.resolve() for source in found.sources),
        force,
    )
    mine = found.sources[share[0] :: share[1]]
    waiting = mine if force else [source for source in mine if not call.is_done(source)]
    names = {source.name for source in waiting}
    result = PredictResult(
        folder.path,
        run.name,
        already_done=[source.name for source in mine if source.name not in names],
        left_out=list(found.left_out),
        trained_on=trained_on,
        data_set=data_set,
    )

    _say_identity(config, formats)
    _predict_all(call, [call.task(source) for source in waiting], result)
    rebuild_tables(folder)
    result.predicted.sort(key=lambda row: row.scan)
    return result


@dataclass(frozen=True)
class _Call:
    """What is the same for all scans of one call."""

    config: Config
    models: TrainedModels
    folder: OutputFolder
    settings_hash: str
    inputs: frozenset[Path]
    force: bool

    def is_done(self, source: ScanInput) -> bool:
        try:
            return is_done(self.folder, source, self.config.predict, self.settings_hash)
        except (HemsegError, OSError):  # the input cannot be read: said when its turn comes
            return False

    def task(self, source: ScanInput) -> PredictionTask:
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


def _inputs(
    config: Config, models: TrainedModels, inputs: Sequence[Path], out: Path | None
) -> tuple[Inputs, str, str]:
    """The scans, and for those of a split the data sets of the training and of the scans."""
    if inputs:
        found = path_inputs(
            inputs, name_by=config.predict.name_by, names_in=_folder_outside(out).records
        )
        _say_left_out(found.left_out)
        return found, "", ""

    trained = config_of_run(config, models.runs[0].config_file)
    data = data_of(config, trained)
    trained_on, data_set = trained.data.dataset, data.dataset
    if trained_on != data_set:
        console.warn(
            f"{models.runs[0].name} was trained on {trained_on}, and predicts {data_set}, "
            "which the config names"
        )
    return Inputs(split_inputs(data, config.predict.split)), trained_on, data_set


def _say_left_out(left_out: Sequence[LeftOut]) -> None:
    """Print one line for each reason, with the first files that it holds for."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in left_out:
        by_reason[one.reason].append(str(one.file))
    for reason, files in by_reason.items():
        console.say(printable(f"left out, {reason}: {first_few(files, _FILES_NAMED)}"))


def _say_identity(config: Config, formats: Sequence[OutputFormat]) -> None:
    """Say what DICOM files tell of the patient: a reader of them would look for it in vain."""
    titles = ", ".join(row.title for row in formats if row.needs_slices)
    if not titles:
        return
    elements = ", ".join(IDENTIFYING)
    if config.predict.keep_identity:
        console.say(f"{titles}: {elements} are kept as the source has them")
    else:
        console.say(f"{titles}: {elements} are left empty; --keep-identity keeps them")


def _predict_all(call: _Call, tasks: list[PredictionTask], result: PredictResult) -> None:
    """Predict the tasks; those that another process has at hand are waited for, then looked at."""
    tables = _Tables(call.folder)
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
                track.update(advance=1, scan=printable(upcoming.source.name))
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
    call: _Call, result: PredictResult, outcome: Outcome[PredictionTask, PredictedCase | Claim]
) -> None:
    """Put what became of a scan into the result."""
    name = outcome.item.source.name
    if isinstance(outcome.value, PredictedCase):
        result.predicted.append(outcome.value.row)
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
        _say_left_out([left_out])
        return

    release(call.folder, name)
    result.failures[name] = outcome.error or ""
    result.hints[name] = outcome.hint
    console.warn(printable(f"{name}: {outcome.error}"))


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


def _folder(
    config: Config, run: RunDirectory, inputs: Sequence[Path], out: Path | None
) -> OutputFolder:
    if inputs or out is not None:
        return _folder_outside(out)
    return OutputFolder(run.predictions(config.predict.split).absolute())


def _folder_outside(out: Path | None) -> OutputFolder:
    return OutputFolder((out or DEFAULT_OUT).absolute(), MASK_SUFFIX)


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


def _describe_ensemble(run: RunDirectory, models: TrainedModels) -> None:
    """Make an ensemble's folder a run of its own, which evaluate and report take."""
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
