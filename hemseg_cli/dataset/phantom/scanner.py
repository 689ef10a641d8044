"""A CT scanner for the phantom head.

Gantry, field of view, slice thickness, partial volume, texture and noise.

The head is sampled where the scanner's voxels truly lie (a tilted gantry shears the stack); the
volumes carry the grid that ITK's readers and the published labels give it (right-angled, z spacing
= distance between slice origins). See `imaging.geometry`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.dataset.phantom.anatomy import draw_anatomy
from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.hemorrhages import with_hemorrhages
from hemseg_cli.dataset.phantom.shapes import Array, Ellipsoid, Waves
from hemseg_cli.imaging.geometry import Affine
from hemseg_cli.imaging.nifti import Volume

_THROUGH_SLICE = (-1 / 3, 0.0, 1 / 3)  # planes averaged over the slice thickness, in thicknesses
_BLOOD_EDGE_MM = 2.5
_EDEMA_MM = 6.0
_AIR_HU = -1000


@dataclass(frozen=True)
class Gantry:
    """How a scan is taken. `centre_mm`: middle of the stack in patient RAS.

    Tilt as `geometry.tilt_deg` counts it.
    """

    matrix: int = 512
    slices: int = 32
    fov_mm: float = 240.0
    slice_distance_mm: float = 5.0  # along the slice normal
    tilt_deg: float = 0.0
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    noise_hu: float = 4.0

    @property
    def pixel_mm(self) -> float:
        """Pixel spacing as DICOM writes it, six decimals."""
        return round(self.fov_mm / self.matrix, 6)

    @property
    def column_step(self) -> NDArray[np.float64]:
        """Unit vector (RAS) from pixel row to row: to posterior, tilted."""
        tilt = math.radians(self.tilt_deg)
        return np.array([0.0, -math.cos(tilt), math.sin(tilt)])

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit slice normal (RAS), to superior."""
        tilt = math.radians(self.tilt_deg)
        return np.array([0.0, math.sin(tilt), math.cos(tilt)])

    @property
    def table_step_mm(self) -> float:
        """Distance between slice origins: the table's feed."""
        return self.slice_distance_mm / math.cos(math.radians(self.tilt_deg))

    @property
    def voxel_volume_mm3(self) -> float:
        """True voxel volume."""
        return self.pixel_mm**2 * self.slice_distance_mm

    @property
    def true_affine(self) -> Affine:
        """Index to RAS mm where the voxels truly are: sheared when tilted."""
        return self._affine(np.array([0.0, 0.0, self.table_step_mm]))

    @property
    def label_affine(self) -> Affine:
        """Index to RAS mm as ITK's readers report it: right-angled, same origin."""
        affine = self.true_affine
        affine[:3, 2] = self.normal * self.table_step_mm
        return affine

    def _affine(self, slice_step: NDArray[np.float64]) -> Affine:
        middle = (self.matrix - 1) / 2
        affine = np.eye(4)
        affine[:3, :3] = np.column_stack(
            [[-self.pixel_mm, 0.0, 0.0], self.column_step * self.pixel_mm, slice_step]
        )
        affine[:3, 3] = np.array(self.centre_mm) - affine[:3, :3] @ np.array(
            [middle, middle, (self.slices - 1) / 2]
        )
        return affine


@dataclass(frozen=True)
class Pose:
    """Where the head lies: its centre in patient RAS mm, and rotations about S and A, degrees."""

    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    yaw_deg: float = 0.0
    roll_deg: float = 0.0

    @property
    def rotation(self) -> NDArray[np.float64]:
        """Patient to head axes, 3 x 3."""
        yaw, roll = math.radians(self.yaw_deg), math.radians(self.roll_deg)
        about_s = np.array(
            [
                [math.cos(yaw), math.sin(yaw), 0.0],
                [-math.sin(yaw), math.cos(yaw), 0.0],
                [0.0, 0.0, 1.0],
            ]
        )
        about_a = np.array(
            [
                [math.cos(roll), 0.0, -math.sin(roll)],
                [0.0, 1.0, 0.0],
                [math.sin(roll), 0.0, math.cos(roll)],
            ]
        )
        return np.asarray(about_a @ about_s)


@dataclass(frozen=True)
class DrawnScan:
    """One scan in memory, [i, j, k] on the grid that ITK gives the series.

    `image` in HU (int16), `label` 0 and 1 (int16).
    """

    image: Volume
    label: Volume
    true_affine: Affine
    truth_ml: float
    voxel_volume_mm3: float
    tilt_deg: float


