"""From a scan in HU to the probability of hemorrhage on the scan's own grid.

One network, or the mean of several.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import UsageError
from hemseg_cli.imaging.head_mask import HeadMask, find_head
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.inference.ensemble import EnsembleNetwork, ScanNetwork, load_network
from hemseg_cli.inference.settings import Settings, joint_settings
from hemseg_cli.inference.subgrid import Probability, combined


@dataclass(frozen=True)
class EnsembleOutput:
    """The mean of the members' probabilities, and their standard deviation where there are several."""

    probability: Probability
    deviation: Probability | None = None


@dataclass(frozen=True)
class Predictor:
    """Networks loaded once, for any number of scans."""

    networks: tuple[ScanNetwork, ...]
    config: PredictConfig
    device: torch.device

    @classmethod
    def load(
        cls,
        checkpoints: Sequence[Path],
        config: PredictConfig,
        *,
        device: str = "auto",
        memory_mb: int | None = None,
    ) -> "Predictor":
        """The networks of these checkpoint files.

        HemsegError or FileFormatError naming a file that cannot be used.
        """
        target = torch_device(device)
        return cls(
            tuple(load_network(path, config, target, memory_mb) for path in checkpoints),
            config,
            target,
        )

    @property
    def settings(self) -> Settings:
        """Threshold and smallest component for the mask."""
        return joint_settings([network.settings for network in self.networks])

    def infer(self, volume: Volume, head: HeadMask | None = None) -> EnsembleOutput:
        """What the networks say of one scan in HU; `head`: where it is found already."""
        found = head or find_head(to_canonical(volume)[0])
        return EnsembleOutput(
            *combined(
                [
                    network.infer(volume, found, self.config, self.device)
                    for network in self.networks
                ]
            )
        )

    def probability(self, volume: Volume) -> NDArray[np.float32]:
        """The mean of the members' probabilities, float32 [i, j, k] on the volume's own grid."""
        return self.infer(volume).probability.full()

    def notes(self) -> list[str]:
        """What there is to say of how the networks are run.

        Windows smaller than the training patch, for want of memory.
        """
        return [
            f"memory for {network.rule.most_voxels} voxels at once: {network.name} is computed in windows smaller than its training patch "
            f"{list(network.rule.patch)}"
            for network in self.networks
            if isinstance(network, EnsembleNetwork)
            and network.rule.most_voxels < np.prod(network.rule.patch)
        ]


def torch_device(name: str) -> torch.device:
    """`auto`: cuda, else mps, else cpu. UsageError if the device is not there."""
    if name == "auto":
        return torch.device(
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    device = torch.device(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(
        device.type, True
    )
    if not there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(
            f"compute.device = {name}: there is no such device here",
            hint="hemseg doctor   shows the devices; --device cpu",
        )
    return device
