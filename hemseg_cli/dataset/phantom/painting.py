"""Paint a head on a plane: the CT number of every sample, without noise, from the outside in."""

from typing import Any

import numpy as np

from hemseg_cli.dataset.phantom.gantry import Plane
from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.lesions import Blob
from hemseg_cli.dataset.phantom.shapes import Array, Ellipsoid

_BLOOD_EDGE_MM = 2.5
_EDEMA_EDGE_MM = 3.0
_AIR_HU = -1000
_DENSE_HU = 100.0
"""Edema and blood on the brain leave bone and calcifications as they are."""


def paint_head(head: Head, plane: Plane, folds: Array, texture: Array) -> Array:
    """Return the HU of one plane, float32 [row, column]; `folds`, `texture`: the head's waves."""
    everything = slice(None)
    points = x, y, z = plane.points(everything, everything)
    edge = max(1.0, plane.pixel_mm)
    skull = head.cavity.skull_distance(x, y, z)
    base = head.cavity.base_distance(y, z)
    brain = np.maximum(skull, base)

    # Skin, fat and muscle; in the neck fat lies between the muscles.
    outside = head.skin_distance(skull, x, y, z)
    hu = np.full_like(skull, _AIR_HU)
    _paint(hu, 40.0, outside, edge)
    _paint(hu, -85.0 + 10.0 * texture, outside + 2.5, edge)
    _paint(hu, 50.0 + 5.0 * texture, np.maximum(outside + 5.0, z - 12.0 - 10.0 * folds), edge)
    below = z + np.float32(0.62 * head.cavity.skull.radii[2])
    _paint(hu, -80.0, np.maximum(np.maximum(outside + 6.0, below), 3.0 * (1.3 - folds)), edge)
    for spot in head.soft:
        _paint_shape(hu, plane, spot.shape, spot.hu, edge)

    # Bone: outer table, diploe between the tables, and the base.
    inner_skin = skull - np.float32(head.skull_mm + head.scalp_mm)
    _paint(hu, 1050.0 + 120.0 * texture, np.maximum(brain - head.skull_mm, inner_skin + 4.0), edge)
    diploe = np.abs(skull - head.skull_mm / 2) - 0.22 * head.skull_mm + np.maximum(base, 0.0)
    _paint(hu, 480.0 + 90.0 * texture, diploe, edge)

    # Fluid, then gray and white matter; the beam makes brain beside bone brighter.
    _paint(hu, 7.0, brain, edge)
    hardening = head.artefacts.hardening_hu * np.exp(np.minimum(brain, 0.0) / 5.0)
    cortex = brain + 1.5 + 2.2 * np.maximum(folds, 0.0)
    _paint(hu, head.gray_hu + 1.2 * texture + hardening, cortex, edge)
    _paint(hu, head.white_hu + 1.2 * texture + hardening, brain + 7.0 + 3.0 * folds, 2.0)
    _paint_inside(head, plane, hu, (x, y, z), brain, edge)
    _paint_lesions(head, plane, hu, texture, edge)
    _add_artefacts(head, plane, hu, points, brain)
    return hu


def _paint_inside(
    head: Head,
    plane: Plane,
    hu: Array,
    points: tuple[Array, Array, Array],
    brain: Array,
    edge: float,
) -> None:
    """Paint nuclei, ventricles and cisterns, falx and tentorium, and all spots."""
    x, y, z = points
    for nucleus in head.nuclei:
        _paint_shape(hu, plane, nucleus, head.gray_hu, 2.0)
    for fluid in (*(part for ventricle in head.ventricles for part in ventricle), *head.cisterns):
        _paint_shape(hu, plane, fluid, 6.0, edge)

    # Sheets of dura, denser than brain: between the hemispheres and above the cerebellum.
    _paint(hu, 46.0, np.maximum(np.maximum(np.abs(x) - 0.8, brain + 1.0), 12.0 - z), edge)
    tent = np.abs(z + 4.0 + 0.45 * np.abs(x)) - 0.7
    _paint(hu, 46.0, np.maximum(np.maximum(tent, brain + 1.0), y + 16.0), edge)
    for n in np.flatnonzero(plane.height(head.spot_balls[:, :3]) < head.spot_balls[:, 3] + edge):
        _paint_shape(hu, plane, head.spots[n].shape, head.spots[n].hu, edge)


