"""Small folders of labelled scans, drawn for a test."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hemseg_cli.config import Config, load

SHAPE = (32, 32, 6)
SPACING_MM = (6.0, 6.0, 10.0)
VOXEL_ML = 6.0 * 6.0 * 10.0 / 1000


def affine(angle_deg: float = 0.0, *, axis: str = "x") -> NDArray[np.float64]:
    """L-P-S axes as in the published labels, turned about the axis from left to right, or up."""
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == "z":
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    result = np.eye(4)
    result[:3, :3] = turn @ np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2]])
    result[:3, 3] = (90.0, 90.0, -30.0)
    return result


def head(seed: int = 0) -> NDArray[np.int16]:
    """A ball of brain in a skull in air, in HU; every seed has other noise."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    radius = np.sqrt(i**2 + j**2 + (0.6 * k) ** 2)
    voxels = np.full(SHAPE, -1000.0)
    voxels[radius < 0.9] = 800.0
    voxels[radius < 0.8] = 34.0
    noise = np.random.default_rng(seed).normal(0, 4, SHAPE)
    return np.rint(voxels + noise).astype(np.int16)


def label(boxes: Mapping[int, int]) -> NDArray[np.uint8]:
    """A label with so many voxels of each value: boxes of one row each in the middle slices."""
    voxels = np.zeros(SHAPE, dtype=np.uint8)
    for number, (value, count) in enumerate(sorted(boxes.items())):
        assert count <= 12 * 4
        rows, rest = divmod(count, 12)
        for row in range(rows + 1):
            voxels[10 : 10 + (12 if row < rows else rest), 10 + number, 1 + row] = value
    return voxels


def write_nifti(
    path: Path,
    voxels: NDArray[Any],
    to_ras: NDArray[np.float64] | None = None,
    *,
    slope: float | None = None,
    unit: str = "mm",
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine() if to_ras is None else to_ras, dtype=voxels.dtype)
    image.header.set_xyzt_units(unit)
    if slope is not None:
        image.header.set_slope_inter(slope, 0)
    data = image.to_bytes()
    if slope is not None:  # nibabel resets it: put where the standard has it (bytes 112 to 119)
        data = data[:112] + np.array([slope, 0], dtype="<f4").tobytes() + data[120:]
    if path.name.lower().endswith(".gz"):
        data = gzip.compress(data, mtime=0)
    path.write_bytes(data)
    return path


def write_pair(
    image: Path, mask: Path, *, seed: int = 0, boxes: Mapping[int, int] | None = None
) -> None:
    write_nifti(image, head(seed))
    write_nifti(mask, label({1: 10 + seed} if boxes is None else boxes))


def pairs_folder(root: Path, count: int, *, names: Sequence[str] = ()) -> Path:
    for n in range(count):
        name = names[n] if names else f"scan{n:03d}"
        file = f"{name}.nii.gz"
        write_pair(root / "images" / file, root / "labels" / file, seed=n)
    return root


def write_json(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def config_for(root: Path) -> Config:
    options = {"data.root": str(root / "data"), "compute.workers": 0}
    return load(None, options=options, environ={})
