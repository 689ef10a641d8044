"""The published protocol: its grid, and its interval to the last digit.

Scans are scored on the resampled grid, HD95 in voxels; undefined cases are left out of a mean.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hemseg_cli.core.errors import CaseError
from hemseg_cli.evaluation.bootstrap import Interval
from hemseg_cli.evaluation.surfaces import MaskPair, mask_pair
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.imaging.preprocess import Preprocess, prepare_label

PAPER_GRID = Preprocess(
    spacing_mm=(0.4882810115814209, 0.4882810115814209, 4.649400138854981), alignment="monai"
)
PAPER_SAMPLES, PAPER_CONFIDENCE, PAPER_SEED = 5000, 0.95, 47
_DIGITS = 4
_VOXELS = (1.0, 1.0, 1.0)


def paper_pair(prediction: Volume, truth: Volume, *, network_mask: Path | None = None) -> MaskPair:
    """Return both masks on the published grid, with steps of one voxel.

    `network_mask`: the network's own output on that grid, as `predict` keeps it; without it the
    prediction (on the truth's grid) is resampled as the published label is. CaseError where the
    network's mask lies on another grid.
    """
    # The label is brought to the grid as the published chain did it, nearest neighbour.
    on_grid = prepare_label(truth, PAPER_GRID)
    if network_mask is None:
        return mask_pair(prepare_label(prediction, PAPER_GRID), on_grid, _VOXELS)

    own = to_canonical(read_volume(network_mask))[0].array
    if own.shape != on_grid.shape:
        raise CaseError(
            f"{network_mask} has {own.shape} voxels, the label on the published grid "
            f"{on_grid.shape}",
            hint="predict again with this run: hemseg predict --force",
        )
    return mask_pair(np.ascontiguousarray(own != 0, dtype=np.uint8), on_grid, _VOXELS)


def paper_interval(values: Sequence[float]) -> Interval:
    """Return the published interval of a mean.

    RandomState(47), 5000 resamples of cases, sorted means read at 2.5 and 97.5 %, 4 digits.
    Undefined values (NaN, infinite) are left out first, and `n` counts what was left: MONAI's mean
    does so too, the published `eval_bootstrap_ci.py` prints nan for such a table. The order of the
    cases matters: scan id.
    """
    data = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    if not data.size:
        return Interval(math.nan, math.nan, math.nan, 0)

    # As the published script draws and reads its resamples, index by index.
    random = np.random.RandomState(PAPER_SEED)
    drawn = random.choice(data, size=(PAPER_SAMPLES, data.size), replace=True)
    means = np.sort(np.mean(drawn, axis=1))
    low, high = means[int(0.025 * PAPER_SAMPLES)], means[int(0.975 * PAPER_SAMPLES)]
    mean, low, high = (round(float(value), _DIGITS) for value in (np.mean(data), low, high))
    return Interval(mean, low, high, data.size, "published")
