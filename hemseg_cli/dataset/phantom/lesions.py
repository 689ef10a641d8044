"""What bleeding leaves in the brain: star-shaped blobs, blood in a ventricle, edema about a blob.

Each gives a signed distance in head mm (negative inside), see `shapes`; `kind` is the key of its
class.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.dataset.phantom.cavity import Cavity
from hemseg_cli.dataset.phantom.shapes import (
    Array,
    Ellipsoid,
    Point,
    norm,
    radial_distance,
    sphere_directions,
)

_SURFACE_POINTS = 400


class Lesion(Protocol):
    """A region with a class and a CT number."""

    @property
    def kind(self) -> str:
        """Key of its class."""
        ...

    @property
    def hu(self) -> float:
        """Its mean CT number."""
        ...

    @property
    def centre(self) -> Point:
        """Middle of a ball that holds the region, head mm."""
        ...

    @property
    def reach_mm(self) -> float:
        """Radius of that ball."""
        ...

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the surface, mm, negative inside; exact only close to the surface."""
        ...


@dataclass(frozen=True)
class Blob:
    """A star-shaped hemorrhage in the brain (IPH).

    An ellipsoid in its own axes (rows of `axes`), its radius multiplied by 1 + the sum of its
    ripples.
    """

    centre: Point
    radii: Point
    axes: NDArray[np.float64]
    ripples: NDArray[np.float64]  # rows: wave vector (3), phase, amplitude
    hu: float
    kind: ClassVar[str] = "IPH"

    @property
    def reach_mm(self) -> float:
        """Radius of a ball about the centre that holds the shape."""
        return max(self.radii) * (1.0 + float(np.abs(self.ripples[:, 4]).sum()))

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance, mm, along the ray from the centre."""
        dx, dy, dz = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        u, v, w = (
            a * dx + b * dy + c * dz
            for a, b, c in (self.axes / np.array(self.radii)[:, None]).tolist()
        )
        length = np.maximum(norm(u, v, w), 1e-4)
        return radial_distance(
            dx, dy, dz, length / self._stretch(u / length, v / length, w / length)
        )

    def _stretch(self, u: Array, v: Array, w: Array) -> Array:
        stretch = np.ones_like(u)
        for a, b, c, phase, amplitude in self.ripples.tolist():
            stretch += amplitude * np.sin(a * u + b * v + c * w + phase)
        return stretch

    def surface(self) -> Array:
        """Points on the surface, [n, 3] head mm."""
        u = sphere_directions(_SURFACE_POINTS)
        own = u * self._stretch(*u.T)[:, None] * np.array(self.radii)
        return np.asarray(own @ self.axes + np.array(self.centre))

    def volume_ml(self) -> float:
        """Exact volume: for a star-shaped body the integral of radius^3 / 3 over all directions."""
        u = sphere_directions(20_000)
        return float(
            4.0 / 3.0 * math.pi * np.prod(self.radii) * np.mean(self._stretch(*u.T) ** 3) / 1000.0
        )

    def scaled_to(self, volume_ml: float) -> "Blob":
        """The same shape with another volume."""
        factor = (volume_ml / self.volume_ml()) ** (1.0 / 3.0)
        x, y, z = (radius * factor for radius in self.radii)
        return replace(self, radii=(x, y, z))


@dataclass(frozen=True)
class VentricleCast:
    """Blood in one lateral ventricle (IVH), settled to the back of a lying patient.

    Everything posterior to `level_mm`.
    """

    parts: tuple[Ellipsoid, ...]
    level_mm: float
    hu: float
    kind: ClassVar[str] = "IVH"

    @property
    def centre(self) -> Point:
        """Middle of the ventricle's parts."""
        x, y, z = np.mean([part.centre for part in self.parts], axis=0)
        return float(x), float(y), float(z)

    @property
    def reach_mm(self) -> float:
        """Radius of a ball about the centre that holds the shape."""
        return max(math.dist(part.centre, self.centre) + part.reach_mm for part in self.parts)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance, mm (a lower bound near the level)."""
        inside = self.parts[0].distance(x, y, z)
        for part in self.parts[1:]:
            inside = np.minimum(inside, part.distance(x, y, z))
        return np.maximum(inside, y - self.level_mm)


@dataclass(frozen=True)
class Edema:
    """Swollen brain about a blob: a rim in the white matter, outside of blood and ventricles.

    `gaps`: the ventricles, which do not swell.
    """

    blob: Blob
    width_mm: float
    hu: float
    cavity: Cavity
    gaps: tuple[Ellipsoid, ...]
    kind: ClassVar[str] = "edema"

    @property
    def centre(self) -> Point:
        """Middle of the blob."""
        return self.blob.centre

    @property
    def reach_mm(self) -> float:
        """Radius of a ball about the centre that holds the rim."""
        return self.blob.reach_mm + self.width_mm

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance, mm (a lower bound away from the rim's outer surface)."""
        from_blob = self.blob.distance(x, y, z)
        rim = np.maximum(from_blob - self.width_mm, -from_blob)
        # Not in the fluid about the brain, nor in the ventricles.
        inside = np.maximum(rim, self.cavity.brain_distance(x, y, z) + 3.0)
        for gap in self.gaps:
            inside = np.maximum(inside, -gap.distance(x, y, z))
        return inside
