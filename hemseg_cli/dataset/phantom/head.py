"""A head in continuous millimetres, for the phantom's scanner; nothing here knows of voxels.

Positions, sizes and CT numbers are of the order found in textbooks; the phantom imitates no person.
"""

import functools
from dataclasses import dataclass

import numpy as np

from hemseg_cli.dataset.phantom.shapes import (
    Array,
    Ellipsoid,
    Hemorrhage,
    Spot,
    Waves,
    norm,
    radial_distance,
    shape_volume_ml,
)


@dataclass(frozen=True)
class Head:
    """Everything that the scanner sees, fixed by the generator that drew it."""

    skull: Ellipsoid  # inner table
    chin_radius_mm: float  # the ellipsoid's z radius below the centre
    skull_mm: float
    scalp_mm: float
    ventricles: tuple[
        tuple[Ellipsoid, ...], tuple[Ellipsoid, ...], tuple[Ellipsoid, ...]
    ]  # left, right, third and fourth
    nuclei: tuple[Ellipsoid, ...]
    spots: tuple[Spot, ...]
    folds: Waves
    texture: Waves
    gray_hu: float
    white_hu: float
    hemorrhages: tuple[Hemorrhage, ...] = ()

    @functools.cached_property
    def spot_balls(self) -> Array:
        """Centre and reach of each spot, [n, 4] mm.

        To tell quickly which of them a plane can meet.
        """
        return np.array([(*spot.shape.centre, spot.shape.reach_mm) for spot in self.spots]).reshape(
            -1, 4
        )

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

    def blood_distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the nearest hemorrhage, mm; infinite without one."""
        nearest = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), np.inf)
        for hemorrhage in self.hemorrhages:
            nearest = np.minimum(nearest, hemorrhage.distance(x, y, z))
        return nearest

    def truth_ml(self) -> list[float]:
        """Volume of each hemorrhage, mL; what two share counts for the first."""
        return [
            shape_volume_ml(shape, self.hemorrhages[:n]) for n, shape in enumerate(self.hemorrhages)
        ]
