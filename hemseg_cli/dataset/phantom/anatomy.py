"""Draw a head without hemorrhage: skull, ventricles, nuclei, vessels, cavities, calcifications."""

import math

import numpy as np

from hemseg_cli.dataset.phantom.cavity import Cavity
from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.misleading import with_misleading
from hemseg_cli.dataset.phantom.shapes import Ellipsoid, Spot, Waves


def draw_anatomy(rng: np.random.Generator) -> Head:
    """Draw a head without hemorrhage, with what may be taken for one (see `misleading`)."""
    a, b, c = (float(r) for r in np.array([66.0, 83.0, 66.0]) * rng.uniform(0.94, 1.06, 3))
    wide = float(rng.uniform(0.85, 1.35))  # ventricles widen with age
    left, right = (_lateral_ventricle(side, wide, rng) for side in (-1.0, 1.0))
    middle = (
        Ellipsoid((0.0, -2.0, -4.0), (2.0 * wide, 12.0, 8.0)),
        Ellipsoid((0.0, -38.0, -30.0), (6.0 * wide, 5.0, 7.0)),
    )
    spots = (*_vessels(a, b, c, rng), *_cavities(a, b, c), *_calcifications(c, wide, rng))
    cavity = Cavity(Ellipsoid((0.0, 0.0, 0.0), (a, b, c)), 1.5 * c, _waves(rng, 28, 9.0, 20.0))
    skull_mm = float(rng.uniform(5.5, 8.0))
    head = Head(
        cavity=cavity,
        skull_mm=skull_mm,
        scalp_mm=float(rng.uniform(5.0, 8.0)),
        ventricles=(left, right, middle),
        cisterns=_cisterns(a, b, c, wide),
        nuclei=_nuclei(),
        soft=(),
        spots=spots,
        texture=_waves(rng, 28, 5.0, 24.0),
        gray_hu=float(rng.uniform(35.0, 39.0)),
        white_hu=float(rng.uniform(27.0, 30.0)),
        neck_radius_mm=float(rng.uniform(50.0, 60.0)),
        jaw=Ellipsoid((0.0, 30.0, -1.3 * c), (0.9 * a, 0.58 * b, 0.75 * c)),
    )
    return with_misleading(head, rng)


def _nuclei() -> tuple[Ellipsoid, ...]:
    """Thalamus and lentiform nucleus of both sides."""
    return tuple(
        Ellipsoid((side * x, y, z), radii)
        for side in (-1.0, 1.0)
        for x, y, z, radii in (
            (12.0, -6.0, 2.0, (7.0, 12.0, 8.0)),
            (25.0, 8.0, 2.0, (6.0, 17.0, 9.0)),
        )
    )


def _cisterns(a: float, b: float, c: float, wide: float) -> tuple[Ellipsoid, ...]:
    """Fluid about the brain stem, in the Sylvian fissures and between the frontal lobes."""
    return (
        Ellipsoid((0.0, 12.0, -0.40 * c), (11.0, 9.0, 5.0)),
        Ellipsoid((0.0, -22.0, -12.0), (12.0, 3.5 * wide, 6.0)),
        Ellipsoid((0.0, -4.0, -0.5 * c), (8.0, 3.5, 8.0)),
        Ellipsoid((0.0, 0.62 * b, 6.0), (1.5 * wide, 20.0, 24.0)),
        *(Ellipsoid((side * 0.66 * a, 14.0, -8.0), (12.0, 3.5 * wide, 4.0)) for side in (-1, 1)),
    )


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
    hu = float(rng.uniform(47.0, 64.0))
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
