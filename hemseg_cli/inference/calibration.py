"""Intervals of predicted volumes, from how far they lay from the truth on the val split.

Split conformal prediction (Papadopoulos et al. 2002; Lei et al. 2018, J. Am. Stat. Assoc.
113:1094): of n val scans that are exchangeable with a new one, the ratio of true to predicted
volume of the new scan lies between the ratios of rank floor((n + 1) a / 2) and
ceil((n + 1) (1 - a / 2)) with a probability of at least 1 - a, whatever their distribution. Ranks
are taken within the new scan's group of sizes ("Mondrian"; Vovk et al. 2005), so that small
hemorrhages do not borrow the ratios of large ones.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.cases import VOLUME_STRATA_ML
from hemseg_cli.core.quantities import VOLUME_CONFIDENCE
from hemseg_cli.inference.look import LookRange, joint_looks
from hemseg_cli.inference.settings import Settings, chosen_settings

LEAST_SCANS = 20
"""With fewer scans in a group there is no interval: the ranks of 90 % need 19."""

# Added to both volumes of a ratio, mL: of a few voxels the ratio says nothing.
_OFFSET_ML = 0.5
# Settings of prediction that change a mask; the others change its last voxels at most.
_MASK_SETTINGS = (
    "overlap",
    "tta",
    "weighting",
    "threshold",
    "class_thresholds",
    "min_component_ml",
)

VolumePair = tuple[float, float]
"""Predicted and true volume of one val scan, mL."""

Interval = tuple[float, float]
"""Lower and upper bound of a volume, mL."""


@dataclass(frozen=True)
class Calibration:
    """What a run's val split says of the volumes that it predicts, and of its scans' look.

    `scans`: of the val split. `volumes`: class key (`UNION`: all kinds together) -> mark of the
    scan -> predicted and true mL; empty below `LEAST_SCANS`. The mark is a hash of the pixels, by
    which an ensemble knows a scan that several of its networks were validated on. `look`: of the
    scans trained and validated on. `missing`: why there are no volumes.
    """

    scans: int = 0
    volumes: Mapping[str, Mapping[str, VolumePair]] = field(default_factory=dict)
    look: LookRange | None = None
    missing: str = ""

    def interval_ml(self, key: str, predicted_ml: float) -> Interval | None:
        """Return the interval of the true volume of class `key`; None where too few scans tell."""
        return volume_interval_ml(predicted_ml, list(self.volumes.get(key, {}).values()))

    def reason(self) -> str:
        """Say why there are no intervals at all; empty where there are."""
        if self.missing:
            return self.missing
        if any(len(pairs) >= LEAST_SCANS for pairs in self.volumes.values()):
            return ""
        return f"it was validated on {self.scans} scans, and an interval needs {LEAST_SCANS}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint's `calibration` holds them."""
        return {
            "scans": self.scans,
            "volumes": {
                key: {mark: list(pair) for mark, pair in pairs.items()}
                for key, pairs in self.volumes.items()
            },
            "look": None if self.look is None else self.look.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Calibration":
        """Read what `to_dict` returned and `checkpoint_settings` has checked."""
        return cls(
            scans=int(values["scans"]),
            volumes={
                key: {mark: (float(pair[0]), float(pair[1])) for mark, pair in pairs.items()}
                for key, pairs in values["volumes"].items()
            },
            look=None if values["look"] is None else LookRange.from_dict(values["look"]),
        )


NOT_CALIBRATED = Calibration(missing="it was not calibrated (train.calibrate)")
"""The calibration of a network that has none."""


def calibration_of(checkpoint: Mapping[str, Any], settings: Settings) -> Calibration:
    """Return the calibration of a checkpoint for the settings that it predicts with now.

    It holds for the settings that it was made with: with others there are no intervals.
    """
    stored = checkpoint.get("calibration")
    if stored is None:
        return NOT_CALIBRATED
    found = Calibration.from_dict(stored)

    calibrated = chosen_settings(PredictConfig(), checkpoint.get("predict"))
    for name in _MASK_SETTINGS:
        if getattr(settings, name) != getattr(calibrated, name):
            why = f"predict.{name} is not as it was calibrated"
            return replace(found, volumes={}, missing=why)
    return found


def joint_calibration(calibrations: Sequence[Calibration], names: Sequence[str]) -> Calibration:
    """Return the calibration of an ensemble: the val scans of all its networks, each scan once.

    Of a scan that several were validated on the mean of their volumes stands for the ensemble's;
    of one that a single network was validated on (a fold's) that network's own volume, which errs
    more than the ensemble's would. `names`: of the networks, for what is missing.
    """
    if len(calibrations) == 1:
        return calibrations[0]

    look = joint_looks([one.look for one in calibrations])
    for name, one in zip(names, calibrations, strict=True):
        if one.missing:
            return Calibration(look=look, missing=f"{name}: {one.missing}")

    volumes: dict[str, dict[str, VolumePair]] = {}
    for key in dict.fromkeys(key for one in calibrations for key in one.volumes):
        by_mark: dict[str, list[VolumePair]] = {}
        for one in calibrations:
            for mark, pair in one.volumes.get(key, {}).items():
                by_mark.setdefault(mark, []).append(pair)
        volumes[key] = {
            mark: (sum(predicted for predicted, _ in pairs) / len(pairs), pairs[0][1])
            for mark, pairs in by_mark.items()
        }
    scans = max((len(pairs) for pairs in volumes.values()), default=0)
    return Calibration(scans, volumes, look)


def volume_interval_ml(
    predicted_ml: float,
    pairs: Sequence[VolumePair],
    *,
    confidence: float = VOLUME_CONFIDENCE,
) -> Interval | None:
    """Return the interval of a true volume by the val scans' predicted and true volumes (mL).

    None where the group of the size has fewer than `LEAST_SCANS` scans.
    """
    group = np.array(_group(predicted_ml, pairs), dtype=np.float64).reshape(-1, 2)
    if len(group) < LEAST_SCANS:
        return None
    alpha = 1.0 - confidence

    # Where nothing was predicted there is no ratio: what was missed, mL, one-sided.
    if predicted_ml == 0:
        return 0.0, _ranked(group[:, 1], math.ceil((len(group) + 1) * confidence))

    ratios = np.log((group[:, 1] + _OFFSET_ML) / (group[:, 0] + _OFFSET_ML))
    low, high = (
        (predicted_ml + _OFFSET_ML) * math.exp(_ranked(ratios, rank)) - _OFFSET_ML
        for rank in (
            math.floor((len(group) + 1) * alpha / 2),
            math.ceil((len(group) + 1) * (1 - alpha / 2)),
        )
    )
    return max(low, 0.0), max(high, 0.0)


def _group(predicted_ml: float, pairs: Sequence[VolumePair]) -> list[VolumePair]:
    """The val scans of the predicted size: of its volume strata, joined until they are enough.

    Scans of which nothing was predicted are a group of their own.
    """
    if predicted_ml == 0:
        return [pair for pair in pairs if pair[0] == 0]
    positive = [pair for pair in pairs if pair[0] > 0]

    # From the small ones on; what is left over of the large ones joins the last group.
    bounds: list[float] = []
    waiting = 0
    for low, high in zip((0.0, *VOLUME_STRATA_ML), (*VOLUME_STRATA_ML, math.inf), strict=True):
        waiting += sum(low <= predicted < high for predicted, _ in positive)
        left = sum(predicted >= high for predicted, _ in positive)
        if waiting >= LEAST_SCANS and left >= LEAST_SCANS:
            bounds.append(high)
            waiting = 0

    place = int(np.searchsorted(bounds, predicted_ml, side="right"))
    low, high = (0.0, *bounds)[place], (*bounds, math.inf)[place]
    return [pair for pair in positive if low <= pair[0] < high]


def _ranked(values: NDArray[np.float64], rank: int) -> float:
    """The value of a rank from 1 on, in ascending order; the last one where there are fewer."""
    ordered = np.sort(values)
    return float(ordered[min(max(rank, 1), len(ordered)) - 1])
