"""What the viewer lists beside a scan: its lesions, each with a place to jump to, and HU counts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.components import component_of

MOST_LESIONS = 30  # in the list of a scan; a mask of noise has thousands
HISTOGRAM_HU = np.arange(-20, 124, 4)
"""Borders of the bins, HU."""

Mask = NDArray[np.bool_]
VoxelMl = float | NDArray[np.float64]


def compared_lesions(
    truth: Mask, prediction: Mask, voxel_ml: VoxelMl
) -> tuple[list[dict[str, Any]], int]:
    """List true lesions, found or missed, and false ones; and how many smaller are left out.

    Masks [k, rows, columns] of a class; `voxel_ml`: mL of a voxel, or of each slice's. Lesions are
    26-connected components; one shared voxel finds one, as the evaluation counts.
    """
    listed: list[dict[str, Any]] = []
    for mask, other, names in (
        (truth, prediction, ("missed", "found")),
        (prediction, truth, ("false", "")),
    ):
        for voxels in lesions_of(mask):
            name = names[bool(other[tuple(voxels.T)].any())]
            if name:
                ml = _volume_ml(voxels, voxel_ml)
                place = point_in(voxels, voxels.mean(axis=0), mask.shape)
                listed.append({"text": f"{ml:.2f} mL, {name}", "kind": name, "ml": ml} | place)
    listed.sort(key=lambda lesion: -lesion["ml"])
    return listed[:MOST_LESIONS], max(0, len(listed) - MOST_LESIONS)


def lesions_of(mask: Mask) -> list[NDArray[np.int64]]:
    """Return the voxels [n, 3] of each 26-connected component of a mask."""
    flat = np.flatnonzero(mask)
    numbers, count = component_of(flat, mask.shape)
    if not count:
        return []

    # Sorted by component, each is one stretch.
    order = np.argsort(numbers, kind="stable")
    voxels = np.stack(np.unravel_index(flat[order], mask.shape), axis=1)
    ends = np.cumsum(np.bincount(numbers, minlength=count + 1)[1:])
    return np.split(voxels, ends[:-1])


def _volume_ml(places: NDArray[np.int64], voxel_ml: VoxelMl) -> float:
    if isinstance(voxel_ml, float):
        return len(places) * voxel_ml
    return float(voxel_ml[places[:, 0]].sum())


def point_in(
    places: NDArray[np.int64], centre: NDArray[np.float64], shape: Sequence[int]
) -> dict[str, Any]:
    """Return the voxel of a lesion next to its centre, which may lie outside of a crescent.

    `places` [n, 3] and `centre`: slice, row, column. The slice, and x and y as shares of its sides.
    """
    nearest = places[np.square(places - centre).sum(axis=1).argmin()]
    return {
        "slice": int(nearest[0]),
        "x": round(float((nearest[2] + 0.5) / shape[2]), 4),
        "y": round(float((nearest[1] + 0.5) / shape[1]), 4),
    }


def hu_counts(hu: NDArray[Any], mask: Mask) -> list[int]:
    """Count the voxels of a mask by HU, in the bins of `HISTOGRAM_HU`."""
    return [int(count) for count in np.histogram(hu[mask], bins=HISTOGRAM_HU)[0]]