def _paint_lesions(head: Head, plane: Plane, hu: Array, texture: Array, edge: float) -> None:
    """Paint edema, then blood over it."""
    for rim in head.edema:
        window = plane.window(rim.centre, rim.reach_mm + _EDEMA_EDGE_MM)
        if window is not None:
            distance = rim.distance(*plane.points(*window))
            part = hu[window]
            distance[part > _DENSE_HU] = np.inf
            _paint(part, rim.hu + 1.2 * texture[window], distance, _EDEMA_EDGE_MM)

    for shape in head.hemorrhages:
        window = plane.window(shape.centre, shape.reach_mm + _BLOOD_EDGE_MM)
        if window is None:
            continue
        distance = shape.distance(*plane.points(*window))
        part = hu[window]
        value = shape.hu + 2.5 * texture[window]
        if isinstance(shape, Blob):
            _paint(part, value, distance, max(_BLOOD_EDGE_MM, edge))
        else:
            # A layer's edge is sharp, and bone stays bone.
            distance[part > 2.0 * _DENSE_HU] = np.inf
            _paint(part, value, distance, max(1.5, edge))


def _add_artefacts(head: Head, plane: Plane, hu: Array, points: list[Array], brain: Array) -> None:
    """Add the dark band between the petrous bones, and streaks from metal."""
    x, y, z = points
    beam = head.artefacts
    if beam.band_hu > 0:
        above = -head.cavity.base_distance(y, z) - beam.band_mm
        across = np.clip((42.0 - np.abs(x)) / 8.0, 0.0, 1.0)
        band = across * np.exp(-((above / 6.0) ** 2) - ((y + 12.0) / 14.0) ** 2)
        hu -= np.where(brain < 0.0, beam.band_hu * band, 0.0).astype(np.float32)
    if beam.metal is None:
        return

    # Rays in the plane of the metal, fading with distance from it.
    centre = np.array([beam.metal.shape.centre])
    near = 1.0 - float(plane.height(centre)[0]) / (beam.metal.shape.reach_mm + 4.0)
    if near > 0.0:
        dx, dy, dz = (axis - at for axis, at in zip(points, centre[0], strict=True))
        right, down = plane.along_i / plane.pixel_mm, plane.along_j / plane.pixel_mm
        u = right[0] * dx + right[1] * dy + right[2] * dz
        v = down[0] * dx + down[1] * dy + down[2] * dz
        angle, far = np.arctan2(v, u), np.hypot(u, v)
        rays = np.cos(7.0 * angle) + 0.7 * np.cos(11.0 * angle + 1.0)
        streaks = near * beam.streak_hu * rays * np.exp(-far / 35.0)
        hu += np.where((hu > -300.0) & (hu < 400.0), streaks, 0.0).astype(np.float32)


def _paint_shape(hu: Array, plane: Plane, shape: Ellipsoid, value: float, edge: float) -> None:
    window = plane.window(shape.centre, shape.reach_mm + edge)
    if window is not None:
        _paint(hu[window], value, shape.distance(*plane.points(*window)), edge)


def _paint(hu: Array, value: Any, distance: Array, edge_mm: float) -> None:
    """Blend `value` in where `distance` (mm, negative inside) says so.

    Half of it on the surface.
    """
    hu += np.clip(0.5 - distance / np.float32(edge_mm), 0.0, 1.0) * (
        np.asarray(value, dtype=np.float32) - hu
    )
