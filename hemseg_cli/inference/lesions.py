"""Measure each lesion: volume, place, density, and ABC/2 as clinicians estimate it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.components import component_of
from hemseg_cli.imaging.geometry import VoxelVolume, spacing_mm
from hemseg_cli.imaging.nifti import Volume

# Shares of the largest slice's area from which a slice counts whole and half towards C (Kothari et
# al., Stroke 1996;27:1304-1305).
_WHOLE_SLICE_SHARE = 0.75
_HALF_SLICE_SHARE = 0.25
_EDGES = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
_FEW_PIXELS = 12


@dataclass(frozen=True)
class Lesion:
    """One 26-connected component.

    `centroid_mm` is RAS in the coordinates of the scan's own affine. `box`: its first and its last
    voxel along each canonical axis.
    """

    volume_ml: float
    centroid_mm: tuple[float, float, float]
    mean_hu: float
    abc2_ml: float
    box: tuple[tuple[int, int], ...] = ()


def find_lesions(
    mask: NDArray[np.uint8], scan: Volume, *, voxel_volume_mm3: VoxelVolume
) -> list[Lesion]:
    """Return the lesions of a mask on canonical axes [i, j, k], largest first.

    `scan`: the HU on the same grid. `voxel_volume_mm3`: the true one (see `imaging.geometry`), from
    which volumes and the length that each slice stands for along their normal are taken.
    """
    flat = np.flatnonzero(mask)
    if not flat.size:
        return []
    component, count = component_of(flat, mask.shape)
    voxels = np.column_stack(np.unravel_index(flat, mask.shape))
    sizes = np.bincount(component)[1:]
    index = np.column_stack([_mean_of(voxels[:, axis], component, sizes) for axis in range(3)])
    centroids = index @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    mean_hu = _mean_of(scan.array[tuple(voxels.T)], component, sizes)
    volumes_mm3 = _volumes_mm3(flat, component, mask.shape, sizes, voxel_volume_mm3)
    x_mm, y_mm, _ = spacing_mm(scan.affine)
    lengths_mm = _slice_lengths_mm(voxel_volume_mm3, x_mm * y_mm, mask.shape[2])
    pieces = np.split(voxels[np.argsort(component, kind="stable")], np.cumsum(sizes)[:-1])
    lesions = [
        Lesion(
            volume_ml=float(volumes_mm3[number] / 1000),
            centroid_mm=(
                float(centroids[number, 0]),
                float(centroids[number, 1]),
                float(centroids[number, 2]),
            ),
            mean_hu=float(mean_hu[number]),
            abc2_ml=_abc_over_2_ml(pieces[number], (x_mm, y_mm), lengths_mm),
            box=_box(pieces[number]),
        )
        for number in range(count)
    ]
    return sorted(lesions, key=lambda lesion: (-lesion.volume_ml, lesion.centroid_mm))


def mean_hu(lesions: Sequence[Lesion]) -> float | None:
    """Return the mean HU of all voxels of the lesions, None where there is none."""
    if not lesions:
        return None
    volume_ml = sum(lesion.volume_ml for lesion in lesions)
    return sum(lesion.mean_hu * lesion.volume_ml for lesion in lesions) / volume_ml


def _box(voxels: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Return the first and the last of the voxels [n, 3] along each axis."""
    lowest, highest = voxels.min(axis=0).tolist(), voxels.max(axis=0).tolist()
    return tuple(zip(lowest, highest, strict=True))


def abc_over_2_ml(
    mask: NDArray[Any], *, in_plane_mm: tuple[float, float], slice_distance_mm: float
) -> float:
    """ABC/2 of one lesion, mL; 0 for an empty mask.

    `mask`: canonical [i, j, k] with axial slices along k.

    A: the longest diameter on the slice of largest area. B: the longest chord at right angles to A
    on that slice, of the lesion's convex outline. C: the slices' distance along
    their normal times their number, where a slice
    counts whole from 75 %, half from 25 % of the largest area, and not below (Kothari et al.,
    Stroke 1996;27:1304-1305).
    """
    voxels = np.argwhere(mask)
    lengths_mm = np.full(mask.shape[2], slice_distance_mm)
    return _abc_over_2_ml(voxels, in_plane_mm, lengths_mm) if len(voxels) else 0.0


