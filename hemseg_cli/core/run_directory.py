"""Every file name inside a run directory, and which run is the latest."""

import contextlib
import glob
import itertools
import re
import shlex
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.files import file_lock, read_text, temporary_path
from hemseg_cli.core.names import first_few
from hemseg_cli.core.printable import printable

LATEST = "latest"
VOLUMES_FILE = "volumes.csv"
"""The table of volumes in a folder of predictions."""

ENSEMBLE = "-ensemble"
"""Ends the name of the run that holds the results of a cross-validation's folds together."""
_FOLD = "-fold"
_EXTERNAL = "external"
_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_RUNS_NAMED = 20


@dataclass(frozen=True)
class RunDirectory:
    """The names inside `runs/<name>/`; nothing is created by asking for one.

    `external`: the data set that predictions and evaluations are of, "" for the one that the run
    was trained on.
    """

    path: Path
    external: str = ""

    def on(self, dataset: str) -> "RunDirectory":
        """Return the same run with its results on another data set."""
        return replace(self, external=dataset)

    def external_evaluations(self) -> list[tuple[str, str]]:
        """Return (data set, split) of each evaluation on another data set."""
        found = (self.path / "evaluation" / _EXTERNAL).glob("*/*/summary.json")
        return sorted((file.parent.parent.name, file.parent.name) for file in found)

    def _results(self, kind: str, split: str) -> Path:
        folder = self.path / kind
        return (folder / _EXTERNAL / self.external if self.external else folder) / split

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The configuration that the run, or the first of its folds, was trained with."""
        own = self.path / "config.toml"
        return self.folds[0].config_file if self.folds and not own.exists() else own

    @property
    def environment_file(self) -> Path:
        """Versions, device, command line, git commit."""
        return self.path / "environment.json"

    @property
    def log_file(self) -> Path:
        """Everything that was said."""
        return self.path / "log.txt"

    @property
    def history_file(self) -> Path:
        """One row per epoch."""
        return self.path / "train" / "history.csv"

    def picture_file(self, epoch: int) -> Path:
        """The picture of an epoch's validation."""
        return self.path / "train" / "pictures" / f"epoch-{epoch:04d}.png"

    @property
    def checkpoints(self) -> Path:
        """The folder of `last.pt` and `best.pt`."""
        return self.path / "checkpoints"

    def checkpoint(self, which: str) -> Path:
        """`checkpoints/<which>.pt`; `which` is best or last."""
        return self.checkpoints / f"{which}.pt"

    def predictions(self, split: str) -> Path:
        """The folder of a split's masks."""
        return self._results("predictions", split)

    def prediction_file(self, split: str, scan: str) -> Path:
        """The mask of one scan."""
        return self.predictions(split) / f"{scan}.nii.gz"

    def network_mask_file(self, split: str, scan: str) -> Path:
        """The mask of one scan on the network's own grid, which `--protocol paper` scores."""
        return self.predictions(split) / "network" / f"{scan}.nii.gz"

    def volumes_file(self, split: str) -> Path:
        """Volumes and lesions, one row per scan."""
        return self.predictions(split) / VOLUMES_FILE

    def evaluation_cases_file(self, split: str) -> Path:
        """Metrics, one row per scan."""
        return self._results("evaluation", split) / "cases.csv"

    def evaluation_summary_file(self, split: str) -> Path:
        """Means, intervals, strata, warnings."""
        return self._results("evaluation", split) / "summary.json"

    @property
    def report_html(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def lock_file(self) -> Path:
        """What keeps two trainings out of one run."""
        return self.path / ".lock"

    @property
    def folds(self) -> "list[RunDirectory]":
        """The runs of the folds, in order, where this is the ensemble of a cross-validation."""
        if not self.name.endswith(ENSEMBLE) or self.checkpoints.is_dir():
            return []
        return fold_runs(self.path.with_name(self.name.removesuffix(ENSEMBLE)))

    @property
    def is_trained(self) -> bool:
        """Whether the run, or each of its folds, has a checkpoint."""
        parts = self.folds or [self]
        return all(any(part.checkpoints.glob("*.pt")) for part in parts)

    @property
    def trained_at_s(self) -> float:
        """When the newest checkpoint was written, in seconds since 1970; 0 without one."""
        files = (file for part in self.folds or [self] for file in part.checkpoints.glob("*.pt"))
        return max((file.stat().st_mtime for file in files), default=0.0)

    def command(self, name: str, split: str) -> str:
        """Return what to type to predict or evaluate this very run, split and data set."""
        here = Path.cwd()
        path = self.path.relative_to(here) if self.path.is_relative_to(here) else self.path
        data = f" --dataset {shlex.quote(self.external)}" if self.external else ""
        return f"hemseg {name} --run {shlex.quote(str(path))} --split {split}{data}"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run for one writer; HemsegError with the other's pid if somebody holds it."""
        return file_lock(self.lock_file, doing=f"run {self.path} is being trained")


def create_run(root: Path, *, model: str, name: str | None = None) -> RunDirectory:
    """Make a run below `root`, or open the existing one of that name.

    The default name is `<model>-<UTC time>`, with a number behind it for a second run in the same
    second. UsageError for a name that is no name of a folder.
    """
    chosen = name or f"{model.rpartition(':')[2]}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if not _RUN_NAME.fullmatch(chosen) or chosen == LATEST:
        raise UsageError(
            f"--run {printable(chosen)}: not a run name",
            hint="letters, digits, '.', '_' and '-', not 'latest'",
        )
    try:
        if name:
            (root / name).mkdir(parents=True, exist_ok=True)
            return RunDirectory(root / name)
        root.mkdir(parents=True, exist_ok=True)
        return RunDirectory(_make_new_folder(root, chosen))
    except OSError as error:
        raise HemsegError(
            f"cannot create run folder {root / chosen}: {error.strerror}",
            hint="--set runs.root=FOLDER names another place",
        ) from None


def _make_new_folder(root: Path, name: str) -> Path:
    for number in itertools.count(1):
        folder = root / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError  # the numbers do not end


def discard_run(run: RunDirectory) -> None:
    """Remove what a training that failed before its first checkpoint has written.

    A run with a checkpoint stays whole, and so does every file that training does not write. Call
    it while the lock is held: another training may hold the run.
    """
    if run.is_trained:
        return
    for file in (run.config_file, run.environment_file, run.log_file, run.history_file):
        file.unlink(missing_ok=True)
    lock = run.lock_file
    for file in (lock, lock.with_name(f"{lock.name}.holder")):
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            file.unlink(missing_ok=True)
    for folder in (run.history_file.parent, run.checkpoints, run.path):
        with contextlib.suppress(OSError):  # not empty, or not there
            folder.rmdir()


def fold_runs(stem: Path) -> list[RunDirectory]:
    """Return `<stem>-fold0`, `<stem>-fold1` ... that are there, by number."""
    numbers = {
        path.name.rpartition(_FOLD)[2]: path
        for path in stem.parent.glob(f"{glob.escape(stem.name)}{_FOLD}*")
        if path.is_dir()
    }
    folds = {int(number): path for number, path in numbers.items() if number.isdecimal()}
    return [RunDirectory(folds[number]) for number in sorted(folds)]


def fold_name(stem: str, fold: int) -> str:
    """Return the name of the run that trains one fold of a cross-validation."""
    return f"{stem}{_FOLD}{fold}"


def mark_ensemble_latest(root: Path, stem: str) -> RunDirectory:
    """Make the run of all folds of a cross-validation, and let `latest` name it."""
    run = RunDirectory(root / f"{stem}{ENSEMBLE}")
    try:
        run.path.mkdir(exist_ok=True)
    except OSError as error:
        raise HemsegError(f"cannot create run folder {run.path}: {error.strerror}") from None
    mark_latest(run)
    return run


def mark_latest(run: RunDirectory) -> None:
    """Let `latest` beside the run name it: a link, or a text file where there are no links."""
    latest = run.path.parent / LATEST
    temporary = temporary_path(latest)
    try:
        try:
            temporary.symlink_to(run.name)
        except (OSError, NotImplementedError):
            temporary.write_text(f"{run.name}\n", encoding="utf-8")
        temporary.replace(latest)
    except OSError as error:
        raise HemsegError(
            f"cannot write {latest}: {error.strerror}",
            hint="--set runs.root=FOLDER names another place",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def open_run(root: Path, name: str | Path | None = None) -> RunDirectory:
    """Open the run of that name or path; None or "latest": the newest one that is trained.

    The name of a cross-validation stands for the run of all its folds.

    HemsegError names the runs there are.
    """
    if name is None or str(name) == LATEST:
        return _latest_run(root)
    named = (root / str(name), Path(name))
    ensembles = (place.with_name(f"{place.name}{ENSEMBLE}") for place in named if place.name)
    for candidate in (*named, *ensembles):
        if candidate.is_dir():
            return RunDirectory(candidate.resolve() if candidate.is_symlink() else candidate)
    if Path(name).suffix == ".zip":
        raise HemsegError(
            f"there is no file {printable(str(name))}",
            hint="hemseg export --run RUN --out MODEL.zip   writes the archive of a run",
        )
    known = first_few([run.name for run in _runs(root)], most=_MOST_RUNS_NAMED)
    raise HemsegError(
        f"no run {printable(str(name))} in {root}",
        hint=f"there are: {known}" if known else "hemseg train   makes one",
    )


def _latest_run(root: Path) -> RunDirectory:
    """Follow `latest`; where it names no trained run, take the newest that is trained."""
    named = _named_by_latest(root / LATEST)
    if named is not None and named.is_trained:
        return named

    trained = [run for run in _runs(root) if run.is_trained]
    if trained:
        newest = max(trained, key=lambda run: run.trained_at_s)
        if (root / LATEST).is_symlink() or (root / LATEST).exists():
            console.warn(f"{root / LATEST} names no trained run; taking the newest, {newest.name}")
        return newest
    if named is not None:
        return named
    raise HemsegError(
        f"no run in {root}", hint="hemseg train   makes one; --run PATH names one elsewhere"
    )


def _named_by_latest(latest: Path) -> RunDirectory | None:
    """The run that the link or text file `latest` names; None where there is none."""
    if latest.is_dir():
        return RunDirectory(latest.resolve() if latest.is_symlink() else latest)
    if not latest.is_file():
        return None
    name = read_text(latest).strip()
    run = RunDirectory(latest.parent / name)
    return run if _RUN_NAME.fullmatch(name) and run.path.is_dir() else None


def _runs(root: Path) -> list[RunDirectory]:
    """Every run below `root`, by name."""
    if not root.is_dir():
        return []
    return [
        RunDirectory(path)
        for path in sorted(root.iterdir())
        if path.is_dir() and path.name != LATEST and not path.name.startswith(".")
    ]
