"""The training recipes: presets of the keys of `[train]`, in one readable place.

`preset(recipe, model)` is the lowest layer above the defaults: the file, the environment, `--set`
and options win over it.

`paper` is the published setup to the letter: https://github.com/songchangwei/3DCT-SD-IVH-ICH,
commit 7b7db5f. `strong` is what the field knows to work (nnU-Net, Isensee et al., Nature Methods
18, 2021), tried on the phantom; `benchmarks/train.py dice` measures it.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

Preset = dict[str, Any]

_PAPER: Preset = {
    "epochs": 200,
    "seed": 42,
    "spacing_mm": [0.4882810115814209, 0.4882810115814209, 4.649400138854981],
    "keep_spacing_within": 1.0,
    "grid_alignment": "monai",
    "thin_slices": "sample",
    "windows": [[11.99969482421875, 79.0, 48.13441467285156, 13.457549095153809]],
    "stored_type": "float32",
    "patch": [256, 256, 16],
    "pad_to": [0, 0, 0],
    "padding": "zero",
    "batch_size": 2 * 4,  # two scans, four patches of each
    "patches_per_scan": 4,
    "patch_order": "by_scan",
    "foreground_share": 0.5,
    # As MONAI's RandCropByPosNegLabeld with image_threshold = 0: above 48.13 HU.
    "background_centres": "tissue",
    "jitter": 0.0,
    "optimiser": "adamw",
    "lr": 0.01,
    "weight_decay": 0.01,
    "momentum": 0.9,
    "schedule": "step",
    "warmup": 0.0,
    "step_epochs": 10,
    "step_factor": 0.9,
    "output_bias": 0.0,
    "clip_norm": 0.0,
    "ema_share": 0.0,
    "precision": "float32",
    "validation_every": 2,
    "validation_grid": "network",
    "validation_crop": False,
    "choose": "none",
    "loss": {
        "dice": 1.0,
        "cross_entropy": 0.0,
        "focal": 0.0,
        "dice_over_batch": False,
        "dice_smooth": 1e-5,
    },
    "augment": {"mirror_p": [0.5, 0.5, 0.5]},
}
_PAPER_BY_MODEL: dict[str, Preset] = {
    "nnunet": {"epochs": 1000},  # its own number, as every other of its numbers
    "unet": {"batch_size": 4 * 4},
    "swin-unetr": {
        "pad_to": [512, 512, 32],
        "patch": [128, 128, 32],
        "patches_per_scan": 2,
        "batch_size": 2 * 2,
    },
}

_STRONG: Preset = {
    "epochs": 300,
    # Within the slice the scan's own pixels (0.4 to 0.6 mm in a head CT); across, 5 mm, unless the
    # scan is near to that already.
    "spacing_mm": [0.0, 0.0, 5.0],
    "keep_spacing_within": 1.6,
    "grid_alignment": "first-voxel",
    "thin_slices": "average",
    # Brain, and a wide window that tells skull from blood and air from water.
    "windows": [[0.0, 80.0], [-100.0, 300.0]],
    "stored_type": "float16",
    "patch": [256, 256, 16],
    "padding": "air",
    "batch_size": 2,
    "patches_per_scan": 8,
    "patch_order": "mixed",
    "foreground_share": 0.5,
    "background_centres": "anywhere",
    "jitter": 0.5,
    "optimiser": "adamw",
    # On real scans after 4 CPU minutes (`benchmarks/real.py train`, one seed): Dice 0.834 at 1e-3,
    # 0.880 at 2e-3, 0.860 at 3e-3, 0.843 with SGD at 0.01; at 3e-3 and 1e-3 equal after longer.
    "lr": 2e-3,
    "weight_decay": 0.01,
    "schedule": "poly",
    "poly_power": 0.9,
    "warmup": 0.03,
    "output_bias": 0.02,
    "clip_norm": 1.0,
    # Of the training: about 1,600 of 80,000 steps for HemSeg-200.
    "ema_share": 0.02,
    "precision": "auto",
    "validation_every": 5,
    "validation_grid": "native",
    "choose": "all",
    "loss": {
        "dice": 1.0,
        "cross_entropy": 1.0,
        "dice_over_batch": True,
        "dice_smooth": 1.0,
        "deep_supervision": 0.5,
    },
    "augment": {
        "mirror_p": [0.5, 0.0, 0.0],
        "rotation_p": 0.3,
        "rotation_deg": 20.0,
        "scale_p": 0.3,
        "scale": [0.75, 1.3],
        "elastic_p": 0.1,
        "elastic_voxels": 3.0,
        "elastic_grid": 6,
        "noise_p": 0.15,
        "noise_hu": [0.0, 6.0],
        "blur_p": 0.1,
        "blur_sigma": [0.5, 1.0],
        "brightness_p": 0.2,
        "brightness": [-0.1, 0.1],
        "contrast_p": 0.2,
        "contrast": [0.75, 1.25],
        "gamma_p": 0.2,
        "gamma": [0.7, 1.5],
        "low_resolution_p": 0.1,
        "low_resolution": [0.5, 1.0],
    },
}
_STRONG_BY_MODEL: dict[str, Preset] = {
    "nnunet": {"epochs": 1000},  # its own number, as every other of its numbers
    # Transformers take a lower rate; the patch is a multiple of 32 along each axis.
    "unetr": {"lr": 1e-3},
    "swin-unetr": {"lr": 1e-3, "patch": [128, 128, 32]},
}

_RECIPES = {"paper": (_PAPER, _PAPER_BY_MODEL), "strong": (_STRONG, _STRONG_BY_MODEL)}


def preset(recipe: str, model: str) -> Preset:
    """The keys of `[train]` that a recipe sets for a model; nested tables as nested dicts.

    Unknown recipe: empty.
    """
    if recipe not in _RECIPES:
        return {}
    common, by_model = _RECIPES[recipe]
    return copy.deepcopy({**common, **by_model.get(model, {})})


def preset_values(recipe: str, model: str) -> dict[str, Any]:
    """The same with dotted keys (`augment.noise_p`), and with every key that any recipe sets.

    A file that states one overrules the recipe.

    The value of a key that this recipe leaves alone is that of the recipe that sets it.
    """
    values: dict[str, Any] = {}
    for name in (*_RECIPES, recipe):
        values |= dict(_leaves(preset(name, model)))
    return values


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
