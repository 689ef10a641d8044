"""Drive nnU-Net's own trainer epoch by epoch and keep its network as a checkpoint of ours.

Network, loss, augmentation, optimiser and learning rate are nnU-Net's. `val_dice` in the history is
its own running pseudo Dice on validation patches, by which it chooses its best checkpoint too.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hemseg_cli.config import Config
from hemseg_cli.config.schema import TrainConfig
from hemseg_cli.core.cases import Case
from hemseg_cli.core.classes import LabelClass, classes_to_plain, read_classes
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.executor import default_workers
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.core.threads import use_threads
from hemseg_cli.inference.nnunet import quiet_stdout
from hemseg_cli.models.checkpoint import write_checkpoint
from hemseg_cli.models.nnunet_plans import require_nnunet
from hemseg_cli.training.history import write_history
from hemseg_cli.training.nnunet_dataset import (
    Workspace,
    dataset_json,
    plan_and_preprocess,
    write_dataset,
)

Row = dict[str, Any]


@dataclass
class NnunetProgress:
    """What has been reached: the history and the best epoch, as `last.pt` keeps them."""

    rows: list[Row] = field(default_factory=list)
    best_dice: float = -1.0
    best_epoch: int = 0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, pauses between resumes left out."""
        return float(self.rows[-1]["seconds"]) if self.rows else 0.0


