"""Each lesion by itself: volume, place, density, and ABC/2 as a clinician measures it at the bedside."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.components import label_components
from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.imaging.volume import Volume

# Shares of the largest slice's area from which a slice counts whole and half towards C (Kothari et al., Stroke 1996;27:1304-1305).
_WHOLE_SLICE_SHARE = 0.75
_HALF_SLICE_SHARE = 0.25


@dataclass(frozen=True)
class Lesion:
    """One 26-connected component. `centroid_mm` is RAS in the coordinates of the scan's own affine."""

    volume_ml: float
    centroid_mm: tuple[float, float, float]
    mean_hu: float
    abc2_ml: float


def find_lesions(mask: NDArray[np.uint8], scan: Volume, *, voxel_volume_mm3: float) -> list[Lesion]:
    """The lesions of a mask [i, j, k], largest first; empty for an empty mask.

    `scan`: the HU on the same grid. `voxel_volume_mm3`: the true one (see `imaging.geometry`), from which volumes and the distance of
    slices along their normal are taken.
    """
    labels, count = label_components(mask)
    if not count:
        return []
    canonical_hu, _ = to_canonical(scan)
    canonical_labels, _ = to_canonical(Volume(labels, scan.affine))
    lesions = [
        _measure(canonical_labels.array, number, box, canonical_hu, voxel_volume_mm3)
        for number, box in enumerate(_boxes(canonical_labels.array), 1)
    ]
    return sorted(lesions, key=lambda lesion: (-lesion.volume_ml, lesion.centroid_mm))


def abc_over_2_ml(mask: NDArray[Any], *, in_plane_mm: tuple[float, float], slice_distance_mm: float) -> float:
    """ABC/2 of one lesion, mL; 0 for an empty mask. `mask`: canonical [i, j, k] with axial slices along k.

    A: the longest diameter on the slice of largest area. B: the widest extent at right angles to A on that slice. C: the slices' distance
    along their normal times their number, where a slice counts whole from 75 %, half from 25 % of the largest area, and not below
    (Kothari et al., Stroke 1996;27:1304-1305).
    """
    areas = np.count_nonzero(mask, axis=(0, 1))
    largest = int(areas.max(initial=0))
    if not largest:
        return 0.0
    points = _outline_mm(mask[:, :, int(areas.argmax())], in_plane_mm)
    offsets = points[:, None, :] - points[None, :, :]
    lengths = np.hypot(offsets[..., 0], offsets[..., 1])
    first, second = np.unravel_index(int(lengths.argmax()), lengths.shape)
    a_mm = float(lengths[first, second])
    along = offsets[first, second] / a_mm
    across = points @ np.array([-along[1], along[0]])
    b_mm = float(across.max() - across.min())
    share = areas / largest
    c_mm = float(np.where(share >= _WHOLE_SLICE_SHARE, 1.0, np.where(share >= _HALF_SLICE_SHARE, 0.5, 0.0)).sum() * slice_distance_mm)
    return a_mm * b_mm * c_mm / 2 / 1000


def _boxes(labels: NDArray[np.int32]) -> list[tuple[slice, ...]]:
    from scipy import ndimage

    return list(ndimage.find_objects(labels))


def _measure(labels: NDArray[np.int32], number: int, box: tuple[slice, ...], scan: Volume, voxel_volume_mm3: float) -> Lesion:
    inside = labels[box] == number
    index = np.argwhere(inside).mean(axis=0) + [part.start for part in box]
    centroid = scan.affine[:3, :3] @ index + scan.affine[:3, 3]
    x_mm, y_mm, _ = spacing_mm(scan.affine)
    return Lesion(
        volume_ml=float(inside.sum() * voxel_volume_mm3 / 1000),
        centroid_mm=(float(centroid[0]), float(centroid[1]), float(centroid[2])),
        mean_hu=float(scan.array[box][inside].mean()),
        abc2_ml=abc_over_2_ml(inside, in_plane_mm=(x_mm, y_mm), slice_distance_mm=voxel_volume_mm3 / (x_mm * y_mm)),
    )


def _outline_mm(mask: NDArray[np.bool_], in_plane_mm: tuple[float, float]) -> NDArray[np.float64]:
    """The convex hull of a slice's pixels, [n, 2] mm. A pixel counts by the middles of its edges: n in a row are n long."""
    from scipy.spatial import ConvexHull

    pixels = np.argwhere(mask)
    edges = np.array([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]])
    points = (pixels[:, None, :] + edges[None, :, :]).reshape(-1, 2) * np.asarray(in_plane_mm)
    return np.asarray(points[ConvexHull(points).vertices])
