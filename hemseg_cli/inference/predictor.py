"""From a scan in HU to the probability of hemorrhage on the scan's own grid: one network, or the mean of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.config.predict import PredictConfig
from hemseg_cli.errors import HemsegError, UsageError
from hemseg_cli.imaging.preprocess import Preprocess, prepare_image, restore_probability
from hemseg_cli.imaging.volume import Volume
from hemseg_cli.inference.settings import Settings, chosen_settings, joint_settings
from hemseg_cli.inference.sliding_window import sliding_window
from hemseg_cli.models.checkpoint import network_of, read_checkpoint
from hemseg_cli.models.registry import entry


@dataclass(frozen=True)
class Member:
    """One network of an ensemble with everything that it needs; `multiple`: what window sizes must be multiples of."""

    name: str
    network: torch.nn.Module
    preprocess: Preprocess
    patch: tuple[int, int, int]
    multiple: tuple[int, int, int]
    convolutional: bool
    settings: Settings


@dataclass(frozen=True)
class Predictor:
    """Networks loaded once, for any number of scans."""

    members: tuple[Member, ...]
    config: PredictConfig
    device: torch.device

    @classmethod
    def load(cls, checkpoints: Sequence[Path], config: PredictConfig, *, device: str = "auto") -> "Predictor":
        """The networks of these checkpoint files; HemsegError or FileFormatError naming a file that cannot be used."""
        target = torch_device(device)
        return cls(tuple(_member(path, config, target) for path in checkpoints), config, target)

    @classmethod
    def from_network(
        cls,
        network: torch.nn.Module,
        preprocess: Preprocess,
        patch: Sequence[int],
        *,
        model_name: str,
        model_config: Mapping[str, Any],
        config: PredictConfig | None = None,
        device: str = "auto",
    ) -> "Predictor":
        """A network that is at hand, e.g. in training."""
        config, target = config or PredictConfig(), torch_device(device)
        i, j, k = (int(n) for n in patch)
        kind = entry(model_name)
        member = Member(
            model_name,
            network.to(target).eval(),
            preprocess,
            (i, j, k),
            kind.patch_multiple(model_config),
            kind.convolutional,
            chosen_settings(config, None),
        )
        return cls((member,), config, target)

    @property
    def settings(self) -> Settings:
        """Threshold and smallest component for the mask."""
        return joint_settings([member.settings for member in self.members])

    def probability(self, volume: Volume) -> NDArray[np.float32]:
        """The mean of the members' probabilities, float32 [i, j, k] on the volume's own grid."""
        total: NDArray[np.float32] | None = None
        for member in self.members:
            own = self._probability(member, volume)
            total = own if total is None else np.add(total, own, out=total)
        assert total is not None
        return total / np.float32(len(self.members)) if len(self.members) > 1 else total

    def _probability(self, member: Member, volume: Volume) -> NDArray[np.float32]:
        image, grid = prepare_image(volume, member.preprocess)
        probability = sliding_window(
            member.network,
            torch.from_numpy(image),
            patch=member.patch,
            overlap=member.settings.overlap,
            weighting=member.settings.weighting,
            device=self.device,
            batch=self.config.batch,
            tta=member.settings.tta,
            pad_value=float(image.min()),
        )
        return restore_probability(probability.numpy(), grid)


def torch_device(name: str) -> torch.device:
    """`auto`: cuda, else mps, else cpu. UsageError if the device is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}.get(device.type, True)
    if not there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"compute.device = {name}: there is no such device here", hint="hemseg doctor   shows the devices; --device cpu")
    return device


def _member(path: Path, config: PredictConfig, device: torch.device) -> Member:
    checkpoint = read_checkpoint(path)
    name = str(checkpoint["model_name"])
    kind = entry(name)
    if not kind.factory:
        raise HemsegError(f"{path}: {name} is predicted by its own package", hint="hemseg predict --run RUN   of another model")
    i, j, k = (int(n) for n in checkpoint["patch"])
    return Member(
        name,
        network_of(checkpoint).to(device),
        Preprocess.from_dict(checkpoint["preprocess"]),
        (i, j, k),
        kind.patch_multiple(checkpoint["model_config"]),
        kind.convolutional,
        chosen_settings(config, checkpoint.get("predict")),
    )
