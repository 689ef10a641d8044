"""Plans of strangers: whatever they name, only nnU-Net's own blocks are looked up or called."""

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.models.archive import write_archive
from hemseg_cli.models.checkpoint import write_checkpoint
from hemseg_cli.models.nnunet_plans import read_settings
from tests.models.reading import read_one

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("nnunetv2") is None, reason="extra nnunet is not installed"
)

_RESAMPLING = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
_ARCHITECTURE = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}
_PLANS = {
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "os",
    "configurations": {
        "3d_fullres": {
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [4, 16, 16],
            "median_image_size_in_voxels": [10.0, 40.0, 48.0],
            "spacing": [5.0, 2.0, 2.0],
            "normalization_schemes": ["CTNormalization"],
            "use_mask_for_norm": [False],
            "resampling_fn_data": "resample_data_or_seg_to_shape",
            "resampling_fn_data_kwargs": _RESAMPLING,
            "resampling_fn_seg": "resample_data_or_seg_to_shape",
            "resampling_fn_seg_kwargs": {**_RESAMPLING, "is_seg": True},
            "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
            "resampling_fn_probabilities_kwargs": _RESAMPLING,
            "architecture": _ARCHITECTURE,
            "batch_dice": False,
        }
    },
    "foreground_intensity_properties_per_channel": {
        "0": {
            "max": 90.0,
            "mean": 60.0,
            "median": 60.0,
            "min": 20.0,
            "percentile_00_5": 25.0,
            "percentile_99_5": 85.0,
            "std": 10.0,
        }
    },
}
_DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "hemorrhage": 1},
    "file_ending": ".nii.gz",
}
_OF_UNET = "dynamic_network_architectures.architectures.unet."


def _stored(plans: dict[str, Any], dataset: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "plans": json.dumps(plans),
        "dataset_json": json.dumps(dataset or _DATASET),
        "configuration": "3d_fullres",
        "mirror_axes": [0, 1],
    }


