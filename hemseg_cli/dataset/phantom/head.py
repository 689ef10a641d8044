"""A head in continuous millimetres: what the phantom scanner looks at.

Nothing here knows of voxels.

Head coordinates are RAS mm about the centre of the brain; shapes are given by their signed distance
in mm (negative inside), measured along the ray from the shape's centre. A hemorrhage is a
star-shaped blob, whose volume follows from its radius function, or blood layered in a lateral
ventricle. Positions, sizes and CT numbers are of the order found in textbooks; the phantom imitates
no person.
"""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Point = tuple[float, float, float]

SMALLEST_LESION_ML = 0.3
_SURFACE_POINTS = 400
_CAST_SAMPLES = (
    72  # per axis, for the volume of shapes without a closed form: error below 0.2 % (tested)
)


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
        return _radial(
            dx, dy, dz, _norm(dx / self.radii[0], dy / self.radii[1], dz / self.radii[2])
        )


@dataclass(frozen=True)
class Blob:
    """A star-shaped hemorrhage.

    An ellipsoid in its own axes (rows of `axes`), its radius multiplied by 1 + the sum of its
    ripples.
    """

    centre: Point
    radii: Point
    axes: NDArray[np.float64]
    ripples: NDArray[np.float64]  # rows: wave vector (3), phase, amplitude
    hu: float

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
        length = np.maximum(_norm(u, v, w), 1e-4)
        return _radial(dx, dy, dz, length / self._stretch(u / length, v / length, w / length))

    def _stretch(self, u: Array, v: Array, w: Array) -> Array:
        stretch = np.ones_like(u)
        for a, b, c, phase, amplitude in self.ripples.tolist():
            stretch += amplitude * np.sin(a * u + b * v + c * w + phase)
        return stretch

    def surface(self) -> Array:
        """Points on the surface, [n, 3] head mm."""
        u = _sphere(_SURFACE_POINTS)
        own = u * self._stretch(*u.T)[:, None] * np.array(self.radii)
        return np.asarray(own @ self.axes + np.array(self.centre))

    def volume_ml(self) -> float:
        """Exact volume: for a star-shaped body the integral of radius^3 / 3 over all directions."""
        u = _sphere(20_000)
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
    """Blood in one lateral ventricle, settled to the back of a lying patient.

    Everything posterior to `level_mm`.
    """

    parts: tuple[Ellipsoid, ...]
    level_mm: float
    hu: float

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


Hemorrhage = Blob | VentricleCast


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
        return _radial(x, y, z, _norm(x * (1.0 + 0.12 * y / b) / a, y / b, z / radius_z))

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
        return [_volume_ml(shape, self.hemorrhages[:n]) for n, shape in enumerate(self.hemorrhages)]


def draw_anatomy(rng: np.random.Generator) -> Head:
    """A head without hemorrhage."""
    a, b, c = (float(r) for r in np.array([66.0, 83.0, 66.0]) * rng.uniform(0.94, 1.06, 3))
    wide = float(rng.uniform(0.85, 1.35))  # ventricles widen with age
    left, right = (_lateral_ventricle(side, wide, rng) for side in (-1.0, 1.0))
    middle = (
        Ellipsoid((0.0, -2.0, -4.0), (2.0 * wide, 12.0, 8.0)),
        Ellipsoid((0.0, -38.0, -30.0), (6.0 * wide, 5.0, 7.0)),
    )
    nuclei = tuple(
        Ellipsoid((side * x, y, z), radii)
        for side in (-1.0, 1.0)
        for x, y, z, radii in (
            (12.0, -6.0, 2.0, (7.0, 12.0, 8.0)),
            (25.0, 8.0, 2.0, (6.0, 17.0, 9.0)),
        )
    )
    return Head(
        skull=Ellipsoid((0.0, 0.0, 0.0), (a, b, c)),
        chin_radius_mm=1.5 * c,
        skull_mm=float(rng.uniform(5.5, 8.0)),
        scalp_mm=float(rng.uniform(5.0, 8.0)),
        ventricles=(left, right, middle),
        nuclei=nuclei,
        spots=(*_vessels(a, b, c, rng), *_cavities(a, b, c), *_calcifications(c, wide, rng)),
        folds=_waves(rng, 28, 9.0, 20.0),
        texture=_waves(rng, 28, 5.0, 24.0),
        gray_hu=float(rng.uniform(35.0, 39.0)),
        white_hu=float(rng.uniform(27.0, 30.0)),
    )


