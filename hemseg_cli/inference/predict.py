"""Predict masks, volumes and previews for a run's split or for any scans (`hemseg predict`).

Only what is missing is done.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from hemseg_cli.config import Config, config_of_run, data_of
from hemseg_cli.core import console
from hemseg_cli.core.errors import UsageError
from hemseg_cli.core.files import remove_leftovers, write_text
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.imaging.dicom.origin import IDENTIFYING
from hemseg_cli.inference.batch import Call, predict_all, say_left_out
from hemseg_cli.inference.checkpoints import TrainedModels, ensemble_run, find_models
from hemseg_cli.inference.formats import OutputFormat, chosen_formats
from hemseg_cli.inference.inputs.finding import (
    Inputs,
    path_inputs,
    split_inputs,
)
from hemseg_cli.inference.inputs.naming_rules import check_rule
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.inference.predict_result import PredictResult
from hemseg_cli.inference.records import rebuild_tables, settings_hash_of
from hemseg_cli.inference.watch import check_watched, watch

DEFAULT_OUT = Path("predictions")
MASK_SUFFIX = "_mask"


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

    call = Call(
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
    predict_all(call, [call.task(source) for source in waiting], result)
    rebuild_tables(folder)
    result.predicted.sort(key=lambda row: row.scan)
    return result


def predict_arriving(
    config: Config,
    *,
    inputs: Sequence[Path],
    runs: Sequence[str] | None = None,
    out: Path | None = None,
    force: bool = False,
) -> PredictResult:
    """Predict the studies of the folders `inputs` and each new one that arrives, until Ctrl-C.

    A study is taken when it has not changed for `predict.settle_s` seconds. The rest is as in
    `predict`. UsageError where an input is no folder.
    """
    folders = check_watched(inputs)
    formats = chosen_formats(config.predict.format)
    check_rule(config.predict.name_by, keep_identity=config.predict.keep_identity)
    models = find_models(config, runs)
    run = ensemble_run(config, models)
    folder = _folder(config, run, inputs, out)
    remove_leftovers(folder.path)

    settings_hash = settings_hash_of(models.checkpoints, config.predict)
    call = Call(config, models, folder, settings_hash, frozenset(), force)
    result = PredictResult(folder.path, run.name)
    _say_identity(config, formats)
    watch(call, folders, result)
    rebuild_tables(folder)
    result.predicted.sort(key=lambda row: row.scan)
    return result


def _inputs(
    config: Config, models: TrainedModels, inputs: Sequence[Path], out: Path | None
) -> tuple[Inputs, str, str]:
    """The scans, and for those of a split the data sets of the training and of the scans."""
    if inputs:
        found = path_inputs(
            inputs, name_by=config.predict.name_by, names_in=_folder_outside(out).records
        )
        say_left_out(found.left_out)
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


def _folder(
    config: Config, run: RunDirectory, inputs: Sequence[Path], out: Path | None
) -> OutputFolder:
    if inputs or out is not None:
        return _folder_outside(out)
    return OutputFolder(run.predictions(config.predict.split).absolute())


def _folder_outside(out: Path | None) -> OutputFolder:
    return OutputFolder((out or DEFAULT_OUT).absolute(), MASK_SUFFIX)


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
