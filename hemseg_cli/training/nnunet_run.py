"""A training of nnU-Net as a run like any other: its directory, progress, resume and result."""

from collections.abc import Mapping
from typing import Any

from hemseg_cli.config import Config, validate_file
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.files import remove_leftovers
from hemseg_cli.core.run_directory import RunDirectory, open_run
from hemseg_cli.inference.predictor import torch_device
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.training.display import show_row
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.nnunet import NnunetProgress, is_done, restored_progress, train_nnunet
from hemseg_cli.training.setup import training_cases
from hemseg_cli.training.signals import stop_requests
from hemseg_cli.training.state import check_same_config, finished_error
from hemseg_cli.training.train import TrainResult, new_run, stopped, write_setup


def train_nnunet_run(config: Config, *, run: str | None, resume: bool) -> TrainResult:
    """Train nnU-Net into a run directory, or go on where it stopped (`Family.train`)."""
    kept, validated = training_cases(config)
    device = torch_device(config.compute.device)
    directory, state = _resumable(config, run) if resume else (new_run(config, run), None)
    progress = None

    with (
        directory.lock(),
        stop_requests() as request,
        console.live("training nnU-Net", total=config.train.epochs) as track,
    ):
        console.add_log_file(directory.log_file)
        remove_leftovers(directory.path)
        write_setup(directory, config, device, Processes(), resumed=resume)

        for progress in train_nnunet(
            config,
            directory,
            train=kept,
            val=validated,
            device=device,
            state=state,
            should_stop=lambda: bool(request),
        ):
            best = f"{progress.best_dice:.4f} (epoch {progress.best_epoch})"
            show_row(track, progress.rows[-1], best=best)

    if request.exit_code is not None:
        raise stopped(directory, request.exit_code)
    if progress is None:
        raise HemsegError("no epoch of nnU-Net was trained", hint="more --epochs or --max-minutes")
    return _result(config, directory, progress)


def finished_nnunet(config: Config, run: RunDirectory) -> TrainResult | None:
    """The result of a run that has no epoch left to train, else None (`Family.finished`)."""
    progress = restored_progress(run, read_checkpoint(run.checkpoint("last")))
    return _result(config, run, progress) if is_done(config.train, progress) else None


def _resumable(config: Config, name: str | None) -> tuple[RunDirectory, Mapping[str, Any]]:
    """The run to resume with its state; HemsegError if it is finished or its config differs."""
    run = open_run(config.runs.root, name)
    state = read_checkpoint(run.checkpoint("last"))
    progress = restored_progress(run, state)
    check_same_config(run, validate_file(run.config_file).model_dump(mode="json"), config)
    if is_done(config.train, progress):
        raise finished_error(run, len(progress.rows), progress.best_epoch)
    return run, state


def _result(config: Config, run: RunDirectory, progress: NnunetProgress) -> TrainResult:
    return TrainResult(
        run,
        config.train.model,
        len(progress.rows),
        progress.best_epoch,
        progress.best_dice,
        progress.seconds,
    )
