"""The space inside the skull: its walls, and the folds of the cortex along them."""

import math
from dataclasses import dataclass

import numpy as np

from hemseg_cli.dataset.phantom.shapes import Array, Ellipsoid, Point, Waves, norm, radial_distance

_SURFACE_STEPS = 8  # end within 0.01 mm of the surface (tested)


@dataclass(frozen=True)
class Cavity:
    """The skull's inner table, the base, and the waves that fold the cortex.

    `chin_radius_mm`: the z radius of the skull's ellipsoid below its centre, where the face is.
    """

    skull: Ellipsoid
    chin_radius_mm: float
    folds: Waves

    def skull_distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the inner table, carried on below the base, mm.

        Egg-shaped: narrower at the forehead.
        """
        a, b, c = self.skull.radii
        radius_z = np.where(z >= 0, c, self.chin_radius_mm).astype(z.dtype)
        return radial_distance(x, y, z, norm(x * (1.0 + 0.12 * y / b) / a, y / b, z / radius_z))

    def base_distance(self, y: Array, z: Array) -> Array:
        """How far a point lies below the skull base, mm: a plane that falls towards the back."""
        return (-0.58 * self.skull.radii[2] + 0.22 * y) - z

    def brain_distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the brain's cavity, mm."""
        return np.maximum(self.skull_distance(x, y, z), self.base_distance(y, z))

    def inner_table_point(self, towards: Point) -> Point:
        """Return the point of the inner table in a direction from the centre, mm."""
        direction = np.array(towards) / math.dist(towards, (0.0, 0.0, 0.0))
        # The egg is no ellipsoid: steps by the distance along the ray close in on its surface.
        radius_mm = max(self.skull.radii)
        for _ in range(_SURFACE_STEPS):
            point = direction * radius_mm
            distance = self.skull_distance(*(point[axis : axis + 1] for axis in range(3)))
            radius_mm -= float(distance[0])
        x, y, z = (direction * radius_mm).tolist()
        return x, y, z