def draw_head(
    seed: int = 0,
    *,
    gantry: Gantry | None = None,
    volumes_ml: tuple[float, ...] = (20.0, 3.0),
    ventricular: bool = False,
) -> DrawnScan:
    """Scan one head, which depends on `seed`, `volumes_ml` and `ventricular`, not on the gantry."""
    gantry = gantry or Gantry()
    rng = np.random.default_rng([seed, 1])
    head = with_hemorrhages(draw_anatomy(rng), list(volumes_ml), rng, ventricular=ventricular)
    image, label = scan_head(
        head, gantry, np.random.default_rng([seed, 2]), pose=Pose(gantry.centre_mm)
    )
    return DrawnScan(
        image=Volume(image, gantry.label_affine),
        label=Volume(label, gantry.label_affine),
        true_affine=gantry.true_affine,
        truth_ml=sum(head.truth_ml()),
        voxel_volume_mm3=gantry.voxel_volume_mm3,
        tilt_deg=gantry.tilt_deg,
    )


def scan_head(
    head: Head, gantry: Gantry, rng: np.random.Generator, *, pose: Pose
) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """HU and label of a scan, int16 [i, j, k] each, stored slice by slice (k slowest).

    A voxel is labelled where its centre lies in blood: the voxel count is then an unbiased estimate
    of the volume (Cavalieri).
    """
    size = gantry.matrix
    hu = np.empty((gantry.slices, size, size), dtype=np.int16)
    label = np.zeros((gantry.slices, size, size), dtype=np.int16)
    rotation, affine = pose.rotation, gantry.true_affine
    for k in range(gantry.slices):
        folds, texture = (
            _texture(waves, _Plane.of(rotation, pose, affine, k, 0.0, gantry))
            for waves in (head.folds, head.texture)
        )
        planes = [
            _Plane.of(rotation, pose, affine, k, offset * gantry.slice_distance_mm, gantry)
            for offset in _THROUGH_SLICE
        ]
        mean = np.mean(
            [_tissue(head, plane, folds, texture) for plane in planes], axis=0, dtype=np.float32
        )
        mean += _noise(rng, size, gantry.noise_hu)
        hu[k] = np.rint(np.clip(mean, -1024, 3071))
        _mark_blood(head, _Plane.of(rotation, pose, affine, k, 0.0, gantry), label[k])
    return hu.transpose(2, 1, 0), label.transpose(2, 1, 0)


@dataclass(frozen=True)
class _Plane:
    """One plane of samples, in head mm.

    Point [row, column] = origin + column * along_i + row * along_j.
    """

    origin: NDArray[np.float64]
    along_i: NDArray[np.float64]
    along_j: NDArray[np.float64]
    normal: NDArray[np.float64]
    size: int
    pixel_mm: float

    @classmethod
    def of(
        cls, rotation: Array, pose: Pose, affine: Affine, k: int, offset_mm: float, gantry: Gantry
    ) -> "_Plane":
        origin = (
            affine[:3, 3] + k * affine[:3, 2] + offset_mm * gantry.normal - np.array(pose.centre_mm)
        )
        across, down, normal = (
            rotation @ affine[:3, 0],
            rotation @ affine[:3, 1],
            rotation @ gantry.normal,
        )
        return cls(rotation @ origin, across, down, normal, gantry.matrix, gantry.pixel_mm)

    def points(self, rows: slice, columns: slice) -> list[Array]:
        """x, y, z of the samples, float32 [row, column]."""
        i, j = np.arange(self.size)[columns][None, :], np.arange(self.size)[rows][:, None]
        return [
            (start + i * along).astype(np.float32) + (j * down).astype(np.float32)
            for start, along, down in zip(self.origin, self.along_i, self.along_j, strict=True)
        ]

    def height(self, points: Array) -> Array:
        """Distance of points [n, 3] from the plane, mm."""
        return np.asarray(np.abs((points - self.origin) @ self.normal))

    def window(
        self, centre: tuple[float, float, float], reach_mm: float
    ) -> tuple[slice, slice] | None:
        """Rows and columns that a ball can touch; None where it misses the plane."""
        delta = np.array(centre) - self.origin
        column, row = (
            float(delta @ self.along_i) / self.pixel_mm**2,
            float(delta @ self.along_j) / self.pixel_mm**2,
        )
        height = abs(float(delta @ self.normal))
        if height >= reach_mm:
            return None
        half = math.sqrt(reach_mm**2 - height**2) / self.pixel_mm + 1
        spans = [
            slice(max(0, math.floor(at - half)), min(self.size, math.ceil(at + half) + 1))
            for at in (row, column)
        ]
        return (spans[0], spans[1]) if all(span.start < span.stop for span in spans) else None