def _checkpoint(plans: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {
        "model": read_settings(_stored(_PLANS)).network().state_dict(),
        "model_name": "nnunet",
        "model_config": _stored(plans),
        "preprocess": {},
        "patch": [16, 16, 4],
        "in_channels": 1,
        "step": 1,
        "epoch": 1,
        **others,
    }


def _changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The plans with something done to the configuration (a fresh copy)."""
    plans = copy.deepcopy(_PLANS)
    change(plans["configurations"]["3d_fullres"])  # type: ignore[index]
    return plans


def _with_argument(role: str, name: object, arguments: object = None) -> dict[str, Any]:
    def change(configuration: dict[str, Any]) -> None:
        kwargs = configuration["architecture"]["arch_kwargs"]
        kwargs[role] = name
        if arguments is not None:
            kwargs[f"{role}_kwargs"] = arguments

    return _changed(change)


def test_network_of_honest_plans_is_nnunets_own() -> None:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = copy.deepcopy(_ARCHITECTURE)
    theirs = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        2,
        deep_supervision=False,
    )
    ours = read_settings(_stored(_PLANS)).network()
    assert repr(ours) == repr(theirs)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


def test_what_nnunet_would_search_for_is_left_out_of_the_plans_that_it_gets() -> None:
    read = read_settings(_stored({**_PLANS, "experiment_planner_used": "os", "extra": [1]}))
    assert "label_manager" not in read.plans
    assert "experiment_planner_used" not in read.plans
    assert list(read.plans["configurations"]) == ["3d_fullres"]


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("nonlin", "torch.nn.parallel.distributed.os.system"),
        ("network_class_name", _OF_UNET + "torch.hub.load"),
        ("nonlin", "torch.nn.modules.activation.torch.hub.load"),
        ("nonlin", "torch.nn.modules.activation.warnings.sys.modules.os.system"),
        ("conv_op", "torch.nn.modules.conv.functools.partial"),
        ("nonlin", "functools.partial"),
        ("nonlin", "os.system"),
        ("nonlin", "builtins.eval"),
        ("nonlin", "eval"),
        ("norm_op", "torch.nn.utils.parametrize.exec"),
        ("norm_op", "torch.nn.modules.instancenorm.InstanceNorm3d.__init__.__globals__"),
        ("network_class_name", _OF_UNET + "PlainConvUNet.__class__"),
        ("network_class_name", _OF_UNET + "nn"),
        ("network_class_name", _OF_UNET + "UNetDecoder"),
        ("network_class_name", "torch.nn.Sequential"),
        ("conv_op", "torch.nn.Module"),
        ("conv_op", "torch.nn.modules.conv.Module"),
        ("conv_op", "torch.nn.LeakyReLU"),
        ("dropout_op", "torch.nn.DataParallel"),
        ("dropout_op", "torch.nn.modules.lazy.LazyModuleMixin"),
        ("nonlin", " torch.nn.LeakyReLU"),
        ("nonlin", "torch.nn.modules.activation:LeakyReLU"),
    ],
)
def test_name_outside_the_list_is_refused(role: str, name: str) -> None:
    def change(configuration: dict[str, Any]) -> None:
        architecture = configuration["architecture"]
        (architecture if role == "network_class_name" else architecture["arch_kwargs"])[role] = name

    with pytest.raises(FileFormatError, match=f"code outside nnU-Net: {role} = ") as caught:
        read_settings(_stored(_changed(change)))
    assert "do not use this checkpoint" in caught.value.hint


@pytest.mark.parametrize(
    "plans",
    [
        _with_argument("nonlin", ["os.system"]),
        _with_argument("nonlin", {"name": "os.system"}),
        _with_argument("nonlin", "torch.nn.LeakyReLU", {"command": "touch x"}),
        _with_argument("nonlin", "torch.nn.LeakyReLU", {"inplace": "os.system"}),
        _with_argument("nonlin", "torch.nn.LeakyReLU", {"inplace": {"nested": "os.system"}}),
        _with_argument("norm_op", "torch.nn.InstanceNorm3d", {"device": "cuda", "affine": True}),
        _with_argument("norm_op", "torch.nn.InstanceNorm3d", {"eps": float("nan")}),
        _with_argument("dropout_op", "torch.nn.Dropout3d", {"p": 2}),
        _changed(lambda c: c["architecture"]["arch_kwargs"].update(block="os.system")),
        _changed(lambda c: c["architecture"]["arch_kwargs"].update(n_stages=10**8)),
        _changed(lambda c: c["architecture"]["arch_kwargs"].update(features_per_stage=[10**8] * 2)),
        _changed(lambda c: c["architecture"]["arch_kwargs"].update(n_conv_per_stage=[10**8] * 2)),
        _changed(lambda c: c["architecture"]["arch_kwargs"].update(n_stages=True)),
        _changed(lambda c: c["architecture"].update(_kw_requires_import=["os.system"])),
        _changed(lambda c: c.update(preprocessor_name="system")),
        _changed(lambda c: c.update(resampling_fn_data="system")),
        _changed(lambda c: c.update(resampling_fn_seg_kwargs={"func": "os.system"})),
        _changed(lambda c: c.update(normalization_schemes=["os"])),
        _changed(lambda c: c.update(spacing=[1e-9, 1e-9, 1e-9])),
        _changed(lambda c: c.update(patch_size=[10**9] * 3)),
        _changed(lambda c: c.update(inherits_from="other", architecture="gone")),
        {**_PLANS, "image_reader_writer": "os"},
        {**_PLANS, "transpose_forward": [0, 1, 9]},
        {**_PLANS, "configurations": [1]},
    ],
)
def test_argument_that_is_no_plain_bounded_value_is_refused(plans: dict[str, Any]) -> None:
    with pytest.raises(FileFormatError, match="nnU-Net plans"):
        read_settings(_stored(plans))


@pytest.mark.parametrize("ending", ["pt", "zip"])
@pytest.mark.parametrize(
    "name", ["torch.nn.parallel.distributed.os.system", _OF_UNET + "torch.hub.load"]
)
def test_reading_a_hostile_model_file_runs_nothing(tmp_path: Path, ending: str, name: str) -> None:
    went_off = tmp_path / "went-off"
    role = "nonlin" if name.endswith("system") else "network_class_name"

    def change(configuration: dict[str, Any]) -> None:
        architecture = configuration["architecture"]
        if role == "nonlin":
            architecture["arch_kwargs"]["nonlin"] = name
            architecture["arch_kwargs"]["nonlin_kwargs"] = {"command": f"touch {went_off}"}
        else:
            architecture["network_class_name"] = name

    file = tmp_path / f"model.{ending}"
    hostile = _checkpoint(_changed(change))
    if ending == "pt":
        write_checkpoint(file, hostile)
    else:
        write_archive(file, [hostile], files={})
    with pytest.raises(FileFormatError, match=f"model.{ending}"):
        read_one(file)
    assert not went_off.exists()


@pytest.mark.parametrize("ending", ["pt", "zip"])
def test_honest_model_file_is_read_and_foreign_weights_are_not(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"model.{ending}"
    honest = _checkpoint(_PLANS)
    write = (
        write_checkpoint
        if ending == "pt"
        else lambda path, values: write_archive(path, [values], files={})
    )
    write(file, honest)
    assert read_one(file)["model"].keys() == honest["model"].keys()

    weights = {**honest["model"], "extra": torch.zeros(3)}
    write(file, {**honest, "model": weights})
    with pytest.raises(FileFormatError, match="the weights are not those of nnunet: extra"):
        read_one(file)


def test_labels_that_do_not_count_from_zero_are_refused() -> None:
    with pytest.raises(FileFormatError, match="labels"):
        read_settings(_stored(_PLANS, {**_DATASET, "labels": {"background": 0, "x": 7}}))