def with_hemorrhages(
    head: Head, volumes_ml: list[float], rng: np.random.Generator, *, ventricular: bool
) -> Head:
    """The head with one blob of each volume (0.3 to 60 mL), apart from each other, and, where `ventricular`, blood in a ventricle.

    With `ventricular` the first blob reaches the wall of that ventricle. Volumes are kept whatever
    the place.
    """
    side = int(rng.integers(2))
    for number, volume_ml in enumerate(sorted(volumes_ml, reverse=True)):
        near = head.ventricles[side] if ventricular and number == 0 else None
        head = replace(
            head, hemorrhages=(*head.hemorrhages, _place_blob(head, volume_ml, rng, near))
        )
    return _with_cast(head, head.ventricles[side], rng) if ventricular else head


def _with_cast(head: Head, parts: tuple[Ellipsoid, ...], rng: np.random.Generator) -> Head:
    """The head with blood settled in a ventricle.

    0.3 mL of it at least, unless the blobs fill the ventricle already.
    """
    first, hu = float(rng.uniform(-30.0, -8.0)), float(rng.uniform(60.0, 74.0))
    for level in (first, 0.0, 15.0, 40.0):
        cast = VentricleCast(parts, level, hu)
        if _volume_ml(cast, head.hemorrhages) >= SMALLEST_LESION_ML:
            return replace(head, hemorrhages=(*head.hemorrhages, cast))
    return head


def later(head: Head, volume_factor: float) -> Head:
    """The same head at follow-up: each blob's volume multiplied by `volume_factor` (below 1.

    Resorbed, 0.3 mL at least).
    """
    return replace(
        head,
        hemorrhages=tuple(
            shape.scaled_to(max(SMALLEST_LESION_ML, shape.volume_ml() * volume_factor))
            if isinstance(shape, Blob)
            else shape
            for shape in head.hemorrhages
        ),
    )


def _place_blob(
    head: Head, volume_ml: float, rng: np.random.Generator, near: tuple[Ellipsoid, ...] | None
) -> Blob:
    for attempt in range(4000):
        # A shape that finds no room is drawn rounder and rounder.
        spread = 0.3 * max(0.0, 1.0 - attempt / 2000)
        blob = _draw_blob(
            volume_ml, spread, _draw_centre(head, rng, near if attempt < 2000 else None), rng
        )
        surface = blob.surface()
        if head.brain_distance(*surface.T).max() > -2.5:
            continue
        if (
            near is not None
            and attempt < 2000
            and min(part.distance(*surface.T).min() for part in near) > 0.0
        ):
            continue
        if (
            head.hemorrhages
            and head.blood_distance(*np.vstack([surface, blob.centre]).T).min() < 4.0
        ):
            continue
        return blob
    raise ValueError(
        f"no room for a hemorrhage of {volume_ml} mL beside {len(head.hemorrhages)} others"
    )


def _draw_centre(head: Head, rng: np.random.Generator, near: tuple[Ellipsoid, ...] | None) -> Point:
    if near is not None:
        part = near[int(rng.integers(len(near)))]
        x, y, z = (centre + rng.normal(0.0, 8.0) for centre in part.centre)
        return float(x * 1.6), float(y), float(z)
    x, y, z = rng.uniform(-1.0, 1.0, 3) * np.array(head.skull.radii) * 0.85
    return float(x), float(y), float(z)


def _draw_blob(volume_ml: float, spread: float, centre: Point, rng: np.random.Generator) -> Blob:
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    ripples = np.column_stack(
        [
            rng.normal(0.0, 2.2, (4, 3)),
            rng.uniform(0.0, 2 * math.pi, 4),
            rng.uniform(0.2, 0.55, 4) * spread,
        ]
    )
    x, y, z = np.exp(rng.uniform(-spread, spread, 3))
    blob = Blob(
        centre, (float(x), float(y), float(z)), axes, ripples, float(rng.uniform(62.0, 78.0))
    )
    return blob.scaled_to(volume_ml)


def _lateral_ventricle(side: float, wide: float, rng: np.random.Generator) -> tuple[Ellipsoid, ...]:
    width = wide * float(rng.uniform(0.9, 1.1))
    return (
        Ellipsoid((side * 8.5, 24.0, 9.0), (4.0 * width, 13.0, 6.5 * width)),
        Ellipsoid((side * 10.0, -2.0, 15.0), (4.2 * width, 24.0, 6.0 * width)),
        Ellipsoid((side * 17.0, -27.0, 8.0), (5.5 * width, 15.0, 7.5 * width)),
    )


