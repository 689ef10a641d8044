"""Blood between skull and brain: crescents (SDH), lenses (EDH), sulci and cisterns (SAH).

Each is grown by its `size_mm` to the volume asked for, see `volumes.grown_to`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hemseg_cli.dataset.phantom.cavity import Cavity
from hemseg_cli.dataset.phantom.shapes import Array, Ellipsoid, Point, norm

_LENS_OUTSIDE_SHARE = 0.35
"""Share of a lens's radius by which its ball's centre lies outside the inner table."""
_THINNEST_CRESCENT_MM = 2.5


@dataclass(frozen=True)
class Crescent:
    """Subdural blood: a layer on the inner table, thickest at `centre`, on one side of the falx.

    `size_mm`: its reach along the table; `thickness`: greatest thickness as a share of it.
    """

    cavity: Cavity
    centre: Point
    size_mm: float
    thickness: float
    hu: float
    kind: ClassVar[str] = "SDH"

    @property
    def reach_mm(self) -> float:
        """Radius of a ball about the centre that holds the layer."""
        return self.size_mm

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance, mm (to the layer's faces; at its rim the layer has no thickness)."""
        thickest = max(self.thickness * self.size_mm, min(_THINNEST_CRESCENT_MM, self.size_mm))
        along = _distance_between(self.centre, x, y, z) / self.size_mm
        depth = -self.cavity.brain_distance(x, y, z)

        # Tapers to nothing as a parabola; beyond its reach the thickness is negative: outside.
        layer = np.maximum(-depth, depth - thickest * (1.0 - along * along))
        # The falx keeps it on its side.
        return np.maximum(layer, 1.5 - math.copysign(1.0, self.centre[0]) * x)


@dataclass(frozen=True)
class Lens:
    """Epidural blood: what a ball cuts off the cavity, biconvex between bone and dura.

    `table`: the point of the inner table below which the ball stands; `size_mm`: its radius.
    """

    cavity: Cavity
    table: Point
    size_mm: float
    hu: float
    kind: ClassVar[str] = "EDH"

    @property
    def centre(self) -> Point:
        """The ball's centre, outside the inner table."""
        share = 1.0 + _LENS_OUTSIDE_SHARE * self.size_mm / math.dist(self.table, (0.0, 0.0, 0.0))
        x, y, z = (share * value for value in self.table)
        return x, y, z

    @property
    def reach_mm(self) -> float:
        """The ball's radius."""
        return self.size_mm

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance, mm."""
        ball = _distance_between(self.centre, x, y, z) - np.float32(self.size_mm)
        return np.maximum(ball, self.cavity.brain_distance(x, y, z))


@dataclass(frozen=True)
class SulcalBlood:
    """Subarachnoid blood: what lies in sulci and cisterns within `size_mm` of a point."""

    cavity: Cavity
    cisterns: tuple[Ellipsoid, ...]
    centre: Point
    size_mm: float
    hu: float
    kind: ClassVar[str] = "SAH"

    @property
    def reach_mm(self) -> float:
        """Radius of the ball."""
        return self.size_mm

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance, mm (a lower bound near the ball's surface)."""
        # The fluid on the cortex is as deep as the folds, which blood widens.
        depth = -self.cavity.brain_distance(x, y, z)
        folds = np.maximum(self.cavity.folds.at(x, y, z), 0.0)
        inside = np.maximum(-depth, depth - 2.0 - 3.2 * folds)

        for cistern in self.cisterns:
            inside = np.minimum(inside, cistern.distance(x, y, z))
        return np.maximum(inside, _distance_between(self.centre, x, y, z) - self.size_mm)


Layer = Crescent | Lens | SulcalBlood


def _distance_between(centre: Point, x: Array, y: Array, z: Array) -> Array:
    """Return the distance of points from a centre, mm."""
    return norm(x - centre[0], y - centre[1], z - centre[2])
