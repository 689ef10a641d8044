"""Predict one scan with one network of an ensemble.

A scan in HU on canonical axes becomes probabilities on the same axes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core import console
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.devices import precision_for
from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.head_mask import HeadMask
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import UNCHANGED
from hemseg_cli.imaging.preprocess import NetworkGrid, Preprocess, grid_of, network_affine
from hemseg_cli.inference.calibration import NOT_CALIBRATED, Calibration, calibration_of
from hemseg_cli.inference.settings import Settings, chosen_settings
from hemseg_cli.inference.sliding_window import (
    ForwardOptions,
    NonFiniteError,
    WindowBox,
    regular_windows,
    run_windows,
)
from hemseg_cli.inference.subgrid import Probability, prepare_subgrid, restore_subgrid
from hemseg_cli.inference.window_memory import most_voxels
from hemseg_cli.inference.windows import WindowRule, covered, plan_windows, shifted, whole_grid
from hemseg_cli.models.activation import Activation
from hemseg_cli.models.archive import read_models
from hemseg_cli.models.checkpoint import network_of
from hemseg_cli.models.checkpoint_settings import classes_of, mirrored_of
from hemseg_cli.models.registry import require_model

# A window may shrink to this part of the training patch before the device counts as too small.
_SMALLEST_PATCH_SHARE = 1 / 16
# Width of the window on which a network's memory is measured, voxels.
_MEASURED_SIZE = 32


@dataclass(frozen=True)
class NetworkOutput:
    """What one network finds in a scan.

    `probability`: on the scan's canonical grid. `own_grid`: the same as the network gave it, on its
    own grid, where the run is scored there (the published protocol); else None.
    """

    probability: Probability
    own_grid: Volume | None = None


class ScanNetwork(Protocol):
    """A trained network of any family, ready to predict."""

    @property
    def name(self) -> str:
        """The model's name in the registry."""

    @property
    def settings(self) -> Settings:
        """How it predicts."""

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """The classes that it tells apart, one channel each."""

    @property
    def calibration(self) -> Calibration:
        """How its volumes lay from the truth on its val split."""

    def infer(
        self, canonical: Volume, head: HeadMask, config: PredictConfig, device: torch.device
    ) -> NetworkOutput:
        """Return the probability of hemorrhage in a scan in HU on canonical axes."""


