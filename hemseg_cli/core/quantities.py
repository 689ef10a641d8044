"""The bounds of every measured quantity that is read from a table, a sidecar or a record."""

import math
from dataclasses import dataclass

from hemseg_cli.core.errors import FileFormatError

VOLUME_CONFIDENCE = 0.9
"""The share of new scans whose true volume the interval of a predicted volume is to hold."""


@dataclass(frozen=True)
class Bounds:
    """The range of a quantity, in its own unit; the ends belong to it."""

    low: float
    high: float


BOUNDS = {
    "n_slices": Bounds(1, 20_000),
    # A voxel of head CT is 0.2 to 1 mm in the plane and up to 20 mm thick.
    "spacing_x_mm": Bounds(0.01, 100.0),
    "spacing_y_mm": Bounds(0.01, 100.0),
    "spacing_z_mm": Bounds(0.01, 100.0),
    # A gantry tilts by 30 degrees at most; at 90 a slice would be its own normal.
    "tilt_deg": Bounds(-60.0, 60.0),
    "voxel_volume_mm3": Bounds(1e-6, 1e6),
    # A whole head holds less than 10 L.
    "truth_ml": Bounds(0.0, 10_000.0),
}


def check_quantity(name: str, value: float, *, place: str) -> float:
    """Return `value` if it is finite and within the bounds of the quantity `name`.

    FileFormatError names `place` (file, line), the quantity and its bounds. A quantity without
    bounds has to be finite.
    """
    bounds = BOUNDS.get(name, Bounds(-math.inf, math.inf))
    if not math.isfinite(value):
        raise FileFormatError(f"{place}: {name} = {value} is not a number")
    if not bounds.low <= value <= bounds.high:
        raise FileFormatError(
            f"{place}: {name} = {value:g} cannot be",
            hint=f"{name} lies between {bounds.low:g} and {bounds.high:g}",
        )
    return value
