"""nnU-Net's own predictor on a checkpoint of ours.

Its preprocessing, windows and resampling, from HU to probabilities on the scan's grid.

nnU-Net sees arrays as SimpleITK gives them, [k, j, i] on L-P-S axes; scans are brought to that
order whatever their own.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import from_canonical, to_canonical
from hemseg_cli.inference.settings import Settings

INSTALL_HINT = "pip install 'hemseg[nnunet]'"
# A plan names Python objects that nnU-Net looks up; a checkpoint may come from anywhere, so only
# these places are looked in.
_NETWORKS = "dynamic_network_architectures.architectures."
_TORCH = "torch.nn."


@dataclass(frozen=True)
class NnunetModel:
    """A trained nnU-Net, loaded once."""

    predictor: Any

    def probability(self, volume: Volume) -> NDArray[np.float32]:
        """Probability of hemorrhage, float32 [i, j, k] on the volume's own grid."""
        canonical, change = to_canonical(volume)
        x_mm, y_mm, z_mm = spacing_mm(canonical.affine)
        image = np.ascontiguousarray(
            canonical.array[::-1, ::-1].transpose(2, 1, 0), dtype=np.float32
        )
        with quiet_stdout():
            _, probabilities = self.predictor.predict_single_npy_array(
                image[None], {"spacing": [z_mm, y_mm, x_mm]}, save_or_return_probabilities=True
            )
        restored = np.asarray(probabilities[1], dtype=np.float32).transpose(2, 1, 0)[::-1, ::-1]
        return np.ascontiguousarray(from_canonical(restored, change))


def load_nnunet(
    checkpoint: Mapping[str, Any], settings: Settings, device: torch.device
) -> NnunetModel:
    """The nnU-Net of a checkpoint that `train --model nnunet` wrote.

    Overlap, weighting and test-time augmentation are those of `settings`.

    Raises HemsegError where the extra is missing, FileFormatError where the plans are not nnU-Net's
    or the weights do not fit them.
    """
    require_nnunet()
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    try:
        model = checkpoint["model_config"]
        plans, dataset = json.loads(model["plans"]), json.loads(model["dataset_json"])
        _refuse_foreign_code(plans, str(model["configuration"]))
        manager = PlansManager(plans)
        configuration = manager.get_configuration(str(model["configuration"]))
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            1,
            2,
            deep_supervision=False,
        )
        network.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileFormatError(
            f"the nnU-Net plans or weights of this checkpoint are not usable: {error}"
        ) from None
    with quiet_stdout():
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
            configuration,
            [checkpoint["model"]],
            dataset,
            "nnUNetTrainer",
            tuple(model["mirror_axes"]) if model["mirror_axes"] else None,
        )
    return NnunetModel(predictor)


def require_nnunet() -> None:
    """HemsegError naming what to install, where nnU-Net is not there."""
    import importlib.util

    if importlib.util.find_spec("nnunetv2") is None:
        raise HemsegError("model nnunet needs the package nnunetv2", hint=INSTALL_HINT)
    # nnU-Net says on import that these are not set; we name its folders ourselves, where it needs
    # them.
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(variable, os.devnull)


@contextlib.contextmanager
def quiet_stdout(log: str = os.devnull) -> Iterator[None]:
    """What nnU-Net prints, also from its worker processes, goes to `log`.

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


def _refuse_foreign_code(plans: Mapping[str, Any], configuration: str) -> None:
    architecture = plans["configurations"][configuration]["architecture"]
    names = [architecture["network_class_name"]]
    required = [architecture["arch_kwargs"][key] for key in architecture["_kw_requires_import"]]
    foreign = [name for name in names if not str(name).startswith(_NETWORKS)]
    foreign += [name for name in required if name is not None and not str(name).startswith(_TORCH)]
    if foreign:
        raise FileFormatError(
            f"the nnU-Net plans name code outside nnU-Net: {', '.join(map(str, foreign))}",
            hint="do not use this checkpoint",
        )
