"""Write a scan and its mask upright: right angles, even steps, and a header that states the truth.

The mask of a tilted or uneven scan lies on the slices as they were acquired, and no header that
viewers understand can say where those are: ITK reads no sheared affine, and no NIfTI has uneven
steps. The upright pair is resampled instead, and shows in every viewer the mL of `volumes.csv`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.geometry import is_sheared
from hemseg_cli.imaging.hounsfield import PADDING_HU
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.imaging.upright import UprightGrid, image_on, label_on, upright_grid
from hemseg_cli.inference.formats import CaseOutput


def write_upright(image_file: Path, mask_file: Path, output: CaseOutput) -> None:
    """Write the scan (air outside of it) and its mask on one upright grid; the mask last."""
    scan = output.scan
    even = Volume(scan.at_even_steps().array, scan.true_affine_at_even_steps())
    i, j, k = even.array.shape
    grid = UprightGrid((i, j, k), even.affine)
    if is_sheared(even.affine):
        grid = upright_grid((i, j, k), even.affine)

    write_volume(image_file, Volume(image_on(grid, even, outside=PADDING_HU), grid.affine))
    write_volume(mask_file, Volume(_mask_on(grid, even.affine, output), grid.affine))


def _mask_on(
    grid: UprightGrid, even_affine: NDArray[np.float64], output: CaseOutput
) -> NDArray[np.uint8]:
    """Resample the label map, class by class; each keeps its mL but where two classes touch."""
    scan = output.scan
    voxels_mm3 = np.broadcast_to(scan.voxel_volumes_mm3, output.mask.shape)
    result = np.zeros(grid.shape, dtype=np.uint8)

    for each in output.classes:
        own = output.mask == each.value
        if not own.any():
            continue

        # The share of each even voxel that is inside, from which the highest are taken.
        share = own.astype(np.float32)
        if scan.uneven is not None:
            share = scan.uneven.even(share)
        volume_mm3 = float(voxels_mm3[own].sum(dtype=np.float64))
        label = label_on(grid, Volume(share, even_affine), volume_mm3=volume_mm3)
        result[(label != 0) & (result == 0)] = each.value
    return result