def _volumes_mm3(
    flat: NDArray[np.int64],
    component: NDArray[np.int32],
    shape: tuple[int, ...],
    sizes: NDArray[np.int64],
    voxel_volume_mm3: VoxelVolume,
) -> NDArray[np.float64]:
    """The volume of each component 1..n, whose voxels are `flat` in an array of `shape`."""
    if not isinstance(voxel_volume_mm3, np.ndarray):
        return np.asarray(sizes * voxel_volume_mm3, dtype=np.float64)

    own = np.broadcast_to(voxel_volume_mm3, shape)[np.unravel_index(flat, shape)]
    return np.asarray(np.bincount(component, weights=own)[1:])


def _slice_lengths_mm(
    voxel_volume_mm3: VoxelVolume, pixel_area_mm2: float, slices: int
) -> NDArray[np.float64]:
    """How long each axial slice [k] is along the normal; the mean of slices along another axis."""
    volumes = np.asarray(voxel_volume_mm3, dtype=np.float64)
    along_k = volumes.mean(axis=(0, 1)) if volumes.ndim else volumes
    return np.broadcast_to(along_k / pixel_area_mm2, (slices,))


def _abc_over_2_ml(
    voxels: NDArray[np.int64], in_plane_mm: tuple[float, float], lengths_mm: NDArray[np.float64]
) -> float:
    """Return the same for the lesion's voxels [n, 3]; `lengths_mm`: of each slice [k]."""
    # A and B on the slice of largest area.
    first_k = int(voxels[:, 2].min())
    areas = np.bincount(voxels[:, 2] - first_k)
    largest = voxels[:, 2] == first_k + areas.argmax()
    points = _outline_mm(voxels[largest, :2], in_plane_mm)
    offsets = points[:, None, :] - points[None, :, :]
    lengths = np.hypot(offsets[..., 0], offsets[..., 1])
    first, second = np.unravel_index(int(lengths.argmax()), lengths.shape)
    a_mm = float(lengths[first, second])
    b_mm = _longest_chord_mm(points, offsets[first, second] / a_mm)

    # C by how much of that area each slice has.
    share = areas / areas.max()
    counted = np.where(
        share >= _WHOLE_SLICE_SHARE, 1.0, np.where(share >= _HALF_SLICE_SHARE, 0.5, 0.0)
    )
    c_mm = float(counted @ lengths_mm[first_k : first_k + len(areas)])
    return a_mm * b_mm * c_mm / 2 / 1000


def _longest_chord_mm(points: NDArray[np.float64], along: NDArray[np.float64]) -> float:
    """Return the length of the longest chord of the points' hull at right angles to `along`."""
    # Turned so that `along` is the first axis, points in its order.
    turned = points @ np.array([[along[0], -along[1]], [along[1], along[0]]])
    turned = turned[np.lexsort((turned[:, 1], turned[:, 0]))]

    # The outline is a lower and an upper chain of straight pieces: the chord between them is
    # longest where one of them has a corner.
    lower, upper = _lower_chain(turned), _lower_chain(turned * (1, -1)) * (1, -1)
    corners = np.concatenate([lower[:, 0], upper[:, 0]])
    return float((np.interp(corners, *upper.T) - np.interp(corners, *lower.T)).max())


def _lower_chain(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the lower part of the hull of points sorted by x (Andrew's monotone chain)."""
    chain: list[NDArray[np.float64]] = []
    for point in points:
        while len(chain) > 1:
            (ax, ay), (bx, by) = chain[-2], chain[-1]
            # The last corner stays where the outline turns left at it.
            if (bx - ax) * (point[1] - ay) - (by - ay) * (point[0] - ax) > 0:
                break
            chain.pop()
        chain.append(point)
    return np.array(chain)


def _mean_of(
    values: NDArray[Any], component: NDArray[np.int32], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The mean of a number per voxel, for each component 1..n of `sizes` voxels."""
    return np.asarray(np.bincount(component, weights=values)[1:] / sizes, dtype=np.float64)


def _outline_mm(pixels: NDArray[np.int64], in_plane_mm: tuple[float, float]) -> NDArray[np.float64]:
    """The convex hull of a slice's pixels [n, 2], [m, 2] mm.

    A pixel counts by the middles of its edges: n in a row are n long.
    """
    points = (pixels[:, None, :] + _EDGES[None, :, :]).reshape(-1, 2) * np.asarray(in_plane_mm)
    if len(pixels) <= _FEW_PIXELS:
        return np.asarray(points)  # the hull of so few saves nothing
    from scipy.spatial import ConvexHull

    return np.asarray(points[ConvexHull(points).vertices])
