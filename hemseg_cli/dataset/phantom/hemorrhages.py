"""Place hemorrhages in a head: blobs of given volumes, and blood settled in a ventricle."""

import math
from dataclasses import replace

import numpy as np

from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.shapes import (
    Blob,
    Ellipsoid,
    Point,
    VentricleCast,
    shape_volume_ml,
)

SMALLEST_LESION_ML = 0.3


def with_hemorrhages(
    head: Head, volumes_ml: list[float], rng: np.random.Generator, *, ventricular: bool
) -> Head:
    """Place one blob of each volume (0.3 to 60 mL) in a head, apart from each other.

    With `ventricular` the first blob reaches the wall of a ventricle, and blood has settled in it.
    Volumes are kept whatever the place.
    """
    side = int(rng.integers(2))
    for number, volume_ml in enumerate(sorted(volumes_ml, reverse=True)):
        near = head.ventricles[side] if ventricular and number == 0 else None
        head = replace(
            head, hemorrhages=(*head.hemorrhages, _place_blob(head, volume_ml, rng, near))
        )
    return _with_cast(head, head.ventricles[side], rng) if ventricular else head


def _with_cast(head: Head, parts: tuple[Ellipsoid, ...], rng: np.random.Generator) -> Head:
    """Settle blood in a ventricle: 0.3 mL at least, unless the blobs fill it already."""
    first, hu = float(rng.uniform(-30.0, -8.0)), float(rng.uniform(60.0, 74.0))
    for level in (first, 0.0, 15.0, 40.0):
        cast = VentricleCast(parts, level, hu)
        if shape_volume_ml(cast, head.hemorrhages) >= SMALLEST_LESION_ML:
            return replace(head, hemorrhages=(*head.hemorrhages, cast))
    return head


def later(head: Head, volume_factor: float) -> Head:
    """Return the head at follow-up: each blob's volume times `volume_factor`, 0.3 mL at least.

    Below 1 blood is resorbed.
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