def _vessels(a: float, b: float, c: float, rng: np.random.Generator) -> tuple[Spot, ...]:
    """Venous sinuses along the inner table.

    Nearly as bright as a hemorrhage, because they are blood.
    """
    hu = float(rng.uniform(47.0, 55.0))
    sagittal = [
        Ellipsoid((0.0, -(b - 4) * math.sin(t), (c - 4) * math.cos(t)), (4.0, 7.0, 7.0))
        for t in np.linspace(-0.8, 1.75, 18)
    ]
    transverse = [
        Ellipsoid((side * (a - 6) * math.sin(t), -(b - 5) * math.cos(t), -0.3 * c), (6.0, 6.0, 4.5))
        for side in (-1, 1)
        for t in np.linspace(0.05, 1.1, 7)
    ]
    return tuple(Spot(shape, hu) for shape in (*sagittal, *transverse))


def _cavities(a: float, b: float, c: float) -> tuple[Spot, ...]:
    """Air in nose, frontal sinus and mastoids, and the eyes."""
    air = [
        Ellipsoid((0.0, b * 0.75, -c * 0.95), (14.0, 22.0, 14.0)),
        Ellipsoid((0.0, b + 4.0, -c * 0.25), (12.0, 3.0, 6.0)),
    ]
    air += [
        Ellipsoid((side * a * 0.85, -b * 0.25, -c * 0.75), (8.0, 10.0, 9.0)) for side in (-1, 1)
    ]
    eyes = [Ellipsoid((side * 29.0, b * 0.8, -c * 0.68), (11.0, 11.0, 11.0)) for side in (-1, 1)]
    return (*(Spot(shape, -950.0) for shape in air), *(Spot(shape, 12.0) for shape in eyes))


def _calcifications(c: float, wide: float, rng: np.random.Generator) -> tuple[Spot, ...]:
    places = [(side * 17.0 * (0.9 + 0.1 * wide), -24.0, 8.0) for side in (-1, 1)]
    places += [(0.0, -20.0, 2.0)]  # choroid plexus, pineal gland, globus pallidus, falx
    places += [(side * 19.0, 6.0, 2.0) for side in (-1, 1) if rng.random() < 0.5]
    places += [(0.0, float(rng.uniform(-40, 50)), 0.62 * c) for _ in range(int(rng.integers(0, 3)))]
    spots = []
    for place in places:
        x, y, z = np.array(place) + rng.normal(0.0, 1.0, 3)
        r, s, t = rng.uniform(1.2, 3.2, 3)
        spots.append(
            Spot(
                Ellipsoid((float(x), float(y), float(z)), (float(r), float(s), float(t))),
                float(rng.uniform(130.0, 380.0)),
            )
        )
    return tuple(spots)


def _waves(rng: np.random.Generator, count: int, shortest_mm: float, longest_mm: float) -> Waves:
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lengths = np.exp(rng.uniform(math.log(shortest_mm), math.log(longest_mm), (count, 1)))
    return Waves(directions * 2.0 * math.pi / lengths, rng.uniform(0.0, 2.0 * math.pi, count))


def _volume_ml(shape: Hemorrhage, before: tuple[Hemorrhage, ...]) -> float:
    """Exact for a blob (blobs are placed apart); by fine sampling where shapes overlap."""
    if isinstance(shape, Blob):
        return shape.volume_ml()
    steps = (np.arange(_CAST_SAMPLES) + 0.5) / _CAST_SAMPLES * 2.0 - 1.0
    total = 0.0
    for number, part in enumerate(shape.parts):
        grid = np.meshgrid(
            *(
                centre + radius * steps
                for centre, radius in zip(part.centre, part.radii, strict=True)
            ),
            indexing="ij",
        )
        points = np.stack([axis.ravel() for axis in grid])
        points = points[:, (part.distance(*points) < 0) & (points[1] < shape.level_mm)]
        for other in (*shape.parts[:number], *before):
            points = points[:, other.distance(*points) >= 0]
        total += points.shape[1] / _CAST_SAMPLES**3 * 8.0 * math.prod(part.radii) / 1000.0
    return total


def _sphere(count: int) -> NDArray[np.float64]:
    """Directions spread evenly (Fibonacci lattice), [count, 3]."""
    n = np.arange(count) + 0.5
    z = 1.0 - 2.0 * n / count
    turn = math.pi * (1.0 + math.sqrt(5.0)) * n
    around = np.sqrt(1.0 - z * z)
    return np.column_stack([around * np.cos(turn), around * np.sin(turn), z])


def _norm(x: Array, y: Array, z: Array) -> Array:
    return np.asarray(np.sqrt(x * x + y * y + z * z))


def _radial(dx: Array, dy: Array, dz: Array, relative: Array) -> Array:
    """Distance to a star-shaped surface along the ray, where `relative` is 1 on the surface and grows in proportion from the centre."""
    return np.maximum(_norm(dx, dy, dz), 1e-3) * (1.0 - 1.0 / np.maximum(relative, 1e-4))
