"""Place hemorrhages of each kind in a head, with the volumes asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.layers import Crescent, Layer, Lens, SulcalBlood
from hemseg_cli.dataset.phantom.lesions import Blob, Edema, Lesion, VentricleCast
from hemseg_cli.dataset.phantom.shapes import Ellipsoid, Point, norm
from hemseg_cli.dataset.phantom.volumes import grown_to, lesion_volume_ml

BLEEDING_KINDS = ("IPH", "IVH", "SAH", "SDH", "EDH")
"""The kinds of hemorrhage that can be drawn, by the keys of their classes."""

SMALLEST_LESION_ML = 0.05
_SMALLEST_CAST_ML = 0.3
# A layer is placed apart from other blood where that is easily done; else it may touch.
_LAYER_TRIES, _LAYER_GAP_MM = 12, 4.0


def with_hemorrhages(
    head: Head, volumes_ml: list[float], rng: np.random.Generator, *, ventricular: bool
) -> Head:
    """Place one blob of each volume (0.05 to 60 mL) in a head, apart from each other, with edema.

    With `ventricular` the first blob reaches the wall of a ventricle, and blood has settled in it.
    Volumes are kept whatever the place.
    """
    side = int(rng.integers(2))
    for number, volume_ml in enumerate(sorted(volumes_ml, reverse=True)):
        near = head.ventricles[side] if ventricular and number == 0 else None
        head = _with(head, _place_blob(head, volume_ml, rng, near))
    if ventricular:
        head = _with_cast(head, head.ventricles[side], rng)
    return _with_edema(head, rng)


def with_kinds(
    head: Head, volumes_ml: Mapping[str, Sequence[float]], rng: np.random.Generator
) -> Head:
    """Place hemorrhages of several kinds: by key of BLEEDING_KINDS the volumes of its lesions.

    Blobs and layers have their volumes within some percent. What a place cannot hold is less: a
    ventricle its own volume, subarachnoid blood 25 mL.
    """
    for volume_ml in sorted(volumes_ml.get("IPH", ()), reverse=True):
        head = _with(head, _place_blob(head, volume_ml, rng, None))
    first = int(rng.integers(2))
    for number, volume_ml in enumerate(volumes_ml.get("IVH", ())):
        ventricle = head.ventricles[(first + number) % 2]
        head = _with(head, _filled_ventricle(ventricle, volume_ml, rng))

    for kind in ("EDH", "SDH", "SAH"):
        for volume_ml in volumes_ml.get(kind, ()):
            head = _with(head, _place_layer(head, kind, volume_ml, rng))
    return _with_edema(head, rng)


def later(head: Head, volume_factor: float) -> Head:
    """Return the head at follow-up: each volume times `volume_factor`, 0.05 mL at least.

    Below 1 blood is resorbed; what has settled in a ventricle stays.
    """
    return replace(
        head,
        hemorrhages=tuple(_resized(shape, volume_factor) for shape in head.hemorrhages),
        edema=tuple(
            replace(rim, blob=_resized_blob(rim.blob, volume_factor)) for rim in head.edema
        ),
    )


def _resized(shape: Lesion, volume_factor: float) -> Lesion:
    if isinstance(shape, Blob):
        return _resized_blob(shape, volume_factor)
    if isinstance(shape, Layer):
        volume_ml = lesion_volume_ml(shape, ()) * volume_factor
        return grown_to(shape, max(SMALLEST_LESION_ML, volume_ml))
    return shape


def _resized_blob(blob: Blob, volume_factor: float) -> Blob:
    return blob.scaled_to(max(SMALLEST_LESION_ML, blob.volume_ml() * volume_factor))


def _with(head: Head, lesion: Lesion) -> Head:
    return replace(head, hemorrhages=(*head.hemorrhages, lesion))


def _with_cast(head: Head, parts: tuple[Ellipsoid, ...], rng: np.random.Generator) -> Head:
    """Settle blood in a ventricle: 0.3 mL at least, unless the blobs fill it already."""
    first, hu = float(rng.uniform(-30.0, -8.0)), float(rng.uniform(60.0, 74.0))
    for level in (first, 0.0, 15.0, 40.0):
        cast = VentricleCast(parts, level, hu)
        if lesion_volume_ml(cast, head.hemorrhages) >= _SMALLEST_CAST_ML:
            return _with(head, cast)
    return head


def _filled_ventricle(
    parts: tuple[Ellipsoid, ...], volume_ml: float, rng: np.random.Generator
) -> VentricleCast:
    """Fill a ventricle from the back to a level, up to the volume or nearly full."""
    low = min(part.centre[1] - part.radii[1] for part in parts)
    high = max(part.centre[1] + part.radii[1] for part in parts)
    cast = VentricleCast(parts, high, float(rng.uniform(58.0, 74.0)))
    wanted = min(volume_ml, 0.9 * lesion_volume_ml(cast, ()))

    # The volume grows with the level: halve the interval.
    for _ in range(9):
        middle = (low + high) / 2
        cast = replace(cast, level_mm=middle)
        low, high = (middle, high) if lesion_volume_ml(cast, ()) < wanted else (low, middle)
    return replace(cast, level_mm=high)


def _with_edema(head: Head, rng: np.random.Generator) -> Head:
    """Surround each blob by edema, wider about larger ones."""
    gaps = tuple(part for ventricle in head.ventricles for part in ventricle)
    rims = [
        Edema(
            blob,
            float(np.clip(rng.uniform(0.25, 0.6) * np.mean(blob.radii), 1.5, 9.0)),
            float(rng.uniform(15.0, 21.0)),
            head.cavity,
            gaps,
        )
        for blob in head.hemorrhages
        if isinstance(blob, Blob)
    ]
    return replace(head, edema=tuple(rims))


def _place_layer(head: Head, kind: str, volume_ml: float, rng: np.random.Generator) -> Layer:
    """Draw a layer of blood, at the first place found that is apart from other blood."""
    layer = grown_to(_draw_layer(head, kind, volume_ml, rng), volume_ml)
    for _ in range(_LAYER_TRIES):
        if all(_is_apart(layer, other) for other in head.hemorrhages):
            break
        layer = grown_to(_draw_layer(head, kind, volume_ml, rng), volume_ml)
    return layer


def _is_apart(layer: Layer, other: Lesion) -> bool:
    """Tell whether two lesions' balls are apart, or no point of one lies near the other."""
    between = float(norm(*(np.subtract(layer.centre, other.centre)[:, None])).item())
    if between > layer.reach_mm + other.reach_mm + _LAYER_GAP_MM:
        return True
    steps = np.linspace(-layer.reach_mm, layer.reach_mm, 24)
    axes = np.meshgrid(*(at + steps for at in layer.centre), indexing="ij")
    inside = layer.distance(*axes) < 0
    return not bool((other.distance(*axes)[inside] < _LAYER_GAP_MM).any())


