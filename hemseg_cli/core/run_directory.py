"""Every file name inside a run directory, and which run is the latest."""

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.files import file_lock, temporary_path

LATEST = "latest"


@dataclass(frozen=True)
class RunDirectory:
    """The names inside `runs/<name>/`; nothing is created by asking for one."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.path.name

    @property
    def config_file(self) -> Path:
        """The configuration that the run was trained with."""
        return self.path / "config.toml"

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

    @property
    def checkpoints(self) -> Path:
        """The folder of `last.pt` and `best.pt`."""
        return self.path / "checkpoints"

    def checkpoint(self, which: str) -> Path:
        """`checkpoints/<which>.pt`; `which` is best or last."""
        return self.checkpoints / f"{which}.pt"

    def predictions(self, split: str) -> Path:
        """The folder of a split's masks."""
        return self.path / "predictions" / split

    def prediction_file(self, split: str, scan: str) -> Path:
        """The mask of one scan."""
        return self.predictions(split) / f"{scan}.nii.gz"

    def network_mask_file(self, split: str, scan: str) -> Path:
        """The mask of one scan on the network's own grid, which `--protocol paper` scores."""
        return self.predictions(split) / "network" / f"{scan}.nii.gz"

    def volumes_file(self, split: str) -> Path:
        """Volumes and lesions, one row per scan."""
        return self.predictions(split) / "volumes.csv"

    def preview_file(self, split: str, scan: str) -> Path:
        """The picture of one scan."""
        return self.predictions(split) / "preview" / f"{scan}.png"

    def evaluation_cases_file(self, split: str) -> Path:
        """Metrics, one row per scan."""
        return self.path / "evaluation" / split / "cases.csv"

    def evaluation_summary_file(self, split: str) -> Path:
        """Means, intervals, strata, warnings."""
        return self.path / "evaluation" / split / "summary.json"

    @property
    def report_html(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def report_markdown(self) -> Path:
        """The tables of the page."""
        return self.path / "report.md"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run for one writer; HemsegError with the other's pid if somebody holds it."""
        return file_lock(self.path / ".lock", doing=f"run {self.path} is being trained")


def create_run(root: Path, *, model: str, name: str | None = None) -> RunDirectory:
    """A new run below `root`, or the existing one of that name; default name `<model>-<UTC time>`."""
    chosen = name or f"{model.rpartition(':')[2]}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", chosen) or chosen == LATEST:
        raise UsageError(
            f"--run {chosen}: not a run name",
            hint="letters, digits, '.', '_' and '-', not 'latest'",
        )
    run = RunDirectory(root / chosen)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HemsegError(
            f"cannot create run folder {run.path}: {error.strerror}",
            hint="--set runs.root=FOLDER names another place",
        ) from None
    return run


def mark_latest(run: RunDirectory) -> None:
    """Let `latest` beside the run name it."""
    temporary = temporary_path(run.path.parent / LATEST)
    try:
        temporary.symlink_to(run.name)
        temporary.replace(run.path.parent / LATEST)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HemsegError(
            f"cannot write into {run.path.parent}: {error.strerror}",
            hint="--set runs.root=FOLDER names another place",
        ) from None


def open_run(root: Path, name: str | Path | None = None) -> RunDirectory:
    """The run of that name or path; None: the newest. HemsegError names what there is."""
    for candidate in [root / LATEST] if name is None else [root / str(name), Path(name)]:
        if candidate.is_dir():
            return RunDirectory(candidate.resolve() if candidate.is_symlink() else candidate)
    if name is None:
        raise HemsegError(
            f"no run in {root}", hint="hemseg train   makes one; --run PATH names one elsewhere"
        )
    known = (
        sorted(path.name for path in root.iterdir() if path.is_dir() and path.name != LATEST)
        if root.is_dir()
        else []
    )
    raise HemsegError(
        f"no run {name} in {root}",
        hint=f"there are: {', '.join(known)}" if known else "hemseg train   makes one",
    )
