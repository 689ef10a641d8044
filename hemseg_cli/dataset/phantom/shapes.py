"""Shapes in continuous millimetres: ellipsoids, spots of one CT number, textures of waves.

Coordinates are RAS mm about the centre of the brain. A shape is given by its signed distance in mm
(negative inside), measured along the ray from its centre.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """`centre` and `radii` in head coordinates, mm; axes along the head's."""

    centre: Point
    radii: Point

    @property
    def reach_mm(self) -> float:
        """Radius of the smallest ball about the centre that holds the shape."""
        return max(self.radii)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance, mm, along the ray from the centre."""
        dx, dy, dz = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        return radial_distance(
            dx, dy, dz, norm(dx / self.radii[0], dy / self.radii[1], dz / self.radii[2])
        )


@dataclass(frozen=True)
class Spot:
    """A calcification, a vessel or a cavity: an ellipsoid with one CT number."""

    shape: Ellipsoid
    hu: float


@dataclass(frozen=True)
class Waves:
    """A random texture: a sum of cosines.

    `vectors` [n, 3] rad/mm in head coordinates, `phases` [n]; unit variance.
    """

    vectors: NDArray[np.float64]
    phases: NDArray[np.float64]

    def at(self, x: Array, y: Array, z: Array) -> Array:
        """Return the sum of the cosines at points in head mm, of the points' shape."""
        total = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), dtype=np.float32)
        for (a, b, c), phase in zip(self.vectors.tolist(), self.phases.tolist(), strict=True):
            total += np.cos(a * x + b * y + c * z + phase)
        return np.asarray(total * np.float32(math.sqrt(2.0 / len(self.phases))))


def sphere_directions(count: int) -> NDArray[np.float64]:
    """Directions spread evenly (Fibonacci lattice), [count, 3]."""
    n = np.arange(count) + 0.5
    z = 1.0 - 2.0 * n / count
    turn = math.pi * (1.0 + math.sqrt(5.0)) * n
    around = np.sqrt(1.0 - z * z)
    return np.column_stack([around * np.cos(turn), around * np.sin(turn), z])


def norm(x: Array, y: Array, z: Array) -> Array:
    """Return the length of each vector."""
    return np.asarray(np.sqrt(x * x + y * y + z * z))


def radial_distance(dx: Array, dy: Array, dz: Array, relative: Array) -> Array:
    """Return the distance to a star-shaped surface along the ray from its centre, mm.

    `relative` is 1 on the surface and grows in proportion to the distance from the centre.
    """
    return np.maximum(norm(dx, dy, dz), 1e-3) * (1.0 - 1.0 / np.maximum(relative, 1e-4))
