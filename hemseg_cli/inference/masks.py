"""Make masks from probabilities, and write both on the input's own grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.imaging.components import label_components
from hemseg_cli.imaging.geometry import VoxelVolume, header_voxel_volume_mm3
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.inference.settings import Settings
from hemseg_cli.inference.subgrid import Probability, box_of

if TYPE_CHECKING:
    from hemseg_cli.inference.formats import CaseOutput

PROBABILITY_SLOPE = 1 / 255
"""Probabilities are stored in 8 bits; this scale in the header makes them 0 to 1 again."""


def mask_of(
    probability: Probability,
    settings: Settings,
    voxel_volume_mm3: VoxelVolume,
    classes: Sequence[LabelClass] = HEMORRHAGE_ONLY,
) -> NDArray[np.uint8]:
    """Return the label map on the scan's canonical grid, uint8 [i, j, k] with the classes' values.

    Where classes overlap, a kind comes before its parent, and else the more probable one.
    `voxel_volume_mm3`: one for all, or an array that broadcasts to [i, j, k].
    """
    if isinstance(voxel_volume_mm3, np.ndarray):
        whole = np.broadcast_to(voxel_volume_mm3, probability.shape)
        voxel_volume_mm3 = whole[box_of(probability.part)]
    return probability.embed(_label_map(probability.values, settings, voxel_volume_mm3, classes))


def network_mask_of(
    own_grid: Volume, settings: Settings, classes: Sequence[LabelClass] = HEMORRHAGE_ONLY
) -> Volume:
    """Return the mask on the network's own grid, which the published protocol scores."""
    voxel_mm3 = header_voxel_volume_mm3(own_grid.affine)
    return Volume(_label_map(own_grid.array, settings, voxel_mm3, classes), own_grid.affine)


def _label_map(
    values: NDArray[np.float32],
    settings: Settings,
    voxel_volume_mm3: VoxelVolume,
    classes: Sequence[LabelClass],
) -> NDArray[np.uint8]:
    if values.ndim == 3:
        mask = _thresholded(values, settings.threshold, settings, voxel_volume_mm3)
        return mask * np.uint8(classes[0].value)

    result = np.zeros(values.shape[1:], dtype=np.uint8)
    parents = {each.parent for each in classes}
    # The parents first: what a kind of theirs claims is written over them.
    for is_parent in (True, False):
        highest = np.zeros(result.shape, dtype=np.float32)
        for channel, each in enumerate(classes):
            if (each.key in parents) is not is_parent:
                continue
            threshold = settings.threshold_of(channel)
            mask = _thresholded(values[channel], threshold, settings, voxel_volume_mm3)
            wins = mask.view(bool) & (values[channel] > highest)
            result[wins] = each.value
            highest[wins] = values[channel][wins]
    return result


def _thresholded(
    values: NDArray[np.float32],
    threshold: float,
    settings: Settings,
    voxel_volume_mm3: VoxelVolume,
) -> NDArray[np.uint8]:
    """The voxels from the threshold on, less the 26-connected components that are too small."""
    mask = values >= np.float32(threshold)

    if settings.min_component_ml > 0 and mask.any():
        labels, _ = label_components(mask)
        if isinstance(voxel_volume_mm3, np.ndarray):
            sizes_ml = np.bincount(labels.ravel(), weights=voxel_volume_mm3.ravel()) / 1000
        else:
            sizes_ml = np.bincount(labels.ravel()) * voxel_volume_mm3 / 1000
        large = sizes_ml >= settings.min_component_ml
        large[0] = False  # the background
        mask = large[labels]

    return mask.view(np.uint8)


def write_nifti_mask(path: Path, output: "CaseOutput") -> None:
    """Write the mask on the scan's own grid, with the place that the input's header states."""
    scan = output.scan
    write_volume(path, scan.on_file_axes(output.mask), like=scan.header)


def write_class_masks(path: Path, output: "CaseOutput") -> None:
    """Write the mask of each class, 0 and 1, as `<key>_mask.nii.gz` in the folder `path`."""
    for each in output.classes:
        own = (output.mask == each.value).view(np.uint8)
        file = path / f"{each.key}_mask.nii.gz"
        write_volume(file, output.scan.on_file_axes(own), like=output.scan.header)


def write_probability(path: Path, output: "CaseOutput", channel: int | None = None) -> None:
    """Write the probabilities in 8 bits, 0 to 1 with a step of 0.004 by the header's scale.

    `channel`: the class, by its place among the run's; None: the highest in each voxel.
    """
    found, scan = output.probability, output.scan
    probability = found.union() if channel is None else found.channel(channel)
    stored = probability.embed(np.rint(probability.values * 255).astype(np.uint8))
    write_volume(path, scan.on_file_axes(stored), slope=PROBABILITY_SLOPE, like=scan.header)
