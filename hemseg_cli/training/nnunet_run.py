"""A training of nnU-Net as a run like any other: its directory, progress, resume and result."""

from collections.abc import Mapping
from typing import Any

import torch

from hemseg_cli.config import Config, validate_file
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.run_directory import RunDirectory, mark_latest
from hemseg_cli.inference.predictor import torch_device
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.models.families import NNUNET
from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.display import show_row
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.finishing import calibrate_run, stopped
from hemseg_cli.training.nnunet import NnunetProgress, is_done, restored_progress, train_nnunet
from hemseg_cli.training.saving import finished_error, new_run, run_to_resume, written_run
from hemseg_cli.training.scans import training_cases
from hemseg_cli.training.signals import stop_requests
from hemseg_cli.training.state import check_same_config
from hemseg_cli.training.train import TrainResult


def train_nnunet_run(
    config: Config, *, run: str | None, resume: bool, keep_finished: bool = False
) -> TrainResult:
    """Train nnU-Net into a run directory, or go on where it stopped (`Family.train`)."""
    if len(config.data.train_on) > 1:
        raise UsageError(
            "nnU-Net trains on one data set: its trainer has no mask for partial labels",
            hint="another --model, or data.train_on with one name",
        )
    for key in ("start_from", "freeze"):
        if getattr(config.train, key) is not None:
            raise UsageError(
                f"train.{key} = {getattr(config.train, key)}: nnU-Net's own trainer begins anew",
                hint="fine-tune another --model, or leave --from and --freeze out",
            )
    cases = training_cases(config)
    device = torch_device(config.compute.device)
    directory, state = _begun(config, run, resume=resume)
    progress = restored_progress(directory, state) if directory and state else None
    if directory and progress and is_done(config.train, progress):
        if config.train.calibrate and "calibration" not in (state or {}):
            with written_run(directory, config, device, Processes()):
                _calibrate(directory, config, device)
            return _result(config, directory, progress)
        if keep_finished:
            return _result(config, directory, progress)
        raise finished_error(directory, len(progress.rows), progress.best_epoch, resume=resume)

    directory = directory or new_run(config, run)
    with (
        written_run(directory, config, device, Processes()),
        stop_requests() as request,
        console.live("training nnU-Net", total=config.train.epochs) as track,
    ):
        for progress in train_nnunet(
            config,
            directory,
            train=cases.train,
            val=cases.val,
            device=device,
            state=state,
            should_stop=lambda: bool(request),
        ):
            # The first epoch has left a checkpoint: the run can be predicted with.
            mark_latest(directory)
            best = f"{progress.best_dice:.4f} (epoch {progress.best_epoch})"
            show_row(track, progress.rows[-1], best=best)

        if request.exit_code is not None:
            raise stopped(directory, request.exit_code)
        if progress is None:
            raise HemsegError(
                "no epoch of nnU-Net was trained", hint="more --epochs or --max-minutes"
            )
        if config.train.calibrate:
            _calibrate(directory, config, device)
    return _result(config, directory, progress)


def _calibrate(run: RunDirectory, config: Config, device: torch.device) -> None:
    """Calibrate the final weights, which nnU-Net predicts with."""
    calibrate_run(run, data_set_cases(config), run.checkpoint(NNUNET.checkpoint), device)


def _begun(
    config: Config, name: str | None, *, resume: bool
) -> tuple[RunDirectory | None, Mapping[str, Any] | None]:
    """The run to go on with and its state; HemsegError if its configuration differs."""
    if resume:
        run = run_to_resume(config, name)
    else:
        run = RunDirectory(config.runs.root / str(name))
        if name is None or not run.checkpoint("last").exists():
            return None, None
    with run.lock():
        state = read_checkpoint(run.checkpoint("last"))
    check_same_config(run, validate_file(run.config_file).model_dump(mode="json"), config)
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
