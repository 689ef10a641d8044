"""Read nnU-Net's plans from a checkpoint of anybody's, without running what they name.

nnU-Net turns names in its plans into Python objects by searching for them, and calls what it finds
with arguments from the plans. Here every name is compared with a fixed list first, every argument
is a plain number within bounds, and the plans that nnU-Net gets are written anew from what was
understood: what is not on the list is either refused or left out.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.models.checkpoint_settings import sentence_of
from hemseg_cli.models.weights import check_shapes, drawn_within

if TYPE_CHECKING:
    import torch

INSTALL_HINT = "pip install 'hemseg[nnunet]'"
_UNET = "dynamic_network_architectures.architectures.unet"


@dataclass(frozen=True)
class _Role:
    """Where a name in the plans may point: `modules` that it may be written with, and `classes`."""

    modules: frozenset[str]
    classes: frozenset[str]


def _torch_role(module: str, *classes: str) -> _Role:
    """List classes that torch defines in `torch.nn.modules.<module>` and repeats in `torch.nn`."""
    return _Role(frozenset({"torch.nn", f"torch.nn.modules.{module}"}), frozenset(classes))


_ROLES = {
    "network_class_name": _Role(
        frozenset({_UNET}), frozenset({"PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"})
    ),
    "conv_op": _torch_role("conv", "Conv2d", "Conv3d"),
    "norm_op": _torch_role("instancenorm", "InstanceNorm2d", "InstanceNorm3d"),
    "dropout_op": _torch_role("dropout", "Dropout2d", "Dropout3d"),
    "nonlin": _torch_role("activation", "LeakyReLU", "ReLU", "GELU", "SiLU"),
}
_DEFINING_MODULES = frozenset(module for role in _ROLES.values() for module in role.modules)

Count = Annotated[int, Field(ge=1, le=16)]
Channels = Annotated[int, Field(ge=1, le=4096)]
Kernel = Annotated[int, Field(ge=1, le=15)]
Millimetres = Annotated[float, Field(ge=0.05, le=100)]
Sizes = Annotated[list[Annotated[int, Field(ge=1, le=2048)]], Field(min_length=2, max_length=3)]
PerAxis = Annotated[list[Kernel], Field(min_length=2, max_length=3)]
Axis = Annotated[int, Field(ge=0, le=2)]


class _Plain(BaseModel):
    """Plain, finite values of exactly the stated types; what is not stated is left out."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _Exact(_Plain):
    """As `_Plain`, but what is not stated is an error: these values become arguments of a call."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _NormArguments(_Exact):
    eps: Annotated[float, Field(gt=0, le=1)] = 1e-5
    affine: bool = True


class _DropoutArguments(_Exact):
    p: Annotated[float, Field(ge=0, le=1)] = 0.5
    inplace: bool = False


class _NonlinearityArguments(_Exact):
    inplace: bool = False
    negative_slope: Annotated[float, Field(ge=0, le=1)] | None = None


class _NetworkArguments(_Exact):
    n_stages: Count
    features_per_stage: Annotated[list[Channels], Field(min_length=1, max_length=16)]
    conv_op: str
    kernel_sizes: Annotated[list[PerAxis], Field(max_length=16)]
    strides: Annotated[list[PerAxis], Field(max_length=16)]
    n_conv_per_stage: Annotated[list[Count], Field(max_length=16)] | None = None
    n_blocks_per_stage: Annotated[list[Count], Field(max_length=16)] | None = None
    n_conv_per_stage_decoder: Annotated[list[Count], Field(max_length=16)]
    conv_bias: bool = True
    norm_op: str | None = None
    norm_op_kwargs: _NormArguments | None = None
    dropout_op: str | None = None
    dropout_op_kwargs: _DropoutArguments | None = None
    nonlin: str | None = None
    nonlin_kwargs: _NonlinearityArguments | None = None


class _Architecture(_Exact):
    network_class_name: str
    arch_kwargs: _NetworkArguments
    kw_requires_import: list[Literal["conv_op", "norm_op", "dropout_op", "nonlin"]] = Field(
        alias="_kw_requires_import", max_length=4
    )


class _Resampling(_Exact):
    is_seg: bool
    order: Annotated[int, Field(ge=0, le=5)]
    order_z: Annotated[int, Field(ge=0, le=5)]
    force_separate_z: bool | None = None


_ResamplingName = Literal["resample_data_or_seg_to_shape"]


class _Configuration(_Plain):
    preprocessor_name: Literal["DefaultPreprocessor"]
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    patch_size: Sizes
    median_image_size_in_voxels: Annotated[list[float], Field(max_length=3)] = []
    spacing: Annotated[list[Millimetres], Field(min_length=2, max_length=3)]
    normalization_schemes: Annotated[
        list[Literal["CTNormalization", "ZScoreNormalization", "NoNormalization"]],
        Field(min_length=1, max_length=1),
    ]
    use_mask_for_norm: Annotated[list[bool], Field(min_length=1, max_length=1)]
    resampling_fn_data: _ResamplingName
    resampling_fn_data_kwargs: _Resampling
    resampling_fn_seg: _ResamplingName
    resampling_fn_seg_kwargs: _Resampling
    resampling_fn_probabilities: _ResamplingName
    resampling_fn_probabilities_kwargs: _Resampling
    architecture: _Architecture
    batch_dice: bool = True


class _Intensities(_Plain):
    max: float
    mean: float
    median: float
    min: float
    percentile_00_5: float
    percentile_99_5: float
    std: Annotated[float, Field(gt=0)]


class _Plans(_Plain):
    image_reader_writer: Literal["SimpleITKIO", "NibabelIO"] = "SimpleITKIO"
    transpose_forward: Annotated[list[Axis], Field(min_length=3, max_length=3)]
    transpose_backward: Annotated[list[Axis], Field(min_length=3, max_length=3)]
    configurations: dict[str, Any]
    foreground_intensity_properties_per_channel: Annotated[
        dict[Literal["0"], _Intensities], Field(min_length=1)
    ]


class _Dataset(_Plain):
    channel_names: Annotated[dict[Literal["0"], str], Field(min_length=1)]
    labels: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[int, Field(ge=0, le=255)]],
        Field(min_length=2, max_length=64),
    ]
    file_ending: Literal[".nii.gz"] = ".nii.gz"


class _Stored(_Plain):
    plans: Annotated[str, Field(max_length=4 << 20)]
    dataset_json: Annotated[str, Field(max_length=4 << 20)]
    configuration: Literal["3d_fullres", "2d"]
    mirror_axes: Annotated[list[Axis], Field(max_length=3)] = []


@dataclass(frozen=True)
class NnunetSettings:
    """What nnU-Net needs to rebuild a network and to prepare scans for it, written anew."""

    plans: dict[str, Any]
    dataset: dict[str, Any]
    configuration: str
    mirror_axes: tuple[int, ...]

    @property
    def labels(self) -> int:
        """The number of output channels: background and each class."""
        return len(self.dataset["labels"])

    def network(self) -> "torch.nn.Module":
        """The network with fresh weights, without deep supervision."""
        # Names become classes here, and only those that stand in the list.
        architecture = self.plans["configurations"][self.configuration]["architecture"]
        arguments = dict(architecture["arch_kwargs"])
        for role in _ROLES.keys() & arguments.keys():
            if arguments[role] is not None:
                arguments[role] = resolve(role, arguments[role])
        build = resolve("network_class_name", architecture["network_class_name"])
        network: torch.nn.Module = build(
            input_channels=1, num_classes=self.labels, deep_supervision=False, **arguments
        )
        return network


def read_settings(model_config: Mapping[str, Any]) -> NnunetSettings:
    """Check the plans in a checkpoint's `model_config` and write them anew.

    FileFormatError naming the entry that is not nnU-Net's.
    """
    require_nnunet()
    stored = _checked(_Stored, dict(model_config), "the nnU-Net settings")

    # From the outside in: the JSON texts, then the one configuration that was trained.
    plans = _checked(_Plans, _json(stored.plans, "plans"), "the nnU-Net plans")
    dataset = _checked(_Dataset, _json(stored.dataset_json, "dataset_json"), "dataset_json")
    if sorted(dataset.labels.values()) != list(range(len(dataset.labels))):
        raise _refusal(f"dataset_json.labels are {sorted(dataset.labels.values())}, not 0, 1, ...")

    configuration = _checked(
        _Configuration,
        plans.configurations.get(stored.configuration),
        f"the nnU-Net plans: configurations.{stored.configuration}",
    )
    _check_names(configuration.architecture)

    # What was not checked is not passed on: nnU-Net reads the plans written anew.
    rewritten = {
        **plans.model_dump(by_alias=True),
        "configurations": {
            stored.configuration: configuration.model_dump(by_alias=True, exclude_unset=True)
        },
    }
    return NnunetSettings(
        rewritten, dataset.model_dump(), stored.configuration, tuple(stored.mirror_axes)
    )


def check_nnunet_weights(settings: Any, weights: Mapping[str, "torch.Tensor"]) -> None:
    """FileFormatError unless the weights are those of the network in the plans."""
    read = read_settings(settings.network_config)

    # Shapes alone are compared, so that no hostile plan can ask for a network of any size.
    with drawn_within(weights):
        network = read.network()
    check_shapes(network, weights, "nnunet")


def resolve(role: str, name: str) -> Any:
    """Find the class that a name in the plans stands for; FileFormatError if it is not listed.

    Only the listed modules are imported, and only a class of `torch.nn.Module` that such a module
    itself defines is returned: neither what it imports nor what it renames.
    """
    from torch import nn

    allowed = _ROLES[role]
    module, _, attribute = name.rpartition(".")
    if module in allowed.modules and attribute in allowed.classes:
        # A listed module may import other things: what it does not define itself is refused.
        found = getattr(importlib.import_module(module), attribute, None)
        if (
            isinstance(found, type)
            and issubclass(found, nn.Module)
            and found.__module__ in _DEFINING_MODULES
            and found.__name__ == attribute
        ):
            return found
    raise FileFormatError(
        f"the nnU-Net plans name code outside nnU-Net: {role} = {name[:200]!r}",
        hint="do not use this checkpoint",
    )


def require_nnunet() -> None:
    """HemsegError naming what to install, where nnU-Net is not there."""
    import importlib.util
    import os

    if importlib.util.find_spec("nnunetv2") is None:
        raise HemsegError("model nnunet needs the package nnunetv2", hint=INSTALL_HINT)

    # nnU-Net warns on import that these are not set; we name its folders ourselves, where it needs
    # them.
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        os.environ.setdefault(variable, os.devnull)


def _check_names(architecture: _Architecture) -> None:
    resolve("network_class_name", architecture.network_class_name)
    for role in ("conv_op", "norm_op", "dropout_op", "nonlin"):
        name = getattr(architecture.arch_kwargs, role)
        if name is not None:
            resolve(role, name)


def _checked(kind: type[Any], values: object, place: str) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refusal(f"{place}: {sentence_of(error)}") from None


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(f"{name} is not valid JSON: {error}") from None


def _refusal(what: str) -> FileFormatError:
    return FileFormatError(
        f"the nnU-Net plans or weights of this checkpoint are not usable: {what}",
        hint="use a checkpoint that hemseg train --model nnunet   wrote",
    )
