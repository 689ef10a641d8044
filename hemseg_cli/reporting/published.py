"""The published baselines, so that a run can be shown beside them.

Source: github.com/songchangwei/3DCT-SD-IVH-ICH (HemSeg-200), the paper's table of seven systems on
its test split of 45 scans. Scored on the resampled grid, HD95 without spacing (voxels), cases with
an undefined HD95 dropped; 95 % percentile intervals of 5000 resamples.
"""

from dataclasses import dataclass

PUBLISHED_DATASET = "hemseg-200"
PUBLISHED_SPLIT = "test"
PUBLISHED_CASES = 45


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    A bound that is undefined is None; `method` says "too few" where there are too few patients.
    """

    mean: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""


@dataclass(frozen=True)
class PublishedSystem:
    """One row of the paper: Dice and IoU as shares of 1, HD95 in voxels of the resampled grid."""

    name: str
    dice: Estimate
    iou: Estimate
    hd95_voxel: Estimate


def _share(percent: float, low: float, high: float) -> Estimate:
    return Estimate(round(percent / 100, 4), round(low / 100, 4), round(high / 100, 4))


PUBLISHED = (
    PublishedSystem(
        "U-Net",
        _share(63.70, 55.82, 71.10),
        _share(51.40, 44.26, 58.48),
        Estimate(83.48, 51.66, 88.37),
    ),
    PublishedSystem(
        "V-Net",
        _share(61.19, 52.81, 69.34),
        _share(49.39, 41.79, 56.98),
        Estimate(48.88, 33.30, 66.18),
    ),
    PublishedSystem(
        "SegResNet",
        _share(32.66, 25.96, 39.74),
        _share(22.02, 16.99, 27.57),
        Estimate(141.16, 124.20, 158.99),
    ),
    PublishedSystem(
        "Attention U-Net",
        _share(66.77, 58.90, 73.86),
        _share(54.98, 47.42, 62.10),
        Estimate(49.62, 33.44, 67.26),
    ),
    PublishedSystem(
        "UNETR",
        _share(55.98, 48.94, 62.69),
        _share(42.43, 36.10, 48.72),
        Estimate(111.10, 90.80, 131.54),
    ),
    PublishedSystem(
        "Swin UNETR",
        _share(48.50, 40.79, 56.13),
        _share(35.92, 29.19, 42.59),
        Estimate(164.85, 143.83, 186.99),
    ),
    PublishedSystem(
        "nnU-Net",
        _share(78.99, 73.21, 83.86),
        _share(68.49, 62.05, 74.25),
        Estimate(22.16, 9.19, 38.20),
    ),
)
