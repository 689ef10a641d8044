"""Choose the settings of prediction that a run stores, on the val split, when training is done.

They are compared on what `predict` itself makes of the scans.

One option at a time, beside what has been kept so far. A change is kept where it raises
the mean Dice by 0.005 and helps more scans than it harms: a val split is small, and would else
choose by noise.
"""

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.config import Config
from hemseg_cli.core.cases import Case
from hemseg_cli.core.classes import read_classes
from hemseg_cli.evaluation.metrics import dice
from hemseg_cli.imaging.components import component_of
from hemseg_cli.imaging.geometry import header_voxel_volume_mm3
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.nifti import read_volume
from hemseg_cli.imaging.orientation import match_axes, to_canonical
from hemseg_cli.inference.predictor import Predictor
from hemseg_cli.inference.settings import Settings
from hemseg_cli.models.checkpoint import read_checkpoint, write_checkpoint
from hemseg_cli.training.augmentation import mirrored_axes
from hemseg_cli.training.class_channels import channels_of

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
# A change has to gain this much mean Dice, or a small val split would choose by noise.
SMALLEST_DICE_GAIN = 0.005
MIN_COMPONENTS_ML = (0.0, 0.05, 0.1, 0.25, 0.5)
_MASK_KEYS = ("threshold", "min_component_ml")


@dataclass(frozen=True)
class TunedSettings:
    """The settings, and the mean Dice of the scans with the settings before and with these."""

    settings: Settings
    dice_before: float
    dice: float
    scans: int

    def text(self) -> str:
        """For the log and the person."""
        chosen = ", ".join(f"{name} {value}" for name, value in self.settings.to_dict().items())
        return (
            f"prediction settings chosen on {self.scans} val scans: {chosen}; "
            f"Dice {self.dice_before:.4f} before, {self.dice:.4f} now"
        )


def count_passes(config: Config) -> int:
    """How often `tune_prediction` predicts each scan."""
    if len(read_classes(config.data.directory)) > 1:
        return 1  # one pass serves the thresholds of all classes
    return 1 + len(_inference_options(config))


def tune_prediction(
    checkpoint: Path,
    config: Config,
    cases: Sequence[Case],
    device: torch.device,
    *,
    seconds: float = math.inf,
) -> Generator[TunedSettings | None, None, None]:
    """Choose the settings that the user has not set, for a `checkpoint`, on the scans `cases`.

    An option that would take longer than what is left of `seconds`, by the time of the
    first, is not tried. Yields None after each prediction of a scan, so that the caller can stop in
    between, and the choice at the end.
    """
    start, default_seconds = time.monotonic(), 0.0
    current = _predictor(checkpoint, config, None, device).settings
    dice_before = dice_now = np.zeros(0)
    if len(_predictor(checkpoint, config, None, device).classes) > 1:
        yield from _tune_class_thresholds(checkpoint, config, cases, device)
        return
    for option, cost in (({}, 1.0), *_inference_options(config)):
        if option and default_seconds * cost > seconds - (time.monotonic() - start):
            continue
        rivals = _with_masks(replace(current, **option), config)
        predictor = _predictor(checkpoint, config, rivals[0], device)
        by_scan = []
        for case in cases:
            by_scan.append(_dice_of(predictor, config, case, rivals))
            yield None
        table = np.array(by_scan)  # [scans, rivals]
        if not option:
            default_seconds = time.monotonic() - start
            dice_before = dice_now = table[:, 0]
        best = int(table.mean(axis=0).argmax())
        if _is_better(table[:, best], dice_now):
            current, dice_now = rivals[best], table[:, best]
    yield TunedSettings(current, float(dice_before.mean()), float(dice_now.mean()), len(cases))


def _tune_class_thresholds(
    checkpoint: Path, config: Config, cases: Sequence[Case], device: torch.device
) -> Generator[TunedSettings | None, None, None]:
    """Choose a threshold for each of several classes, on the scans that have or miss the class.

    The other settings stay: the masks of several classes are compared at one pass over the scans.
    """
    predictor = _predictor(checkpoint, config, None, device)
    settings = predictor.settings
    usual = [settings.threshold_of(channel) for channel in range(len(predictor.classes))]
    channels = channels_of(predictor.classes, read_classes(config.data.directory))

    table = np.full((len(cases), len(usual), 1 + len(THRESHOLDS)), np.nan)
    for number, case in enumerate(cases):
        scan = read_volume(config.data.folder / case.image)
        label = match_axes(
            read_label(config.data.folder / case.label), scan.array.shape, scan.affine
        )
        canonical, _ = to_canonical(scan)
        masks = channels.masks(to_canonical(label)[0].array)
        found = predictor.infer(canonical).probability.full()
        for channel, truth in enumerate(masks):
            if truth is not None:
                table[number, channel] = [
                    dice(found[channel] >= np.float32(rival), truth)
                    for rival in (usual[channel], *THRESHOLDS)
                ]
        yield None

    chosen, before, after = [], [], []
    for channel, threshold in enumerate(usual):
        known = table[:, channel][~np.isnan(table[:, channel, 0])]
        best = int(known.mean(axis=0).argmax()) if len(known) else 0
        is_better = best > 0 and _is_better(known[:, best], known[:, 0])
        chosen.append(THRESHOLDS[best - 1] if is_better else threshold)
        before.append(float(known[:, 0].mean()) if len(known) else math.nan)
        after.append(float(known[:, best if is_better else 0].mean()) if len(known) else math.nan)

    if config.predict.threshold is None and config.predict.class_thresholds is None:
        settings = replace(settings, class_thresholds=tuple(chosen))
    else:
        after = before
    yield TunedSettings(settings, float(np.nanmean(before)), float(np.nanmean(after)), len(cases))


