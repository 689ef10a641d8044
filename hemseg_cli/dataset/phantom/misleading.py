"""What may be taken for a hemorrhage: muscle, swelling, ears, dense vessels, calcified dura, beam.

Drawn in every head, each with its own chance and size, so that a network learns that bright is not
bleeding.
"""

import math
from dataclasses import replace

import numpy as np

from hemseg_cli.dataset.phantom.head import Artefacts, Head
from hemseg_cli.dataset.phantom.shapes import Ellipsoid, Spot

_METAL_HU = 2900.0
_SIDES = (-1.0, 1.0)


def with_misleading(head: Head, rng: np.random.Generator) -> Head:
    """Add to a head, after its own anatomy, what misleads."""
    a, b, c = head.cavity.skull.radii
    metal = _metal(c, rng)
    spots = [
        *head.spots,
        *_dense_arteries(c, rng),
        *_calcified_dura(head, rng),
        *_jaw_and_spine(a, c, rng),
        *([metal] if metal else []),
    ]
    artefacts = Artefacts(
        hardening_hu=float(rng.uniform(7.0, 13.0)),
        band_hu=float(rng.uniform(0.0, 14.0)),
        band_mm=float(rng.uniform(4.0, 12.0)),
        metal=metal,
        streak_hu=float(rng.uniform(40.0, 150.0)) if metal else 0.0,
    )
    soft = (*_ears(head, rng), *_muscles(a, b, c, rng), *_swelling(head, rng))
    return replace(head, soft=soft, spots=tuple(spots), artefacts=artefacts)


def _ears(head: Head, rng: np.random.Generator) -> list[Spot]:
    """An auricle on each side, off the scalp."""
    a, _, c = head.cavity.skull.radii
    beside = a + head.skull_mm + head.scalp_mm + 1.0
    high, long = float(rng.uniform(22.0, 32.0)), float(rng.uniform(12.0, 18.0))
    return [
        Spot(Ellipsoid((side * beside, -8.0, -0.45 * c), (float(thick), long, high)), 38.0)
        for side in _SIDES
        for thick in [rng.uniform(4.0, 9.0)]
    ]


def _muscles(a: float, b: float, c: float, rng: np.random.Generator) -> list[Spot]:
    """Jaw muscles (temporal, masseter, pterygoid) and those of the neck: as dense as old blood."""
    places = (
        ((0.97 * a, 22.0, -0.35 * c), (5.0, 20.0, 26.0)),  # temporal
        ((0.80 * a, 26.0, -1.25 * c), (6.0, 14.0, 24.0)),  # masseter
        ((0.48 * a, 22.0, -1.10 * c), (8.0, 12.0, 18.0)),  # pterygoid
        ((0.30 * a, -0.62 * b, -1.20 * c), (17.0, 12.0, 34.0)),  # of the neck
        ((0.58 * a, -0.32 * b, -1.35 * c), (9.0, 12.0, 34.0)),  # sternocleidomastoid
    )
    hu = float(rng.uniform(52.0, 68.0))
    return [
        Spot(Ellipsoid((side * x, y, z), radii), hu + float(rng.normal(0.0, 2.0)))
        for side in _SIDES
        for (x, y, z), radii in places
    ]


def _swelling(head: Head, rng: np.random.Generator) -> list[Spot]:
    """Blood or fluid in the scalp, in every third head: outside the skull, so no class of ours."""
    if rng.random() > 0.35:
        return []
    towards = (float(rng.choice(_SIDES)), float(rng.uniform(-1, 1)), float(rng.uniform(-0.1, 1)))
    table = np.array(head.cavity.inner_table_point(towards))
    outside = 1.0 + (head.skull_mm + head.scalp_mm * 0.6) / float(np.linalg.norm(table))
    x, y, z = (table * outside).tolist()
    r, s, t = rng.uniform(9.0, 24.0, 3).tolist()
    return [Spot(Ellipsoid((x, y, z), (r, s, t)), float(rng.uniform(42.0, 72.0)))]