def train_nnunet(
    config: Config,
    run: RunDirectory,
    *,
    train: Sequence[Case],
    val: Sequence[Case],
    device: torch.device,
    state: Mapping[str, Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[NnunetProgress]:
    """Plan, preprocess and train in `<run>/nnunet`.

    Yields after each epoch, its row and checkpoints already written. `state`: the checkpoint to go
    on from. `should_stop` is asked after each batch: the epoch then ends there and is saved. Raises
    HemsegError where the extra is missing or there are too few cases.
    """
    require_nnunet()
    if not train or not val:
        raise HemsegError(
            f"nnU-Net needs training and validation cases, there are {len(train)} and {len(val)}",
            hint="--fold 0 splits the train cases",
        )
    use_threads(config.compute.threads)
    settings = config.train.nnunet
    workers = default_workers() if config.compute.workers is None else config.compute.workers
    workspace = Workspace(run.path / "nnunet")
    classes = read_classes(config.data.directory)
    dataset_json(classes)  # refuses values with a gap before anything is written
    # The planner measures its network with as many threads as it would take for augmentation, which
    # may not be none.
    workspace.use(workers=max(1, workers))
    with quiet_stdout(str(workspace.log)):
        write_dataset(workspace, config.data.folder, train=train, val=val, classes=classes)
        plans = plan_and_preprocess(workspace, settings, workers=max(1, workers))
        workspace.use(workers=workers)
        torch.manual_seed(config.train.seed)
        trainer = _trainer(plans, config.train, device, classes)
        progress = NnunetProgress() if state is None else _restore(trainer, run, state)
        trainer.on_train_start()
    while not is_done(config.train, progress) and not should_stop():
        with quiet_stdout(str(workspace.log)):
            row = _epoch(trainer, config.train, progress, should_stop)
            best = row["val_dice"] > progress.best_dice
            if best:
                progress.best_dice, progress.best_epoch = row["val_dice"], row["epoch"]
            progress.rows.append({**row, "best": int(best)})
            _save(trainer, run, config, progress, best=best)
        yield progress
    with quiet_stdout(str(workspace.log)):
        _close_loaders(trainer)


def _trainer(
    plans: Mapping[str, Any],
    train: TrainConfig,
    device: torch.device,
    classes: Sequence[LabelClass],
) -> Any:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    trainer = nnUNetTrainer(
        {**plans, "continue_training": False},
        train.nnunet.configuration,
        0,
        dataset_json(classes),
        device,
    )
    trainer.num_epochs = train.epochs
    trainer.num_iterations_per_epoch = train.nnunet.iterations_per_epoch
    trainer.num_val_iterations_per_epoch = train.nnunet.validation_iterations
    trainer.disable_checkpointing = True  # its files need unpickling; ours do not
    trainer.initialize()
    return trainer


def _epoch(
    trainer: Any, train: TrainConfig, progress: NnunetProgress, should_stop: Callable[[], bool]
) -> Row:
    """One epoch of nnU-Net's own steps.

    With a time limit its polynomial schedule follows the clock where that runs ahead.
    """
    start = time.monotonic()
    elapsed = progress.seconds
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    outputs = []
    for _ in range(trainer.num_iterations_per_epoch):
        if train.max_minutes is not None:
            share = max(
                trainer.current_epoch / train.epochs,
                (elapsed + time.monotonic() - start) / (train.max_minutes * 60),
            )
            trainer.lr_scheduler.step(min(share, 1.0 - 1e-6) * train.epochs)
        outputs.append(trainer.train_step(next(trainer.dataloader_train)))
        if should_stop() or _time_is_up(train, elapsed + time.monotonic() - start):
            break
    trainer.on_train_epoch_end(outputs)
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        trainer.on_validation_epoch_end(
            [
                trainer.validation_step(next(trainer.dataloader_val))
                for _ in range(trainer.num_val_iterations_per_epoch)
            ]
        )
    trainer.logger.log("epoch_end_timestamps", time.time(), trainer.current_epoch)
    trainer.current_epoch += 1
    seconds = time.monotonic() - start
    return {
        "epoch": trainer.current_epoch,
        "seconds": round(elapsed + seconds, 3),
        "lr": float(trainer.optimizer.param_groups[0]["lr"]),
        "train_loss": float(trainer.logger.get_value("train_losses", step=-1)),
        "val_loss": float(trainer.logger.get_value("val_losses", step=-1)),
        "val_dice": float(trainer.logger.get_value("ema_fg_dice", step=-1)),
        "skipped": 0,
        "patches_per_s": round(len(outputs) * trainer.batch_size / seconds, 3),
    }


def _time_is_up(train: TrainConfig, seconds: float) -> bool:
    return train.max_minutes is not None and seconds >= train.max_minutes * 60


def _save(
    trainer: Any, run: RunDirectory, config: Config, progress: NnunetProgress, *, best: bool
) -> None:
    settings = config.train.nnunet
    weights = {key: value.detach().cpu() for key, value in trainer.network.state_dict().items()}
    patch = [int(size) for size in reversed(trainer.configuration_manager.patch_size)]
    common = {
        "model": weights,
        "model_name": "nnunet",
        "model_config": {
            "plans": json.dumps(trainer.plans_manager.plans),
            "dataset_json": json.dumps(trainer.dataset_json),
            "configuration": trainer.configuration_name,
            "mirror_axes": [int(axis) for axis in trainer.inference_allowed_mirroring_axes or ()],
        },
        "preprocess": {},
        "patch": [*patch, *[1] * (3 - len(patch))],  # a 2-D patch is one slice
        "in_channels": 1,
        "step": trainer.current_epoch * trainer.num_iterations_per_epoch,
        "epoch": trainer.current_epoch,
        "classes": classes_to_plain(read_classes(config.data.directory)),
        "dataset": config.data.dataset,
        "predict": {"overlap": settings.overlap, "tta": settings.mirror, "weighting": "gaussian"},
    }
    if best:
        write_checkpoint(run.checkpoint("best"), common)
    resume = {
        "optimiser": trainer.optimizer.state_dict(),
        "scaler": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
        "log": json.dumps(trainer.logger.get_checkpoint(), default=float),
        "rows": progress.rows,
        "best_dice": progress.best_dice,
        "best_epoch": progress.best_epoch,
    }
    write_checkpoint(run.checkpoint("last"), {**common, "nnunet": resume})
    write_history(run.history_file, progress.rows)


def is_done(train: TrainConfig, progress: NnunetProgress) -> bool:
    """Whether no epoch is left: all are trained, or the time is up."""
    return len(progress.rows) >= train.epochs or _time_is_up(train, progress.seconds)


def restored_progress(run: RunDirectory, checkpoint: Mapping[str, Any]) -> NnunetProgress:
    """The progress in the state of `last.pt`; FileFormatError if it is not nnU-Net's."""
    last = run.checkpoint("last")
    if checkpoint["model_name"] != "nnunet" or "nnunet" not in checkpoint:
        raise FileFormatError(
            f"{last} is a checkpoint of {checkpoint['model_name']}, not of nnunet",
            hint="name another --run",
        )
    try:
        state = checkpoint["nnunet"]
        rows = [dict(row) for row in state["rows"]]
        return NnunetProgress(rows, float(state["best_dice"]), int(state["best_epoch"]))
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{last} cannot be resumed: {error!r}") from None


def _restore(trainer: Any, run: RunDirectory, checkpoint: Mapping[str, Any]) -> NnunetProgress:
    """Take up the state of `last.pt`.

    Its random augmentation draws are new ones, as in nnU-Net itself.
    """
    progress = restored_progress(run, checkpoint)
    state = checkpoint["nnunet"]

    trainer.network.load_state_dict(checkpoint["model"])
    trainer.optimizer.load_state_dict(state["optimiser"])
    if trainer.grad_scaler is not None and state["scaler"] is not None:
        trainer.grad_scaler.load_state_dict(state["scaler"])

    trainer.logger.load_checkpoint(json.loads(state["log"]))
    trainer.current_epoch = int(checkpoint["epoch"])
    return progress


def _close_loaders(trainer: Any) -> None:
    """Stop nnU-Net's augmentation workers, which otherwise outlive the training."""
    for loader in (trainer.dataloader_train, trainer.dataloader_val):
        finish = getattr(loader, "_finish", None)
        if finish is not None:
            finish()