def store_settings(checkpoint: Path, settings: Settings) -> None:
    """Put the settings into a checkpoint file, in place of those that it has, and mark it tuned.

    A calibration that it has was made with other settings, and is dropped.
    """
    values = {**read_checkpoint(checkpoint), "predict": settings.to_dict(), "tuned": True}
    values.pop("calibration", None)
    write_checkpoint(checkpoint, values)


def _inference_options(config: Config) -> list[tuple[dict[str, Any], float]]:
    """List what is tried where `train.choose` is "all", with its time in those of the default."""
    if config.train.choose != "all":
        return []

    options: list[tuple[dict[str, Any], float]] = [
        ({"weighting": "gaussian"}, 1.0),
        ({"overlap": 0.5}, 2.0),
    ]
    # Each mirrored axis doubles the flips that are averaged.
    axes = mirrored_axes(config.train.augment)
    if axes:
        options.append(({"tta": True}, float(2 ** len(axes))))
    return [
        (option, cost)
        for option, cost in options
        if all(getattr(config.predict, key) is None for key in option)
    ]


def _predictor(
    checkpoint: Path, config: Config, settings: Settings | None, device: torch.device
) -> Predictor:
    values = {} if settings is None else settings.to_dict()
    return Predictor.load(
        [checkpoint],
        config.predict.model_copy(update=values),
        device=str(device),
        memory_mb=config.compute.memory_mb,
    )


def _with_masks(base: Settings, config: Config) -> list[Settings]:
    """List the settings themselves, then those with every other threshold and smallest component.

    Only what the user has left open is changed.
    """
    thresholds, sizes = (
        (getattr(base, key),) if getattr(config.predict, key) is not None else values
        for key, values in zip(_MASK_KEYS, (THRESHOLDS, MIN_COMPONENTS_ML), strict=True)
    )
    return list(
        dict.fromkeys(
            (
                base,
                *(
                    replace(base, threshold=t, min_component_ml=ml)
                    for t in thresholds
                    for ml in sizes
                ),
            )
        )
    )


def _dice_of(
    predictor: Predictor, config: Config, case: Case, rivals: Sequence[Settings]
) -> list[float]:
    """The Dice of one scan under each of the settings.

    The scan is predicted once, its components found once a threshold.
    """
    scan = read_volume(config.data.folder / case.image)
    label = read_label(config.data.folder / case.label)
    label = match_axes(label, scan.array.shape, scan.affine, what=f"label {case.label}")

    # The networks take canonical axes, as in training: others would show them a mirrored head.
    scan, _ = to_canonical(scan)
    truth = np.ascontiguousarray(to_canonical(label)[0].array > 0)
    probability = np.ascontiguousarray(predictor.infer(scan).probability.full())
    voxel_ml = (case.voxel_volume_mm3 or header_voxel_volume_mm3(scan.affine)) / 1000
    pieces = {
        threshold: _pieces(probability, truth, threshold)
        for threshold in {rival.threshold for rival in rivals}
    }
    answer = []
    for rival in rivals:
        sizes, hits = pieces[rival.threshold]
        kept = sizes * voxel_ml >= rival.min_component_ml
        both = float(sizes[kept].sum()) + float(truth.sum())
        answer.append(2 * float(hits[kept].sum()) / both if both else 1.0)
    return answer


def _pieces(
    probability: NDArray[np.float32], truth: NDArray[np.bool_], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each component from the threshold on: its voxels, and how many of them are hemorrhage."""
    flat = np.flatnonzero(probability >= np.float32(threshold))
    component, _ = component_of(flat, probability.shape)
    hits = np.bincount(component, weights=truth.reshape(-1)[flat])[1:]
    return np.bincount(component)[1:].astype(np.float64), np.asarray(hits, dtype=np.float64)


def _is_better(now: NDArray[np.float64], before: NDArray[np.float64]) -> bool:
    gains = now - before
    return bool(gains.mean() > SMALLEST_DICE_GAIN and (gains > 0).sum() > (gains < 0).sum())
