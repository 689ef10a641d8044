"""Find the checkpoint files that `--run` names.

It names a run, a run with folds, the runs of all folds, a model archive on this disk or on a
server, or several of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hemseg_cli.config import Config, validate_file
from hemseg_cli.config.of_run import config_of_run
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.run_directory import ENSEMBLE, RunDirectory, fold_runs, open_run
from hemseg_cli.models.archive import is_archive
from hemseg_cli.models.families import NETWORK
from hemseg_cli.models.registry import MODELS, allow_factory
from hemseg_cli.models.remote import fetch_model, is_remote


@dataclass(frozen=True)
class TrainedModels:
    """What predicts: the runs and the checkpoint files of all their networks.

    `name`: of the run that an ensemble's masks go into.
    """

    name: str
    runs: tuple[RunDirectory, ...]
    checkpoints: tuple[Path, ...]


@dataclass(frozen=True)
class _Found:
    """What one `--run` names."""

    name: str
    runs: list[RunDirectory]
    checkpoints: list[Path]


def find_models(config: Config, names: Sequence[str] | None) -> TrainedModels:
    """Find the networks of these runs (None: the newest run).

    HemsegError if a run is not there or was not trained yet.

    NAME stands for all of NAME-fold0, NAME-fold1 ... where there is no run of that name itself, and
    so does their NAME-ensemble.
    """
    if config.train.factory is not None:
        allow_factory(config.train.factory)
    found = [_find(config, name) for name in names or (None,)]
    name = (
        f"{found[0].name}{ENSEMBLE}"
        if len(found) == 1
        else "ensemble-" + "+".join(one.name for one in found)
    )
    return TrainedModels(
        name,
        tuple(run for one in found for run in one.runs),
        tuple(file for one in found for file in one.checkpoints),
    )


def _find(config: Config, name: str | None) -> _Found:
    """A run with its checkpoint files.

    A model archive is its own checkpoint, and its run is named after it.
    """
    if name is not None and is_remote(name):
        archive = fetch_model(config, name)
        return _Found(archive.name, [RunDirectory(config.runs.root / archive.name)], [archive.file])
    if name is not None and is_archive(Path(name)) and Path(name).is_file():
        run = RunDirectory(config.runs.root / Path(name).stem)
        return _Found(run.name, [run], [Path(name)])

    folds = _fold_runs(config, name)
    if not folds:
        run = open_run(config.runs.root, name)
        return _Found(run.name, [run], _checkpoints(config, run))
    stem = folds[0].name.rpartition("-fold")[0]
    _refuse_missing_folds(stem, folds)
    return _Found(stem, folds, [file for run in folds for file in _checkpoints(config, run)])


def _fold_runs(config: Config, name: str | None) -> list[RunDirectory]:
    """Return the folds of the cross-validation that is meant; none where one run is.

    Meant by its own name, by that of the folder which holds the masks of all folds, or by `latest`.
    """
    places = [config.runs.root / name, Path(name)] if name is not None else []
    if places and not any(place.is_dir() for place in places):
        return next((folds for place in places if (folds := fold_runs(place))), [])
    try:
        return open_run(config.runs.root, name).folds
    except HemsegError:  # it is said where the run is opened
        return []


def _refuse_missing_folds(name: str, folds: Sequence[RunDirectory]) -> None:
    """As many folds as the first one's config says; without one, no gap."""
    numbers = [int(run.name.rpartition("-fold")[2]) for run in folds]
    first = folds[0].config_file
    count = validate_file(first).train.folds if first.is_file() else max(numbers) + 1

    missing = [str(number) for number in range(count) if number not in numbers]
    if missing:
        raise HemsegError(
            f"{name} is a cross-validation of {count} folds, "
            f"and fold {', '.join(missing)} is not trained",
            hint=f"hemseg train --fold all --folds {count} --resume --run {name}   "
            "trains the rest; or name each run that is to be used",
        )


def ensemble_run(config: Config, models: TrainedModels) -> RunDirectory:
    """The run that a split's masks go into.

    The run itself, or one named after all of an ensemble's.
    """
    return (
        models.runs[0]
        if len(models.runs) == 1
        else RunDirectory(config.runs.root / models.name[:200])
    )


def _checkpoints(config: Config, run: RunDirectory) -> list[Path]:
    which = config.predict.checkpoint or _usual_checkpoint(config, run)
    own = run.checkpoint(which)
    if own.is_file():
        return [own]
    folds = sorted(run.path.glob(f"fold*/checkpoints/{which}.pt"))
    if folds:
        return folds
    other = [name for name in ("best", "last") if run.checkpoint(name).is_file()]
    hint = (
        f"--checkpoint {other[0]}   is there"
        if other
        else f"hemseg train --run {run.name} --resume   trains it"
    )
    raise HemsegError(f"run {run.path} has no checkpoint {own.name}", hint=hint)


def _usual_checkpoint(config: Config, run: RunDirectory) -> str:
    """The checkpoint that the family of the run's model predicts with."""
    model = MODELS.get(config_of_run(config, run.config_file).train.model)
    return NETWORK.checkpoint if model is None else model.family.checkpoint
