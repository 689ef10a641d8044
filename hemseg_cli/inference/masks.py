"""From probabilities to the files.

Threshold, small components, the mask and the probabilities on the input's own grid.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.components import label_components
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.inference.inputs.reading import Scan
from hemseg_cli.inference.settings import Settings
from hemseg_cli.inference.subgrid import Probability

PROBABILITY_SLOPE = 1 / 255


def mask_of(
    probability: Probability, settings: Settings, voxel_volume_mm3: float
) -> NDArray[np.uint8]:
    """The mask on the scan's own grid, uint8 {0, 1} [i, j, k].

    The voxels from the threshold on, less the 26-connected components below the smallest volume.
    """
    mask = probability.values >= np.float32(settings.threshold)
    if settings.min_component_ml > 0 and mask.any():
        labels, _ = label_components(mask)
        large = np.bincount(labels.ravel()) * voxel_volume_mm3 / 1000 >= settings.min_component_ml
        large[0] = False
        mask = large[labels]
    return probability.embed(mask.view(np.uint8))


def write_mask(path: Path, mask: NDArray[np.uint8], scan: Scan) -> None:
    """Write the mask on the scan's own grid, with the place that the input's header states."""
    write_volume(path, Volume(mask, scan.volume.affine), like=scan.header)


def write_probability(path: Path, probability: Probability, scan: Scan) -> None:
    """Write the probabilities in 8 bits.

    The scale 1/255 stands in the header, so a reader gets 0 to 1 with a step of 0.004.
    """
    stored = probability.embed(np.rint(probability.values * 255).astype(np.uint8))
    write_volume(
        path, Volume(stored, scan.volume.affine), slope=PROBABILITY_SLOPE, like=scan.header
    )