def _draw_layer(head: Head, kind: str, volume_ml: float, rng: np.random.Generator) -> Layer:
    """Draw a place on the inner table (SDH, EDH), in the sulci or in a cistern (SAH)."""
    side = float(rng.choice([-1.0, 1.0]))
    cavity = head.cavity
    first_mm = 12.0 * volume_ml ** (1.0 / 3.0)
    if kind == "EDH":
        towards = (side * 0.9, float(rng.uniform(-0.7, 0.5)), float(rng.uniform(0.0, 0.5)))
        table = cavity.inner_table_point(towards)
        return Lens(cavity, table, first_mm, float(rng.uniform(60.0, 78.0)))
    if kind == "SDH":
        towards = (side * 0.8, float(rng.uniform(-0.6, 0.7)), float(rng.uniform(0.1, 0.7)))
        centre = cavity.inner_table_point(towards)
        thickness = float(rng.uniform(0.13, 0.22))
        return Crescent(cavity, centre, first_mm, thickness, float(rng.uniform(55.0, 74.0)))

    # Small ones lie in a sulcus or a cistern, large ones start from the cisterns of the base.
    hu = float(rng.uniform(50.0, 66.0))
    if volume_ml > 4.0 or rng.random() < 0.4:
        centre = head.cisterns[int(rng.integers(len(head.cisterns)))].centre
    else:
        towards = (side * 0.7, float(rng.uniform(-0.8, 0.8)), float(rng.uniform(0.2, 0.9)))
        centre = cavity.inner_table_point(towards)
    return SulcalBlood(cavity, head.cisterns, centre, first_mm, hu)


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
        if head.cavity.brain_distance(*surface.T).max() > -2.5:
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
    x, y, z = rng.uniform(-1.0, 1.0, 3) * np.array(head.cavity.skull.radii) * 0.85
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
