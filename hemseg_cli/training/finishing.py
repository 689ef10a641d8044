"""Finish a trained run: choose its settings of prediction, then calibrate its volumes."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch

from hemseg_cli.core import console
from hemseg_cli.core.errors import Stopped
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.training.calibrate import (
    calibrate,
    calibration_text,
    plan_calibration,
    store_calibration,
)
from hemseg_cli.training.data_sets import DataSetCases
from hemseg_cli.training.scans import sample_by_volume
from hemseg_cli.training.signals import stop_requests
from hemseg_cli.training.tune_prediction import count_passes, store_settings, tune_prediction

# Beyond the default way of prediction, none is tried that would take longer than this share of the
# training's time.
_TUNING_TIME_SHARE = 0.1


def finish_run(
    run: RunDirectory,
    parts: Sequence[DataSetCases],
    device: torch.device,
    *,
    seconds: float,
    tuned: bool = False,
) -> None:
    """Do for the best checkpoint of a run what follows its last epoch, as `[train]` asks for it.

    `parts`: the data sets, the run's own first. `seconds`: how long the training took. `tuned`: its
    settings of prediction are chosen already. Stopped where a signal came in between.
    """
    train, best = parts[0].config.train, run.checkpoint("best")
    if train.choose != "none" and not tuned:
        _tune(run, parts[0], best, device, seconds=seconds * _TUNING_TIME_SHARE)
    if train.calibrate:
        calibrate_run(run, parts, best, device)


def calibrate_run(
    run: RunDirectory, parts: Sequence[DataSetCases], checkpoint: Path, device: torch.device
) -> None:
    """Calibrate a checkpoint of a run on its val split, and store the calibration in it."""
    plan = plan_calibration(parts)
    with (
        stop_requests() as request,
        console.live("calibrating", total=plan.steps) as track,
        contextlib.closing(calibrate(checkpoint, parts[0].config, plan, device)) as steps,
    ):
        for found in steps:
            track.update(advance=1)
            _stop_if_asked(request.exit_code, run, "calibrates its volumes")
            if found is not None:
                store_calibration(checkpoint, found)
                console.say(calibration_text(found))


def stopped(run: RunDirectory, exit_code: int) -> Stopped:
    """What is raised when a signal has ended a training whose state is saved."""
    return Stopped(
        exit_code,
        f"stopped; the state is saved: hemseg train --resume --run {run.name}   goes on there",
    )


def _tune(
    run: RunDirectory,
    home: DataSetCases,
    best: Path,
    device: torch.device,
    *,
    seconds: float,
) -> None:
    """Store the settings of prediction that suit the val split best in the best checkpoint."""
    config, cases = home.config, home.cases
    sample = sample_by_volume(cases.val[: config.train.validation_cases], config.train.choose_cases)
    total = len(sample) * count_passes(config)
    with (
        stop_requests() as request,
        console.live("choosing prediction settings", total=total) as track,
        contextlib.closing(tune_prediction(best, config, sample, device, seconds=seconds)) as steps,
    ):
        for tuned in steps:
            track.update(advance=1)
            _stop_if_asked(request.exit_code, run, "chooses its prediction settings")
            if tuned is not None:
                store_settings(best, tuned.settings)
                console.say(tuned.text())


def _stop_if_asked(exit_code: int | None, run: RunDirectory, what: str) -> None:
    if exit_code is not None:
        raise Stopped(
            exit_code,
            f"stopped; {run.name} is trained: hemseg train --resume --run {run.name}   {what}",
        )