def _tissue(head: Head, plane: _Plane, folds: Array, texture: Array) -> Array:
    """Noise-free HU of one plane, float32 [row, column]: painted from the outside in."""
    everything = slice(None)
    x, y, z = plane.points(everything, everything)
    edge = max(1.0, plane.pixel_mm)
    skull = head.skull_distance(x, y, z)
    base = head.base_distance(y, z)
    brain = np.maximum(skull, base)
    outside = skull - np.float32(head.skull_mm + head.scalp_mm)
    hu = np.full_like(skull, _AIR_HU)
    _paint(hu, 40.0, outside, edge)
    _paint(hu, -85.0 + 10.0 * texture, outside + 2.5, edge)
    _paint(hu, 50.0 + 5.0 * texture, np.maximum(outside + 5.0, z - 12.0 - 10.0 * folds), edge)
    _paint(hu, 1050.0 + 120.0 * texture, np.maximum(brain - head.skull_mm, outside + 4.0), edge)
    _paint(
        hu,
        480.0 + 90.0 * texture,
        np.abs(skull - head.skull_mm / 2) - 0.22 * head.skull_mm + np.maximum(base, 0.0),
        edge,
    )
    _paint(hu, 7.0, brain, edge)
    hardening = 9.0 * np.exp(np.minimum(brain, 0.0) / 5.0)
    cortex = brain + 1.5 + 2.2 * np.maximum(folds, 0.0)
    _paint(hu, head.gray_hu + 1.2 * texture + hardening, cortex, edge)
    _paint(hu, head.white_hu + 1.2 * texture + hardening, brain + 7.0 + 3.0 * folds, 2.0)
    _paint_inside(head, plane, hu, (x, y, z), edge)
    _paint(hu, 46.0, np.maximum(np.maximum(np.abs(x) - 0.8, brain + 1.0), 12.0 - z), edge)
    for n in np.flatnonzero(plane.height(head.spot_balls[:, :3]) < head.spot_balls[:, 3] + edge):
        _paint_shape(hu, plane, head.spots[n].shape, head.spots[n].hu, edge)
    _paint_blood(head, plane, hu, texture, edge)
    return hu


def _paint_inside(
    head: Head, plane: _Plane, hu: Array, points: tuple[Array, Array, Array], edge: float
) -> None:
    for nucleus in head.nuclei:
        _paint_shape(hu, plane, nucleus, head.gray_hu, 2.0)
    for ventricle in head.ventricles:
        for part in ventricle:
            _paint_shape(hu, plane, part, 6.0, edge)


def _paint_blood(head: Head, plane: _Plane, hu: Array, texture: Array, edge: float) -> None:
    for shape in head.hemorrhages:
        window = plane.window(shape.centre, shape.reach_mm + _EDEMA_MM)
        if window is None:
            continue
        distance = shape.distance(*plane.points(*window))
        part = hu[window]
        dense = part > 100.0  # edema darkens brain, never bone or calcification
        part -= np.where(
            dense, 0.0, 7.0 * np.clip(1.0 - np.maximum(distance, 0.0) / _EDEMA_MM, 0.0, 1.0)
        ).astype(np.float32)
        _paint(part, shape.hu + 2.5 * texture[window], distance, max(_BLOOD_EDGE_MM, edge))


def _paint_shape(hu: Array, plane: _Plane, shape: Ellipsoid, value: float, edge: float) -> None:
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


def _mark_blood(head: Head, plane: _Plane, label: Array) -> None:
    for shape in head.hemorrhages:
        window = plane.window(shape.centre, shape.reach_mm)
        if window is not None:
            label[window][shape.distance(*plane.points(*window)) < 0.0] = 1


def _texture(waves: Waves, plane: _Plane) -> Array:
    """The sum of cosines on a plane, unit variance.

    Separable in row and column, so it is one matrix product.
    """
    index = np.arange(plane.size)[:, None]
    across = index * (waves.vectors @ plane.along_i)
    down = index * (waves.vectors @ plane.along_j) + (waves.vectors @ plane.origin + waves.phases)
    left = np.hstack([np.cos(down), -np.sin(down)]).astype(np.float32)
    right = np.hstack([np.cos(across), np.sin(across)]).astype(np.float32)
    return np.asarray(left @ right.T * np.float32(math.sqrt(2.0 / len(waves.phases))))


def _noise(rng: np.random.Generator, size: int, std_hu: float) -> Array:
    """Draw Gaussian noise as a reconstruction filter correlates it, float32 [row, column]."""
    white = rng.standard_normal((size + 1, size + 1), dtype=np.float32)
    return (white[1:, 1:] + 0.5 * (white[:-1, 1:] + white[1:, :-1])) * np.float32(
        std_hu / math.sqrt(1.5)
    )
