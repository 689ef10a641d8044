"""Predict the probability of hemorrhage in a scan with one network, or the mean of several."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.classes import LabelClass
from hemseg_cli.core.errors import UsageError
from hemseg_cli.imaging.head_mask import HeadMask, find_head
from hemseg_cli.imaging.intracranial import find_intracranial
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import from_canonical, to_canonical
from hemseg_cli.imaging.uneven import UnevenSlices
from hemseg_cli.inference.calibration import Calibration, joint_calibration
from hemseg_cli.inference.ensemble import EnsembleNetwork, ScanNetwork, load_networks
from hemseg_cli.inference.settings import Settings, joint_settings
from hemseg_cli.inference.subgrid import Probability, mean_and_deviation


@dataclass(frozen=True)
class EnsembleOutput:
    """What the networks find in a scan, on its canonical grid.

    `probability`: the mean of theirs, `deviation` its standard deviation where there are several.
    `own_grid`: the mean on the networks' own grid, where all of them are scored there.
    `skull_seen`: False where it should be restricted to the intracranial space, which was not
    found.
    """

    probability: Probability
    deviation: Probability | None = None
    own_grid: Volume | None = None
    skull_seen: bool = True

    def on_own_slices(self, uneven: UnevenSlices) -> "EnsembleOutput":
        """Return what was found at even steps on the slices as they were acquired."""
        return replace(
            self,
            probability=self.probability.on_own_slices(uneven),
            deviation=None if self.deviation is None else self.deviation.on_own_slices(uneven),
        )


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
        """Load the networks of these checkpoint files.

        HemsegError or FileFormatError naming a file that cannot be used.
        """
        target = torch_device(device)
        networks = tuple(
            network
            for path in checkpoints
            for network in load_networks(path, config, target, memory_mb)
        )
        _refuse_other_classes(networks)
        return cls(networks, config, target)

    @property
    def settings(self) -> Settings:
        """How the networks predict together: threshold and smallest component of the mask."""
        return joint_settings([network.settings for network in self.networks])

    @property
    def classes(self) -> tuple[LabelClass, ...]:
        """The classes that all of the networks tell apart, one channel each."""
        return self.networks[0].classes

    @functools.cached_property
    def calibration(self) -> Calibration:
        """How the volumes of the networks together lay from the truth on their val splits."""
        return joint_calibration(
            [network.calibration for network in self.networks],
            [network.name for network in self.networks],
        )

    def infer(self, canonical: Volume, head: HeadMask | None = None) -> EnsembleOutput:
        """Return what the networks find in one scan in HU on canonical axes.

        `head`: where it was found already.
        """
        found = head or find_head(canonical)
        outputs = [
            network.infer(canonical, found, self.config, self.device) for network in self.networks
        ]
        mean, deviation = mean_and_deviation([output.probability for output in outputs])
        if not self.settings.intracranial:
            own_grid = _mean_on_own_grid([output.own_grid for output in outputs])
            return EnsembleOutput(mean, deviation, own_grid)

        # The output on the networks' own grid is not theirs any more: it is left out.
        space = find_intracranial(canonical)
        if space is None:
            return EnsembleOutput(mean, deviation, skull_seen=False)
        return EnsembleOutput(
            mean.within(space), None if deviation is None else deviation.within(space)
        )

    def probability(self, volume: Volume) -> NDArray[np.float32]:
        """Return the networks' mean probability, float32 [i, j, k] on the volume's own grid.

        Of several classes the highest one in each voxel.
        """
        canonical, change = to_canonical(volume)
        found = self.infer(canonical).probability.union()
        return np.asarray(from_canonical(found.full(), change))

    def notes(self) -> list[str]:
        """Name each network that runs in windows smaller than its training patch, for memory."""
        return [
            f"memory for {network.rule.most_voxels} voxels at once: {network.name} is computed "
            f"in windows smaller than its training patch {list(network.rule.patch)}"
            for network in self.networks
            if isinstance(network, EnsembleNetwork)
            and network.rule.most_voxels < np.prod(network.rule.patch)
        ]


def _refuse_other_classes(networks: Sequence[ScanNetwork]) -> None:
    """UsageError where the networks of an ensemble tell other classes apart."""
    for network in networks[1:]:
        ours, theirs = (
            [(each.value, each.key) for each in one.classes] for one in (networks[0], network)
        )
        if ours != theirs:
            shown = (", ".join(f"{key}={value}" for value, key in one) for one in (ours, theirs))
            raise UsageError(
                f"{networks[0].name} predicts {next(shown)}, {network.name} {next(shown)}: "
                "an ensemble needs one set of classes",
                hint="name runs that were trained on the same classes",
            )

    # A user's thresholds are one for each class.
    given = networks[0].settings.class_thresholds
    if given and len(given) != len(networks[0].classes):
        raise UsageError(
            f"predict.class_thresholds has {len(given)} numbers, {networks[0].name} predicts "
            f"{len(networks[0].classes)} classes",
            hint="one threshold for each class, in order of value",
        )


def _mean_on_own_grid(outputs: Sequence[Volume | None]) -> Volume | None:
    """The mean of several networks' outputs where all lie on one grid, else None."""
    volumes = [volume for volume in outputs if volume is not None]
    first = volumes[0] if volumes else None
    if first is None or len(volumes) < len(outputs):
        return None
    if any(volume.array.shape != first.array.shape for volume in volumes):
        return None

    mean = np.stack([volume.array for volume in volumes]).mean(axis=0, dtype=np.float32)
    return Volume(mean, first.affine)


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