@dataclass
class EnsembleNetwork:
    """A network of ours with everything that it needs.

    `rule` asks for smaller windows once the device has run out of memory. `padding`: what the scan
    is padded with, per channel. `mirrored`: the axes along which its training mirrored patches;
    test-time augmentation flips no others, which the network has never seen.
    """

    name: str
    network: torch.nn.Module
    preprocess: Preprocess
    rule: WindowRule
    settings: Settings
    padding: tuple[float, ...]
    classes: tuple[LabelClass, ...] = HEMORRHAGE_ONLY
    mirrored: tuple[int, ...] = (0, 1, 2)
    calibration: Calibration = NOT_CALIBRATED
    activation: Activation = "sigmoid"

    def infer(
        self, canonical: Volume, head: HeadMask, config: PredictConfig, device: torch.device
    ) -> NetworkOutput:
        """Return the probabilities of one scan in HU on canonical axes; 0 where no window lies.

        CaseError if the device has no memory for the smallest windows, or if the network's output
        is not finite.
        """
        i, j, k = canonical.array.shape
        grid = grid_of(canonical, self.preprocess, UNCHANGED, (i, j, k))

        while True:
            windows = self.windows(head, grid, config)
            part = covered(windows, grid.shape) if self.settings.crop else whole_grid(grid)
            image = torch.from_numpy(prepare_subgrid(canonical, grid, self.preprocess, part))
            shifted_windows = [shifted(window, part) for window in windows]

            try:
                values = self._run(image, shifted_windows, config, device).cpu().numpy()
            except torch.OutOfMemoryError:
                self._ask_for_less(windows, device, config)
                continue

            return NetworkOutput(
                restore_subgrid(values, grid, part),
                self._on_own_grid(values, canonical, grid) if part == whole_grid(grid) else None,
            )

    def _on_own_grid(
        self, values: NDArray[np.float32], canonical: Volume, grid: NetworkGrid
    ) -> Volume | None:
        """The output before it is resampled, where the published protocol scores it."""
        if self.preprocess.alignment != "monai":
            return None
        return Volume(values, network_affine(canonical.affine, grid))

    def _run(
        self,
        image: torch.Tensor,
        windows: list[WindowBox],
        config: PredictConfig,
        device: torch.device,
    ) -> torch.Tensor:
        options = ForwardOptions(
            device,
            config.batch,
            self.mirrored if self.settings.tta else (),
            precision_for(self.settings.precision, device),
            channels_last=device.type == "cuda",
            require_finite=True,
            activation=self.activation,
        )
        try:
            return run_windows(
                self.network,
                image,
                windows,
                options=options,
                weighting=self.settings.weighting,
                pad_value=self.padding,
            )
        except NonFiniteError as error:
            raise CaseError(
                f"{self.name}: {error}",
                hint="is the checkpoint whole? --set predict.precision=float32 rules out overflow",
            ) from None

    def _ask_for_less(
        self, windows: list[WindowBox], device: torch.device, config: PredictConfig
    ) -> None:
        """Halve the windows from here on.

        CaseError where they cannot be, or would be tiny beside what the network learnt on.
        """
        largest = max(math.prod(window.size) for window in windows)
        if (
            not (self.rule.resizable and self.settings.crop)
            or largest < math.prod(self.rule.patch) * _SMALLEST_PATCH_SHARE
        ):
            raise CaseError(
                f"{device} has no memory left for a window of {largest} voxels of {self.name}",
                hint="--set predict.batch=1, or --device cpu",
            )
        self.rule = replace(self.rule, most_voxels=largest // 2)
        console.log.warning(
            "%s: %s is out of memory; windows of at most %d voxels from here on",
            self.name,
            device,
            largest // 2,
        )
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def windows(self, head: HeadMask, grid: NetworkGrid, config: PredictConfig) -> list[WindowBox]:
        """The windows that are computed, on the network's grid."""
        rule = self.rule
        if self.settings.crop:
            return plan_windows(head, grid, rule, margin_mm=config.crop_margin_mm)
        return list(regular_windows(grid.shape, rule.patch, rule.overlap))


def load_networks(
    path: Path, config: PredictConfig, device: torch.device, memory_mb: int | None
) -> list[ScanNetwork]:
    """Load the networks of a checkpoint file or model archive, as the family of each model does.

    HemsegError or FileFormatError naming the file if it cannot be used.
    """
    return [
        require_model(str(checkpoint["model_name"])).family.load(
            checkpoint, config, device, memory_mb
        )
        for checkpoint in read_models(path)
    ]


def load_own_network(
    checkpoint: Mapping[str, Any],
    config: PredictConfig,
    device: torch.device,
    memory_mb: int | None,
) -> EnsembleNetwork:
    """Load one of our networks for prediction (`Family.load`)."""
    kind = require_model(str(checkpoint["model_name"]))
    settings = chosen_settings(config, checkpoint.get("predict"))
    i, j, k = (int(size) for size in checkpoint["patch"])

    network = network_of(checkpoint).to(device).eval()
    preprocess = Preprocess.from_dict(checkpoint["preprocess"])
    channels = len(preprocess.windows)

    # Windows may differ from the training patch only where a network computes each voxel alike.
    multiple = kind.patch_multiple(checkpoint["model_config"])
    resizable = kind.convolutional and not kind.fixed_patch and settings.window == "largest"
    most = i * j * k
    if resizable:
        small_i, small_j, _ = (
            size * math.ceil(_MEASURED_SIZE / size) if size < _MEASURED_SIZE else size
            for size in multiple
        )
        most = most_voxels(network, channels, (small_i * 2, small_j, k), device, memory_mb)

    # The published baselines pad the normalised scan with 0, ours with air.
    padding = preprocess.air()
    if checkpoint.get("padding", "air") != "air":
        padding = (0.0,) * channels

    mirrored = mirrored_of(checkpoint)
    if settings.tta and not mirrored:
        console.warn(
            f"{kind.name} was trained without mirrored patches: test-time augmentation has nothing "
            "to average, and is left out"
        )

    rule = WindowRule((i, j, k), multiple, resizable, most, settings.overlap)
    classes = classes_of(checkpoint)
    return EnsembleNetwork(
        kind.name,
        network,
        preprocess,
        rule,
        settings,
        padding,
        classes,
        mirrored,
        calibration_of(checkpoint, settings),
        checkpoint.get("activation", "sigmoid"),
    )
