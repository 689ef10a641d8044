"""Resample the sheared voxels of a tilted gantry onto an upright grid.

Right angles, slices across the table, millimetres true everywhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.geometry import Affine, header_voxel_volume_mm3, spacing_mm
from hemseg_cli.imaging.nifti import Volume


@dataclass(frozen=True)
class UprightGrid:
    """Hold where the voxels of an upright volume lie (RAS mm)."""

    shape: tuple[int, int, int]
    affine: Affine


def upright_grid(shape: tuple[int, int, int], sheared: Affine) -> UprightGrid:
    """Return the smallest right-angled grid around a sheared one, stacked along its k steps.

    In-plane spacing is kept; the slice spacing is the distance between the sheared slices along
    their normal.
    """
    # The axes of the new grid: straight along the table, and what of i and j is across it.
    i_step, j_step, k_step = sheared[:3, 0], sheared[:3, 1], sheared[:3, 2]
    k_axis = k_step / np.linalg.norm(k_step)
    i_axis = i_step - (i_step @ k_axis) * k_axis
    i_axis /= np.linalg.norm(i_axis)
    j_axis = np.cross(k_axis, i_axis)
    j_axis *= np.sign(j_axis @ j_step)
    axes = np.column_stack([i_axis, j_axis, k_axis])

    along = header_voxel_volume_mm3(sheared) / float(np.linalg.norm(np.cross(i_step, j_step)))
    steps = np.array([*spacing_mm(sheared)[:2], along])

    # Every corner of the sheared grid has to lie within the new one.
    corners = np.array(
        [
            [i, j, k]
            for i in (0, shape[0] - 1)
            for j in (0, shape[1] - 1)
            for k in (0, shape[2] - 1)
        ],
        dtype=float,
    )
    placed = (corners @ sheared[:3, :3].T + sheared[:3, 3]) @ axes
    low, high = placed.min(axis=0), placed.max(axis=0)

    counts = np.ceil((high - low) / steps - 1e-6).astype(int) + 1
    affine = np.eye(4)
    affine[:3, :3] = axes * steps
    affine[:3, 3] = axes @ low
    return UprightGrid((int(counts[0]), int(counts[1]), int(counts[2])), affine)


def image_on(grid: UprightGrid, image: Volume, *, outside: float) -> NDArray[Any]:
    """Resample an image, whose affine is the true, sheared one, onto the grid.

    Linear; `outside` beyond the scan; the type is kept.
    """
    values = _resample(image.array.astype(np.float32), image.affine, grid, outside)
    kind = image.array.dtype
    return np.rint(values).astype(kind) if kind.kind in "iu" else values.astype(kind)


def label_on(
    grid: UprightGrid, label: Volume, *, volume_mm3: float | None = None
) -> NDArray[np.uint8]:
    """Resample a mask (0 and 1, or the share of each voxel inside), its volume kept.

    Of the linearly interpolated mask the highest voxels are taken, as many as make `volume_mm3`
    (None: the mask's own by its affine).
    """
    mask = label.array.astype(np.float32)
    if volume_mm3 is None:
        volume_mm3 = float(mask.sum(dtype=np.float64)) * header_voxel_volume_mm3(label.affine)
    wanted = round(volume_mm3 / header_voxel_volume_mm3(grid.affine))
    share = _resample(mask, label.affine, grid, 0.0)
    inside = np.flatnonzero(share)

    # A stable sort decides ties by place, so that the result does not depend on the machine.
    chosen = inside[np.argsort(-share.ravel()[inside], kind="stable")[:wanted]]
    out = np.zeros(grid.shape, dtype=np.uint8)
    out.ravel()[chosen] = 1
    return out


def _resample(
    array: NDArray[np.float32], affine: Affine, grid: UprightGrid, outside: float
) -> NDArray[np.float32]:
    import SimpleITK as sitk  # slow to import

    # In index space both images are plain; the way from target index to source index is one affine
    # map.
    to_source = np.linalg.inv(affine) @ grid.affine
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(to_source[:3, :3].ravel().tolist())
    transform.SetTranslation(to_source[:3, 3].tolist())
    source = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    size = [int(n) for n in grid.shape]
    target = sitk.Resample(
        source,
        size,
        transform,
        sitk.sitkLinear,
        [0.0] * 3,
        [1.0] * 3,
        np.eye(3).ravel().tolist(),
        outside,
    )
    return np.ascontiguousarray(sitk.GetArrayFromImage(target).transpose(2, 1, 0), dtype=np.float32)
