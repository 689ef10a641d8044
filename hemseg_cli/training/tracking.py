"""Send the numbers and pictures of a training to trackers: TensorBoard, Weights & Biases, MLflow.

Everything stands in `train/history.csv` and `train/pictures` anyway; a tracker shows it elsewhere.
A new one is a class with the methods of `Tracker` and a line of `_KINDS`.
"""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.files import write_text
from hemseg_cli.core.run_directory import RunDirectory

if TYPE_CHECKING:
    from hemseg_cli.config import Config

_PROJECT = "hemseg"


class Tracker(Protocol):
    """Where a training is followed.

    `errors`: what its library raises where it cannot be reached.
    """

    errors: tuple[type[Exception], ...]

    def step(self, loss: float, step: int) -> None:
        """Show the loss of an optimiser step."""

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """Show the figures of an epoch, by the columns of the history."""

    def picture(self, file: Path, epoch: int) -> None:
        """Show the picture (PNG) of an epoch's validation."""

    def close(self) -> None:
        """Send what is left."""


class TensorBoard:
    """Event files in `train/tensorboard`."""

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, config: "Config", run: RunDirectory) -> None:
        from torch.utils.tensorboard import SummaryWriter  # an extra

        self._writer: Any = SummaryWriter(str(run.history_file.parent / "tensorboard"))

    def step(self, loss: float, step: int) -> None:
        """Show the loss of an optimiser step."""
        self._writer.add_scalar("loss/step", loss, step)

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """Show the figures of an epoch."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, epoch)

    def picture(self, file: Path, epoch: int) -> None:
        """Show the picture of an epoch's validation."""
        import numpy as np
        from PIL import Image

        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._writer.add_image("validation", pixels, epoch, dataformats="HWC")

    def close(self) -> None:
        """Send what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `hemseg`, or of `WANDB_PROJECT`; `WANDB_MODE=offline` keeps it here."""

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, config: "Config", run: RunDirectory) -> None:
        import wandb  # an extra

        self.errors = (wandb.Error, OSError)
        folder = run.history_file.parent
        folder.mkdir(parents=True, exist_ok=True)
        self._image: Any = wandb.Image
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=run.name,
            id=_kept_id(folder / "wandb-id"),
            resume="allow",
            dir=str(folder),
            settings=wandb.Settings(silent=True),
            # Folders of the user's machine stay here.
            config=config.train.model_dump(mode="json"),
        )
        # The axes are ours: a resumed training would else be drawn after what it repeats.
        self._run.define_metric("loss/step", step_metric="step")
        self._run.define_metric("*", step_metric="epoch")

    def step(self, loss: float, step: int) -> None:
        """Show the loss of an optimiser step."""
        self._run.log({"loss/step": loss, "step": step})

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """Show the figures of an epoch."""
        self._run.log({**values, "epoch": epoch})

    def picture(self, file: Path, epoch: int) -> None:
        """Show the picture of an epoch's validation."""
        self._run.log({"validation": self._image(str(file)), "epoch": epoch})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


class MLflow:
    """A run of the experiment `hemseg` on the server that `MLFLOW_TRACKING_URI` names."""

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, config: "Config", run: RunDirectory) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient  # an extra

        # Its own default is a database or folder in the current folder, by its version.
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            raise HemsegError(
                "train.trackers: mlflow needs the address of its server",
                hint="export MLFLOW_TRACKING_URI=http://HOST:5000",
            )
        self.errors = (MlflowException, OSError)
        folder = run.history_file.parent
        folder.mkdir(parents=True, exist_ok=True)
        self._client: Any = MlflowClient(uri)
        self._id = self._run_id(folder / "mlflow-id", run.name)

    def _run_id(self, kept: Path, name: str) -> str:
        """Go on with the run that was begun, or begin one."""
        if kept.is_file():
            return kept.read_text(encoding="utf-8").strip()
        found = self._client.get_experiment_by_name(_PROJECT)
        experiment = found.experiment_id if found else self._client.create_experiment(_PROJECT)
        run_id = str(self._client.create_run(experiment, run_name=name).info.run_id)
        write_text(kept, run_id)
        return run_id

    def step(self, loss: float, step: int) -> None:
        """Leave steps out: each would be a message to the server that training waits for."""

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """Show the figures of an epoch."""
        for key, value in values.items():
            self._client.log_metric(self._id, key, value, step=epoch)

    def picture(self, file: Path, epoch: int) -> None:
        """Show the picture of an epoch's validation."""
        self._client.log_artifact(self._id, str(file), "validation")

    def close(self) -> None:
        """Mark the run as done; one that is resumed goes on all the same."""
        self._client.set_terminated(self._id)


_KINDS: dict[str, tuple[type[Any], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WeightsAndBiases, "tracking"),
    "mlflow": (MLflow, "tracking"),
}
"""The class of each name of `train.trackers`, and the extra that it needs."""


class Trackers:
    """All trackers of a training, as one. One that cannot be reached is left out from then on."""

    def __init__(self, trackers: Mapping[str, Tracker]) -> None:
        self._trackers = dict(trackers)

    def step(self, loss: float, step: int) -> None:
        """Show the loss of an optimiser step."""
        self._each(lambda tracker: tracker.step(loss, step))

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Show the figures of a row of the history."""
        shown = {
            key: float(value)
            for key, value in row.items()
            if value is not None and key.startswith(("train_", "val_", "lr", "patches_"))
        }
        self._each(lambda tracker: tracker.epoch(shown, int(row["epoch"])))

    def picture(self, file: Path, epoch: int) -> None:
        """Show the picture of an epoch's validation."""
        self._each(lambda tracker: tracker.picture(file, epoch))

    def close(self) -> None:
        """Send what is left."""
        self._each(lambda tracker: tracker.close())

    def _each(self, show: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                show(tracker)
            except tracker.errors as error:
                # A server that is down is no reason to lose a night's training.
                del self._trackers[name]
                console.warn(f"{name} cannot be reached, and gets nothing more: {error}")


@contextlib.contextmanager
def open_trackers(config: "Config", run: RunDirectory) -> Iterator[Trackers]:
    """Open the trackers that `train.trackers` names for the block.

    HemsegError naming the extra where one is not installed.
    """
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(config.train.trackers):
        kind, extra = _KINDS[name]
        try:
            opened[name] = kind(config, run)
        except ImportError as error:
            raise HemsegError(
                f"train.trackers: {name} is not installed ({error})",
                hint=f"pip install 'hemseg[{extra}]'",
            ) from None
    trackers = Trackers(opened)
    try:
        yield trackers
    finally:
        trackers.close()


def _kept_id(file: Path) -> str:
    """The id of a run elsewhere, drawn once and kept beside the history for the resumes."""
    if not file.is_file():
        write_text(file, uuid.uuid4().hex)
    return file.read_text(encoding="utf-8").strip()
