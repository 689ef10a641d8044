"""How a phantom scan is taken: the gantry, where the head lies, and the planes of its slices.

A tilted gantry shears the stack: `true_affine` is where the voxels truly lie, `label_affine` what
ITK's readers and the published labels give. See `imaging.geometry`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.dataset.phantom.shapes import Array, Waves
from hemseg_cli.imaging.geometry import Affine


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
class Plane:
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
    ) -> "Plane":
        """Lay the plane `offset_mm` above the middle of slice `k`."""
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


def texture_on(waves: Waves, plane: Plane) -> Array:
    """The sum of cosines on a plane, unit variance.

    Separable in row and column, so it is one matrix product.
    """
    index = np.arange(plane.size)[:, None]
    across = index * (waves.vectors @ plane.along_i)
    down = index * (waves.vectors @ plane.along_j) + (waves.vectors @ plane.origin + waves.phases)
    left = np.hstack([np.cos(down), -np.sin(down)]).astype(np.float32)
    right = np.hstack([np.cos(across), np.sin(across)]).astype(np.float32)
    return np.asarray(left @ right.T * np.float32(math.sqrt(2.0 / len(waves.phases))))
