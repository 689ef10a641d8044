"""A head in continuous millimetres, for the phantom's scanner; nothing here knows of voxels.

Positions, sizes and CT numbers are of the order found in textbooks; the phantom imitates no person.
"""

import functools
from dataclasses import dataclass, field

import numpy as np

from hemseg_cli.dataset.phantom.cavity import Cavity
from hemseg_cli.dataset.phantom.lesions import Edema, Lesion
from hemseg_cli.dataset.phantom.shapes import Array, Ellipsoid, Spot, Waves
from hemseg_cli.dataset.phantom.volumes import lesion_volume_ml


@dataclass(frozen=True)
class Artefacts:
    """What the beam does to the picture.

    `hardening_hu`: how much brighter brain looks beside bone; `band_hu`: how much darker between
    the petrous bones, `band_mm` above the skull base; `metal`: a piece that throws streaks of
    `streak_hu`.
    """

    hardening_hu: float = 9.0
    band_hu: float = 0.0
    band_mm: float = 8.0
    metal: Spot | None = None
    streak_hu: float = 0.0


@dataclass(frozen=True)
class Head:
    """Everything that the scanner sees, fixed by the generator that drew it.

    `soft`: soft tissue outside the skull (ears, muscles, swelling), painted before the bone;
    `spots`: everything small that is painted after the brain.
    """

    cavity: Cavity
    skull_mm: float
    scalp_mm: float
    ventricles: tuple[
        tuple[Ellipsoid, ...], tuple[Ellipsoid, ...], tuple[Ellipsoid, ...]
    ]  # left, right, third and fourth
    cisterns: tuple[Ellipsoid, ...]
    nuclei: tuple[Ellipsoid, ...]
    soft: tuple[Spot, ...]
    spots: tuple[Spot, ...]
    texture: Waves
    gray_hu: float
    white_hu: float
    neck_radius_mm: float
    jaw: Ellipsoid  # skin of the lower face
    artefacts: Artefacts = field(default_factory=Artefacts)
    hemorrhages: tuple[Lesion, ...] = ()
    edema: tuple[Edema, ...] = ()

    @functools.cached_property
    def spot_balls(self) -> Array:
        """Centre and reach of each spot, [n, 4] mm.

        To tell quickly which of them a plane can meet.
        """
        return np.array([(*spot.shape.centre, spot.shape.reach_mm) for spot in self.spots]).reshape(
            -1, 4
        )

    def skin_distance(self, skull: Array, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the skin, mm; `skull` is the distance to the inner table."""
        outside = skull - np.float32(self.skull_mm + self.scalp_mm)
        # A neck below the skull base, as an upright cylinder.
        neck = np.maximum(
            np.hypot(x, y + 22.0) - np.float32(self.neck_radius_mm),
            z + np.float32(0.55 * self.cavity.skull.radii[2]),
        )
        return np.minimum(np.minimum(outside, neck), self.jaw.distance(x, y, z))

    def blood_distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the nearest hemorrhage, mm; infinite without one."""
        nearest = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), np.inf)
        for hemorrhage in self.hemorrhages:
            nearest = np.minimum(nearest, hemorrhage.distance(x, y, z))
        return nearest

    def truth_ml(self) -> list[float]:
        """Volume of each hemorrhage, mL; what two share counts for the first."""
        return [
            lesion_volume_ml(shape, self.hemorrhages[:n])
            for n, shape in enumerate(self.hemorrhages)
        ]

    def edema_ml(self) -> float:
        """Volume of all edema outside of blood, mL."""
        return sum(
            lesion_volume_ml(rim, (*self.hemorrhages, *self.edema[:n]))
            for n, rim in enumerate(self.edema)
        )
