"""The tolerance of the normalised surface Dice: one for all scans, or one by slice distance.

Where slices lie 5 mm apart, a surface that is one slice off is 5 mm off, and a tolerance of 2 mm
judges the plane alone. With a tolerance for each stratum of slice distance thick and thin scans
are judged alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Tolerance = float | Sequence[tuple[float, float]]
"""mm; or (slice distance from, tolerance) in mm, ascending from a distance of 0 on."""


def tolerance_at(tolerance: Tolerance, slice_mm: float) -> float:
    """Return the tolerance, mm, for slices that lie `slice_mm` apart."""
    if isinstance(tolerance, int | float):
        return float(tolerance)
    # The distance of a header is a few thousandths off the nominal one.
    return [mm for start, mm in tolerance if start <= slice_mm + 1e-2][-1]


def tolerance_name(tolerance: Tolerance) -> str:
    """Return the tolerance as a column's name and a title have it: `2`, or `2-5` of two."""
    if isinstance(tolerance, int | float):
        return f"{tolerance:g}"
    return "-".join(f"{mm:g}" for _, mm in tolerance)


def tolerance_text(tolerance: Tolerance) -> str:
    """Say the tolerance in words: `2 mm (5 mm where slices lie 4 mm apart or more)`."""
    if isinstance(tolerance, int | float):
        return f"{tolerance:g} mm"
    first, *others = tolerance
    more = (f"{mm:g} mm where slices lie {start:g} mm apart or more" for start, mm in others)
    return f"{first[1]:g} mm" + (f" ({', '.join(more)})" if others else "")


def tolerance_settings(tolerance: Tolerance) -> str:
    """Return the options of a command that set the tolerance."""
    strata = [(0.0, tolerance)] if isinstance(tolerance, int | float) else list(tolerance)
    options = f"--set evaluate.nsd_tolerance_mm={strata[0][1]:g}"
    if len(strata) > 1:
        listed = ",".join(f"[{start:g},{mm:g}]" for start, mm in strata[1:])
        options += f" --set 'evaluate.nsd_tolerance_by_slice_mm=[{listed}]'"
    return options


def slice_distance_mm(steps_mm: NDArray[np.float64]) -> float:
    """Return how far the slices of a grid lie apart along their normal, mm.

    `steps_mm`: its three step vectors as columns. Slices are stacked along the axis whose planes
    lie farthest apart.
    """
    volume = abs(float(np.linalg.det(steps_mm)))
    areas = (
        float(np.linalg.norm(np.cross(steps_mm[:, one], steps_mm[:, other])))
        for one, other in ((1, 2), (2, 0), (0, 1))
    )
    return max(volume / area for area in areas)
