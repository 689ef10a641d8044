"""A run with a tiny network that marks bright voxels, and tiny scans for it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.config import Config
from hemseg_cli.config.schema import DataConfig, RunsConfig
from hemseg_cli.core.run_directory import RunDirectory, mark_latest
from hemseg_cli.imaging.geometry import Affine
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.preprocess import Preprocess, Spacing
from hemseg_cli.models.checkpoint import write_checkpoint
from hemseg_cli.models.registry import build_network

NETWORK = {
    "channels": [2, 4],
    "strides": [1],
    "num_res_units": 0,
    "kernel_size": 1,
    "up_kernel_size": 1,
    "norm": None,
    "act": None,
}
PATCH = [16, 16, 4]


def config_in(folder: Path, **sections: object) -> Config:
    """A configuration whose data and runs lie in the folder."""
    return Config(
        data=DataConfig(root=folder / "data"), runs=RunsConfig(root=folder / "runs"), **sections
    )  # type: ignore[arg-type]  # sections


def make_run(
    folder: Path, name: str = "run", *, spacing_mm: Spacing = (None, None, None), shift: float = 0.0
) -> Path:
    """`runs/<name>` with a network whose logit is 8 (x - 0.5 - shift).

    x: the HU window [0, 80] scaled to [-1, 1].
    """
    weights = {
        key: torch.zeros_like(value)
        for key, value in build_network("unet", NETWORK, 1).state_dict().items()
    }
    weights["model.0.conv.weight"][0] = 1.0
    weights["model.2.conv.weight"][0] = 8.0
    weights["model.2.conv.bias"][0] = -8.0 * (0.5 + shift)
    path = folder / "runs" / name / "checkpoints" / "best.pt"
    write_checkpoint(
        path,
        {
            "model": weights,
            "model_name": "unet",
            "model_config": NETWORK,
            "preprocess": Preprocess(spacing_mm).to_dict(),
            "patch": PATCH,
            "in_channels": 1,
            "step": 1,
            "epoch": 1,
            "predict": {"threshold": 0.5},
        },
    )
    if not (folder / "runs" / "latest").exists():
        mark_latest(RunDirectory(folder / "runs" / name))
    return path


def scan(
    shape: tuple[int, int, int] = (24, 20, 6), affine: Affine | None = None, seed: int = 0
) -> Volume:
    """Air with a block of tissue at 20 to 40 HU and a bright box (70 HU) in it; int16."""
    rng = np.random.default_rng(seed)
    array = np.full(shape, -1000, dtype=np.int16)
    inner = tuple(slice(n // 6, n - n // 6) if n > 3 else slice(None) for n in shape)
    array[inner] = rng.integers(20, 41, size=array[inner].shape)
    array[bright_box(shape)] = 70
    return Volume(array, np.diag([5.0, 5.0, 5.0, 1.0]) if affine is None else affine)


def bright_box(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Where `scan` is bright."""
    return tuple(
        slice(n // 2 - n // 8, n // 2 + max(1, n // 8)) if n > 3 else slice(None) for n in shape
    )


def truth(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask that the network of `make_run` finds in `scan`."""
    mask = np.zeros(shape, dtype=bool)
    mask[bright_box(shape)] = True
    return mask
