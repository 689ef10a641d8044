"""Rotate, scale and bend patches in the plane, by one map of pixels for all slices and channels.

Slices of 5 mm are neither rotated nor scaled into one another (as nnU-Net does for anisotropic
data).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from hemseg_cli.config.schema import AugmentConfig

_STEEPEST = 0.2  # displacement per distance of control points: more would fold the plane


@dataclass(frozen=True)
class PlaneMap:
    """Where each pixel of a patch comes from.

    `rows` and `columns`, float32 [i, j], in voxels of the scan.
    """

    rows: Tensor
    columns: Tensor

    def box(self, shape: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """First row and column that are needed, and their numbers.

        Within the scan and one voxel around it.
        """
        firsts, lengths = [], []
        for places, n in zip((self.rows, self.columns), shape, strict=False):
            low, high = (float(value) for value in places.aminmax())
            first = int(np.clip(np.floor(low), -1, n - 1))
            last = int(np.clip(np.floor(high) + 1, first + 1, max(n, first + 1)))
            firsts.append(first)
            lengths.append(last - first + 1)
        return (firsts[0], firsts[1]), (lengths[0], lengths[1])


@dataclass(frozen=True)
class PlaneTransform:
    """A rotation, a scale (above 1 enlarges) and displacements of control points, or None.

    `displacements`: [2, n, n], in voxels.
    """

    rotation_rad: float = 0.0
    scale: float = 1.0
    displacements: NDArray[np.float32] | None = None


def draw_plane_transform(
    settings: "AugmentConfig", patch: Sequence[int], random: np.random.Generator
) -> PlaneTransform | None:
    """Draw the transform of a patch in the plane; None where nothing is transformed."""
    rotated, scaled, bent = random.random(3) < (
        settings.rotation_p,
        settings.scale_p,
        settings.elastic_p,
    )
    angle, factor, strength = (
        random.uniform(-1, 1),
        random.uniform(*np.log(settings.scale)),
        random.uniform(),
    )
    if not (rotated or scaled or bent):
        return None
    displacements = None
    if bent:
        points = settings.elastic_grid
        steepest = _STEEPEST * min(patch[:2]) / (points - 1)
        displacements = random.standard_normal((2, points, points), dtype=np.float32)
        displacements *= np.float32(min(settings.elastic_voxels * strength, steepest))
    return PlaneTransform(
        float(np.deg2rad(settings.rotation_deg) * angle) if rotated else 0.0,
        float(np.exp(factor)) if scaled else 1.0,
        displacements,
    )


def plane_map(
    transform: PlaneTransform,
    start: Sequence[int],
    size: Sequence[int],
    *,
    mirror: Sequence[bool],
    spacing_mm: Sequence[float],
) -> PlaneMap:
    """The map of a patch [i, j] that begins at `start`, about its centre.

    Angles hold in mm, mirroring is part of it.
    """
    (i, j), (si, sj) = (int(size[0]), int(size[1])), (float(spacing_mm[0]), float(spacing_mm[1]))
    rows = torch.arange(i, dtype=torch.float32) - (i - 1) / 2
    columns = torch.arange(j, dtype=torch.float32) - (j - 1) / 2
    rows, columns = (
        (-rows if mirror[0] else rows)[:, None],
        (-columns if mirror[1] else columns)[None],
    )
    cos, sin = (
        np.cos(transform.rotation_rad) / transform.scale,
        np.sin(transform.rotation_rad) / transform.scale,
    )
    from_rows = rows * cos - columns * (sin * sj / si) + (start[0] + (i - 1) / 2)
    from_columns = rows * (sin * si / sj) + columns * cos + (start[1] + (j - 1) / 2)
    if transform.displacements is not None:
        bend = functional.interpolate(
            torch.from_numpy(transform.displacements)[None],
            (i, j),
            mode="bicubic",
            align_corners=True,
        )[0]
        from_rows, from_columns = from_rows + bend[0], from_columns + bend[1]
    return PlaneMap(from_rows, from_columns)


@dataclass(frozen=True)
class Interpolation:
    """Bilinear interpolation of one patch.

    Four neighbours per pixel as flat indices int32 [i * j, 4], and their weights.
    """

    neighbours: Tensor
    weights: Tensor
    size: tuple[int, int]

    @classmethod
    def within(
        cls, places: PlaneMap, first: tuple[int, int], length: tuple[int, int]
    ) -> "Interpolation":
        """From the box of `PlaneMap.box`; beyond its edge the edge is repeated."""
        rows = (places.rows - first[0]).clamp_(0, length[0] - 1)
        columns = (places.columns - first[1]).clamp_(0, length[1] - 1)
        top, left = (
            rows.floor().clamp_(max=length[0] - 2),
            columns.floor().clamp_(max=length[1] - 2),
        )
        rows, columns = rows.sub_(top), columns.sub_(left)
        corner = top.mul_(length[1]).add_(left).to(torch.int32)
        neighbours = torch.stack(
            (corner, corner + 1, corner + length[1], corner + length[1] + 1), -1
        ).reshape(-1, 4)
        both = rows * columns
        weights = torch.stack(
            (1 - rows - columns + both, columns - both, rows - both, both), -1
        ).reshape(-1, 4)
        return cls(neighbours, weights, (int(places.rows.shape[0]), int(places.rows.shape[1])))

    def __call__(self, region: NDArray[np.float32]) -> Tensor:
        """[c, rows, columns, k] -> float32 [c, i, j, k]."""
        channels, rows, columns, slices = region.shape
        result = torch.empty((channels, *self.size, slices))
        for source, target in zip(region, result, strict=True):
            # A weighted sum of four rows of k numbers per pixel: torch has a fast kernel for it,
            # under the name that text models gave it.
            table = torch.from_numpy(source).reshape(rows * columns, slices)
            target.view(-1, slices)[:] = functional.embedding_bag(
                self.neighbours, table, per_sample_weights=self.weights, mode="sum"
            )
        return result
