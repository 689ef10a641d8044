"""Predict with nnU-Net's own predictor from a checkpoint of ours.

Preprocessing, windows and resampling are nnU-Net's, from HU to probabilities on the scan's grid.

nnU-Net sees arrays as SimpleITK gives them, [k, j, i] on L-P-S axes; scans are brought to that
order whatever their own.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass
from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.head_mask import HeadMask
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import from_canonical, to_canonical
from hemseg_cli.inference.calibration import NOT_CALIBRATED, Calibration, calibration_of
from hemseg_cli.inference.ensemble import NetworkOutput
from hemseg_cli.inference.settings import Settings, chosen_settings
from hemseg_cli.inference.subgrid import Probability
from hemseg_cli.models.checkpoint import load_weights
from hemseg_cli.models.checkpoint_settings import classes_of
from hemseg_cli.models.nnunet_plans import read_settings


@dataclass(frozen=True)
class NnunetModel:
    """A trained nnU-Net, loaded once."""

    predictor: Any

    def probability(self, volume: Volume) -> NDArray[np.float32]:
        """Return the probability of each class on the volume's own grid, float32.

        [i, j, k] of one class, [classes, i, j, k] of several.
        """
        canonical, change = to_canonical(volume)
        x_mm, y_mm, z_mm = spacing_mm(canonical.affine)
        image = np.ascontiguousarray(
            canonical.array[::-1, ::-1].transpose(2, 1, 0), dtype=np.float32
        )
        with quiet_stdout():
            _, probabilities = self.predictor.predict_single_npy_array(
                image[None], {"spacing": [z_mm, y_mm, x_mm]}, save_or_return_probabilities=True
            )
        # nnU-Net's first channel is the background.
        classes = [
            np.ascontiguousarray(
                from_canonical(
                    np.asarray(one, dtype=np.float32).transpose(2, 1, 0)[::-1, ::-1], change
                )
            )
            for one in probabilities[1:]
        ]
        return classes[0] if len(classes) == 1 else np.stack(classes)


@dataclass(frozen=True)
class NnunetNetwork:
    """nnU-Net as one network of an ensemble: it prepares scans and slides windows by itself."""

    name: str
    model: NnunetModel
    settings: Settings
    classes: tuple[LabelClass, ...] = HEMORRHAGE_ONLY
    calibration: Calibration = NOT_CALIBRATED

    def infer(
        self, canonical: Volume, head: HeadMask, config: PredictConfig, device: torch.device
    ) -> NetworkOutput:
        """Return the probabilities of one scan in HU on canonical axes.

        The model was loaded with its settings and onto its device, and takes the scan whole.
        CaseError if its output is not finite.
        """
        del head, config, device
        values = self.model.probability(canonical)
        if not np.isfinite(values).all():
            raise CaseError(f"{self.name}: the network's output is not finite (NaN or infinite)")

        i, j, k = values.shape[-3:]
        return NetworkOutput(Probability(values, ((0, i), (0, j), (0, k)), (i, j, k)))


def load_nnunet_network(
    checkpoint: Mapping[str, Any],
    config: PredictConfig,
    device: torch.device,
    memory_mb: int | None,
) -> NnunetNetwork:
    """Load the nnU-Net of a checkpoint for prediction (`Family.load`).

    nnU-Net takes its own windows, whatever memory there is.
    """
    del memory_mb
    settings = chosen_settings(config, checkpoint.get("predict"))
    model = load_nnunet(checkpoint, settings, device)
    return NnunetNetwork(
        str(checkpoint["model_name"]),
        model,
        settings,
        classes_of(checkpoint),
        calibration_of(checkpoint, settings),
    )


def load_nnunet(
    checkpoint: Mapping[str, Any], settings: Settings, device: torch.device
) -> NnunetModel:
    """The nnU-Net of a checkpoint that `train --model nnunet` wrote.

    Overlap, weighting and test-time augmentation (TTA) are those of `settings`.

    Raises HemsegError where the extra is missing, FileFormatError where the plans are not nnU-Net's
    or the weights do not fit them.
    """
    model = read_settings(checkpoint["model_config"])
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    network = model.network()
    load_weights(network, checkpoint)

    with quiet_stdout():
        manager = PlansManager(model.plans)
        predictor = nnUNetPredictor(
            tile_step_size=1.0 - settings.overlap,
            use_gaussian=settings.weighting == "gaussian",
            use_mirroring=settings.tta,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
        predictor.manual_initialization(
            network.to(device).eval(),
            manager,
            manager.get_configuration(model.configuration),
            [checkpoint["model"]],
            model.dataset,
            "nnUNetTrainer",
            model.mirror_axes or None,
        )
    return NnunetModel(predictor)


@contextlib.contextmanager
def quiet_stdout(log: str = os.devnull) -> Iterator[None]:
    """Send what nnU-Net prints, also from its worker processes, to `log`.

    Stdout carries a command's result alone.
    """
    import sys

    sys.stdout.flush()
    kept = os.dup(1)
    with open(log, "ab", buffering=0) as target:
        os.dup2(target.fileno(), 1)
        try:
            with open(log, "a", encoding="utf-8") as text, contextlib.redirect_stdout(text):
                yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)
