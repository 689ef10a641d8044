"""One network of an ensemble: from a scan on canonical axes to probabilities on the same axes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core import console
from hemseg_cli.core.devices import precision_for
from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.head_mask import HeadMask
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.preprocess import NetworkGrid, Preprocess, network_grid
from hemseg_cli.inference.settings import Settings, chosen_settings
from hemseg_cli.inference.sliding_window import (
    ForwardOptions,
    Size,
    WindowBox,
    regular_windows,
    run_windows,
)
from hemseg_cli.inference.subgrid import Probability, prepare_subgrid, restore_subgrid
from hemseg_cli.inference.window_memory import most_voxels
from hemseg_cli.inference.windows import WindowRule, covered, plan_windows, shifted, whole_grid
from hemseg_cli.models.archive import read_model
from hemseg_cli.models.checkpoint import network_of
from hemseg_cli.models.registry import ModelEntry, require_model

_LEAST_OF_PATCH = 16


class ScanNetwork(Protocol):
    """A network of an ensemble, of whatever family."""

    @property
    def name(self) -> str:
        """The name of the model."""

    @property
    def settings(self) -> Settings:
        """How it predicts: the user's settings over those of its run."""

    def infer(
        self, volume: Volume, head: HeadMask, config: PredictConfig, device: torch.device
    ) -> Probability:
        """Probabilities of one scan in HU."""


@dataclass
class EnsembleNetwork:
    """A network with everything that it needs. `air`: what it is padded with, per channel.

    `rule` asks for smaller windows once the device has run out of memory.
    """

    name: str
    network: torch.nn.Module
    preprocess: Preprocess
    rule: WindowRule
    settings: Settings
    air: tuple[float, ...]

    def infer(
        self, volume: Volume, head: HeadMask, config: PredictConfig, device: torch.device
    ) -> Probability:
        """Probabilities of one scan in HU; 0 where no window lies.

        CaseError if the device has no memory for the smallest windows.
        """
        canonical, grid = network_grid(volume, self.preprocess)
        while True:
            windows = self.windows(head, grid, config)
            part = covered(windows, grid.shape) if config.crop else whole_grid(grid)
            image = torch.from_numpy(prepare_subgrid(canonical, grid, self.preprocess, part))
            try:
                probability = self._run(
                    image, [shifted(window, part) for window in windows], config, device
                )
            except torch.OutOfMemoryError:
                self._ask_for_less(windows, device, config)
                continue
            return restore_subgrid(probability.cpu().numpy(), grid, part)

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
            self.settings.tta,
            precision_for(config.precision, device),
            device.type == "cuda",
        )
        return run_windows(
            self.network,
            image,
            windows,
            options=options,
            weighting=self.settings.weighting,
            pad_value=self.air,
        )

    def _ask_for_less(
        self, windows: list[WindowBox], device: torch.device, config: PredictConfig
    ) -> None:
        """Halve the windows from here on.

        CaseError where they cannot be, or would be tiny beside what the network learnt on.
        """
        largest = max(math.prod(window.size) for window in windows)
        if (
            not (self.rule.resizable and config.crop)
            or largest < math.prod(self.rule.patch) / _LEAST_OF_PATCH
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
        if config.crop:
            return plan_windows(head, grid, rule, margin_mm=config.crop_margin_mm)
        return list(regular_windows(grid.shape, rule.patch, rule.overlap))


def load_network(
    path: Path, config: PredictConfig, device: torch.device, memory_mb: int | None
) -> ScanNetwork:
    """Load the network of a checkpoint file or model archive, as the family of its model does.

    HemsegError or FileFormatError naming the file if it cannot be used.
    """
    checkpoint = read_model(path)
    family = require_model(str(checkpoint["model_name"])).family
    network: ScanNetwork = family.load(checkpoint, config, device, memory_mb)
    return network


def load_own_network(
    checkpoint: Mapping[str, Any],
    config: PredictConfig,
    device: torch.device,
    memory_mb: int | None,
) -> EnsembleNetwork:
    """Load one of our networks for prediction (`Family.load`)."""
    i, j, k = (int(size) for size in checkpoint["patch"])
    return ensemble_network(
        network_of(checkpoint),
        require_model(str(checkpoint["model_name"])),
        checkpoint["model_config"],
        Preprocess.from_dict(checkpoint["preprocess"]),
        (i, j, k),
        chosen_settings(config, checkpoint.get("predict")),
        config,
        device,
        memory_mb,
        padding=str(checkpoint.get("padding", "air")),
    )


def ensemble_network(
    network: torch.nn.Module,
    kind: ModelEntry,
    model_config: Mapping[str, Any],
    preprocess: Preprocess,
    patch: Size,
    settings: Settings,
    config: PredictConfig,
    device: torch.device,
    memory_mb: int | None,
    *,
    padding: str = "air",
) -> EnsembleNetwork:
    """A network at hand as a member. `padding`: air, or zero as the published baselines pad."""
    network = network.to(device).eval()
    multiple = kind.patch_multiple(model_config)
    channels = len(preprocess.windows)
    resizable = kind.convolutional and not kind.fixed_patch and config.window == "largest"
    most = math.prod(patch)
    if resizable:
        i, j, _ = (size * math.ceil(32 / size) if size < 32 else size for size in multiple)
        most = most_voxels(network, channels, (i * 2, j, patch[2]), device, memory_mb)
    rule = WindowRule(patch, multiple, resizable, most, settings.overlap)
    return EnsembleNetwork(
        kind.name,
        network,
        preprocess,
        rule,
        settings,
        preprocess.air() if padding == "air" else (0.0,) * channels,
    )
