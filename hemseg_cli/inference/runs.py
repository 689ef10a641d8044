"""From `--run` to checkpoint files: a run, a run with folds, or several of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.errors import HemsegError
from hemseg_cli.models.archive import is_archive
from hemseg_cli.run_directory import RunDirectory, open_run


@dataclass(frozen=True)
class Models:
    """What predicts: the runs and the checkpoint files of all their networks."""

    runs: tuple[RunDirectory, ...]
    checkpoints: tuple[Path, ...]


def find_models(config: Config, names: Sequence[str] | None) -> Models:
    """The networks of these runs (None: the newest run); HemsegError if a run is not there or was not trained yet."""
    found = [_find(config, name) for name in names or (None,)]
    return Models(tuple(run for run, _ in found), tuple(file for _, files in found for file in files))


def _find(config: Config, name: str | None) -> tuple[RunDirectory, list[Path]]:
    """A run with its checkpoint files; a model archive is its own checkpoint, and its run is named after it."""
    if name is not None and is_archive(Path(name)) and Path(name).is_file():
        return RunDirectory(config.runs.root / Path(name).stem), [Path(name)]
    run = open_run(config.runs.root, name)
    return run, _checkpoints(run, config.predict.checkpoint)


def ensemble_run(config: Config, models: Models) -> RunDirectory:
    """The run that a split's masks go into: the run itself, or one named after all of an ensemble's."""
    if len(models.runs) == 1:
        return models.runs[0]
    name = "ensemble-" + "+".join(run.name for run in models.runs)
    return RunDirectory(config.runs.root / name[:200])


def _checkpoints(run: RunDirectory, which: str) -> list[Path]:
    own = run.checkpoint(which)
    if own.is_file():
        return [own]
    folds = sorted(run.path.glob(f"fold*/checkpoints/{which}.pt"))
    if folds:
        return folds
    other = [name for name in ("best", "last") if run.checkpoint(name).is_file()]
    hint = f"--checkpoint {other[0]}   is there" if other else f"hemseg train --run {run.name} --resume   trains it"
    raise HemsegError(f"run {run.path} has no checkpoint {own.name}", hint=hint)