def _dense_arteries(c: float, rng: np.random.Generator) -> list[Spot]:
    """Basilar and middle cerebral arteries, denser where blood is thick or clots in them."""
    dense = float(rng.uniform(44.0, 66.0))
    basilar = Ellipsoid((float(rng.normal(0.0, 1.5)), 2.0, -0.42 * c), (2.2, 2.2, 9.0))
    middle = [
        Ellipsoid((side * (15.0 + 9.0 * part), 12.0 + 2.0 * part, -0.30 * c), (6.5, 1.7, 1.9))
        for side in _SIDES
        for part in (0, 1)
    ]
    return [Spot(shape, dense) for shape in (basilar, *middle)]


def _calcified_dura(head: Head, rng: np.random.Generator) -> list[Spot]:
    """Plates on falx, tentorium and convexity: thin, 90 to 450 HU, blurred to blood's density."""
    _, b, c = head.cavity.skull.radii
    spots = []
    for _ in range(int(rng.integers(0, 4))):
        y, z = float(rng.uniform(-0.6, 0.7)) * b, float(rng.uniform(0.35, 0.8)) * c
        thick, wide = float(rng.uniform(0.8, 2.2)), float(rng.uniform(3.0, 9.0))
        spots.append(_plate((0.0, y, z), (thick, wide, 0.7 * wide), rng))
    for _ in range(int(rng.integers(0, 3))):
        towards = (float(rng.choice(_SIDES)), float(rng.uniform(-1, 1)), float(rng.uniform(0, 1)))
        x, y, z = (0.98 * value for value in head.cavity.inner_table_point(towards))
        wide = float(rng.uniform(2.0, 5.0))
        spots.append(_plate((x, y, z), (1.8, wide, wide), rng))
    for side in _SIDES:
        if rng.random() < 0.3:
            spots.append(_plate((side * 22.0, -26.0, -16.0), (7.0, 2.0, 1.5), rng))
    return spots


def _plate(
    centre: tuple[float, float, float], radii: tuple[float, float, float], rng: np.random.Generator
) -> Spot:
    return Spot(Ellipsoid(centre, radii), float(rng.uniform(90.0, 450.0)))


def _jaw_and_spine(a: float, c: float, rng: np.random.Generator) -> list[Spot]:
    """Mandible, teeth, airway and the first vertebrae with the cord, down to the third."""
    spots = [
        Spot(Ellipsoid((side * 0.66 * a, 24.0, -1.25 * c), (4.0, 13.0, 24.0)), 900.0)
        for side in _SIDES
    ]
    spots += [
        Spot(Ellipsoid((30.0 * math.sin(t), 42.0 + 26.0 * math.cos(t), -1.45 * c), (4, 4, 9)), 1500)
        for t in np.linspace(-1.3, 1.3, 9).tolist()
    ]
    spots.append(Spot(Ellipsoid((0.0, 16.0, -1.4 * c), (11.0, 6.0, 42.0)), -950.0))

    # Each vertebra: a body before the canal and an arch behind it, then the canal with the cord.
    shift = float(rng.normal(0.0, 2.0))
    for level in range(3):
        z = -0.98 * c - 17.0 * level
        spots.append(Spot(Ellipsoid((shift, -6.0, z), (13.0, 9.0, 7.0)), 420.0))
        spots.append(Spot(Ellipsoid((shift, -30.0, z), (20.0, 12.0, 5.0)), 520.0))
    spots.append(Spot(Ellipsoid((shift, -22.0, -1.45 * c), (11.0, 8.5, 46.0)), 10.0))
    spots.append(Spot(Ellipsoid((shift, -22.0, -1.45 * c), (6.5, 5.0, 46.0)), 34.0))
    return spots


def _metal(c: float, rng: np.random.Generator) -> Spot | None:
    """A filling in a tooth, or a clip beside the circle of Willis, in every fourth head."""
    kind = rng.random()
    if kind > 0.25:
        return None
    side = float(rng.choice(_SIDES))
    place = (side * 8.0, 14.0, -0.36 * c) if kind < 0.08 else (side * 26.0, 50.0, -1.42 * c)
    size = float(rng.uniform(1.5, 3.0))
    return Spot(Ellipsoid(place, (size, size, size)), _METAL_HU)
