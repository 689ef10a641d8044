"""The published protocol: the resampled grid, HD95 in voxels, undefined cases dropped, and the published interval to the last digit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemseg_cli.evaluation.bootstrap import Interval
from hemseg_cli.evaluation.metrics import dice, hd95_mm, iou
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.preprocess import Preprocess, prepare_label

PAPER_GRID = Preprocess(
    spacing_mm=(0.4882810115814209, 0.4882810115814209, 4.649400138854981), alignment="monai"
)
PAPER_SAMPLES, PAPER_CONFIDENCE, PAPER_SEED = 5000, 0.95, 47
_DIGITS = 4


@dataclass(frozen=True)
class PaperMetrics:
    """One case on the resampled grid.

    NaN is undefined: Dice and IoU of an empty truth, HD95 where either mask is empty.
    """

    dice: float
    iou: float
    hd95_voxel: float


def paper_metrics(prediction: Volume, truth: Volume) -> PaperMetrics:
    """Both masks (on the same grid) resampled as the published label is, then scored as the published scripts score with MONAI."""
    p, t = prepare_label(prediction, PAPER_GRID), prepare_label(truth, PAPER_GRID)
    if not t.any():
        return PaperMetrics(math.nan, math.nan, math.nan)
    hd95 = hd95_mm(p, t, spacing_mm=(1.0, 1.0, 1.0))
    return PaperMetrics(dice(p, t), iou(p, t), hd95 if math.isfinite(hd95) else math.nan)


def paper_interval(values: Sequence[float]) -> Interval:
    """The published interval of a mean.

    RandomState(47), 5000 resamples of cases, sorted means read at 2.5 and 97.5 %, 4 digits.

    Undefined values (NaN, infinite) are dropped first, and `n` counts what was left. The order of
    the cases matters: scan id.
    """
    data = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not data.size:
        return Interval(math.nan, math.nan, math.nan, 0)
    random = np.random.RandomState(PAPER_SEED)
    means = np.sort(
        np.mean(random.choice(data, size=(PAPER_SAMPLES, data.size), replace=True), axis=1)
    )
    low, high = means[int(0.025 * PAPER_SAMPLES)], means[int(0.975 * PAPER_SAMPLES)]
    return Interval(
        round(float(np.mean(data)), _DIGITS),
        round(float(low), _DIGITS),
        round(float(high), _DIGITS),
        data.size,
    )
