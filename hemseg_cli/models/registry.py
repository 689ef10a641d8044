"""The models by name: a row of `MODELS` for each, and the networks that a user brings.

A row holds a factory, its arguments, and the rule for the patch sizes that the network takes. A
user's own network needs no row here: an installed package names it in the entry point group
`hemseg.models`, or `train.factory = "module:callable"` names it for a local run.

Nothing heavy is imported here: `hemseg train --list` and every usage error do without torch.
"""

import difflib
import importlib.metadata
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.models.families import NETWORK, NNUNET, Family, imported

if TYPE_CHECKING:
    from torch import nn

    from hemseg_cli.config.schema import TrainConfig

Size = tuple[int, int, int]
ENTRY_POINT_GROUP = "hemseg.models"


@dataclass(frozen=True)
class ModelEntry:
    """Describe a model of one of the families: one row of `hemseg train --list`.

    `factory` (of the family of networks) is `module:callable`, called with `in_channels` and the
    entries of `model_config`, with `out_channels` where there are several classes; it returns a
    network from [n, c, i, j, k] to logits [n, classes, i, j, k].
    `parameters`: its size at one input channel and the default configuration, where it is known.
    `multiple` gives the numbers that the patch's sizes must be multiples of. `patch_key` names the
    argument that takes the patch, where a network takes one size only. `convolutional`: whether it
    takes windows of any valid size, and every weight gets a gradient. `input_channels`: the numbers
    of input channels it takes (empty: any). `reference_dice`: the published Dice on HemSeg-200's
    test split, per cent.
    """

    name: str
    title: str
    source: str
    factory: str
    parameters: int | None
    model_config: Mapping[str, Any] = field(default_factory=dict)
    multiple: Callable[[Mapping[str, Any]], Size] = lambda config: (1, 1, 1)
    patch_key: str | None = None
    convolutional: bool = True
    input_channels: tuple[int, ...] = ()
    reference_dice: float | None = None
    family: Family = NETWORK

    @property
    def fixed_patch(self) -> bool:
        """Whether the network takes only the patch that it was built for."""
        return self.patch_key is not None

    def patch_multiple(self, model_config: Mapping[str, Any]) -> Size:
        """The numbers that the sizes of a patch along i, j, k must be multiples of."""
        return self.multiple({**self.model_config, **model_config})


def _product_of_strides(config: Mapping[str, Any]) -> Size:
    steps = [
        (stride,) * 3 if isinstance(stride, int) else tuple(stride) for stride in config["strides"]
    ]
    i, j, k = (math.prod(step[axis] for step in steps) for axis in range(3))
    return i, j, k


def _same(number: int) -> Callable[[Mapping[str, Any]], Size]:
    return lambda _config: (number, number, number)


def _segresnet_multiple(config: Mapping[str, Any]) -> Size:
    return _same(2 ** (len(config["blocks_down"]) - 1))(config)


def _segresnet_2d_multiple(config: Mapping[str, Any]) -> Size:
    in_plane = 2 ** (len(config["blocks_down"]) - 1)
    return in_plane, in_plane, 1


_NETS = "monai.networks.nets"
_CHANNELS = [32, 64, 128, 256, 512]
_TWOS = [2, 2, 2, 2]
# Slices of 5 mm: no pooling across them for three levels.
_DYNUNET = {
    "channels": [32, 64, 128, 256, 320, 320],
    "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]],
    "kernels": [[3, 3, 1], [3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "supervised_levels": 3,
}

MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="unet",
            title="U-Net",
            source="MONAI UNet",
            factory=f"{_NETS}:UNet",
            parameters=19_215_118,
            model_config={
                "spatial_dims": 3,
                "out_channels": 1,
                "channels": _CHANNELS,
                "strides": _TWOS,
                "num_res_units": 2,
            },
            multiple=_product_of_strides,
            reference_dice=63.70,
        ),
        ModelEntry(
            name="vnet",
            title="V-Net",
            source="MONAI VNet",
            factory=f"{_NETS}:VNet",
            parameters=45_593_892,
            model_config={"spatial_dims": 3, "out_channels": 1},
            multiple=_same(16),
            input_channels=(1, 2, 4, 8, 16),
            reference_dice=61.19,
        ),
        ModelEntry(
            name="segresnet",
            title="SegResNet",
            source="MONAI SegResNet",
            factory=f"{_NETS}:SegResNet",
            parameters=1_176_177,
            model_config={
                "spatial_dims": 3,
                "out_channels": 1,
                "init_filters": 8,
                "dropout_prob": 0.2,
                "blocks_down": [1, 2, 2, 4],
            },
            multiple=_segresnet_multiple,
            reference_dice=32.66,
        ),
        ModelEntry(
            name="attention-unet",
            title="Attention U-Net",
            source="MONAI AttentionUnet",
            factory=f"{_NETS}:AttentionUnet",
            parameters=23_625_953,
            model_config={
                "spatial_dims": 3,
                "out_channels": 1,
                "channels": _CHANNELS,
                "strides": _TWOS,
            },
            multiple=_product_of_strides,
            reference_dice=66.77,
        ),
        ModelEntry(
            name="unetr",
            title="UNETR",
            source="MONAI UNETR",
            factory=f"{_NETS}:UNETR",
            parameters=92_832_977,
            model_config={
                "out_channels": 1,
                "img_size": [256, 256, 16],
                "feature_size": 16,
                "hidden_size": 768,
                "mlp_dim": 3072,
                "num_heads": 12,
                "proj_type": "conv",
                "norm_name": "instance",
            },
            multiple=_same(16),
            patch_key="img_size",
            convolutional=False,
            reference_dice=55.98,
        ),
        ModelEntry(
            name="swin-unetr",
            title="Swin UNETR",
            source="MONAI SwinUNETR",
            factory=f"{_NETS}:SwinUNETR",
            parameters=62_186_659,
            model_config={"out_channels": 1, "feature_size": 48},
            multiple=_same(32),
            convolutional=False,
            reference_dice=48.50,
        ),
        ModelEntry(
            name="dynunet",
            title="DynUNet",
            source="MONAI DynUNet, nnU-Net's topology for 5 mm slices, deep supervision",
            factory="hemseg_cli.models.dynunet:dynunet",
            parameters=30_169_348,
            model_config=_DYNUNET,
            multiple=_product_of_strides,
        ),
        ModelEntry(
            name="dynunet-res",
            title="DynUNet, residual",
            source="MONAI DynUNet of the same topology, residual blocks",
            factory="hemseg_cli.models.dynunet:dynunet",
            parameters=30_398_948,
            model_config={**_DYNUNET, "residual": True},
            multiple=_product_of_strides,
        ),
        ModelEntry(
            name="segresnet-2d",
            title="SegResNet, 2-D",
            source="MONAI SegResNet, slice by slice with the neighbouring slices as channels",
            factory="hemseg_cli.models.slicewise:segresnet_2d",
            parameters=6_299_073,
            model_config={"neighbours": 1, "init_filters": 32, "blocks_down": [1, 2, 2, 4]},
            multiple=_segresnet_2d_multiple,
        ),
        ModelEntry(
            name="nnunet",
            title="nnU-Net",
            source="nnunetv2 (extra nnunet): its own planner and trainer",
            factory="",
            parameters=None,
            reference_dice=78.99,
            family=NNUNET,
        ),
    )
}


# Names of the user's own networks, separated by spaces; worker processes inherit it.
_ALLOWED_VARIABLE = "_HEMSEG_ALLOWED_FACTORIES"


def allow_factory(factory: str) -> None:
    """Let `module:callable` be imported and called as a network here and in worker processes.

    For what the user wrote as `train.factory`. A file never brings its own: a checkpoint names its
    factory, and is refused where the user has not named the same.
    """
    os.environ[_ALLOWED_VARIABLE] = " ".join({*_allowed_factories(), factory})


def _allowed_factories() -> list[str]:
    return os.environ.get(_ALLOWED_VARIABLE, "").split()


def model_to_train(train: "TrainConfig") -> ModelEntry:
    """The model that `[train]` names; with `train.factory` the user lets their own code run."""
    if train.factory is not None:
        allow_factory(train.factory)
    return require_model(train.model)


def require_model(name: str) -> ModelEntry:
    """The model of that name: listed, from an installed package, or the user's own factory.

    UsageError offers the nearest name, or says what a missing one needs.
    """
    if name in MODELS:
        return MODELS[name]
    if ":" in name:
        return _own_network(name)

    installed = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for point in installed:
        if point.name == name:
            return _installed_network(point)

    names = [*MODELS, *sorted(point.name for point in installed)]
    nearest = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
    raise UsageError(
        f"train.model = {name!r}: no such model"
        + (f"; did you mean {nearest[0]}?" if nearest else ""),
        hint=f"one of: {', '.join(names)}   (hemseg train --list); another one needs the package "
        f"that names it in the entry point group {ENTRY_POINT_GROUP}",
    )


def listed_models() -> list[ModelEntry]:
    """List every model that can be named: the rows of this table, then installed packages'."""
    installed = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    others = sorted(point.name for point in installed if point.name not in MODELS)
    return [*MODELS.values(), *(require_model(name) for name in others)]


def _installed_network(point: importlib.metadata.EntryPoint) -> ModelEntry:
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist is not None else point.module.partition(".")[0]
        raise UsageError(
            f"train.model = {point.name}: {error}",
            hint=f"pip install {package}   again: it names this network and cannot load it",
        ) from None
    return _entry_of(point.name, point.value, found)


def _own_network(factory: str) -> ModelEntry:
    if factory not in _allowed_factories():
        raise UsageError(
            f"the network {factory} is somebody's own code, and is not run unasked",
            hint=f"--set train.factory={factory}   where you know it and have it installed",
        )
    module = factory.partition(":")[0]
    try:
        found = imported(factory)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"train.factory = {factory}: {error}",
            hint=f"install the package of {module}, or run where {module.split('.')[0]}.py can be "
            "imported (PYTHONPATH=FOLDER)",
        ) from None
    return _entry_of(factory, factory, found)


def _entry_of(name: str, factory: str, found: object) -> ModelEntry:
    """A row for a network from outside: its own `ModelEntry`, or one made for a bare callable.

    Nothing is known of a bare callable: it is computed in patches of the size it was trained on.
    """
    if isinstance(found, ModelEntry):
        return found
    if not callable(found):
        raise UsageError(
            f"{factory} is neither a callable nor a ModelEntry",
            hint="name a function that takes in_channels and returns a network",
        )
    return ModelEntry(
        name=name,
        title=name,
        source=factory,
        factory=factory,
        parameters=None,
        convolutional=False,
    )


def full_config(
    name: str, overrides: Mapping[str, Any], patch: Sequence[int], classes: int = 1
) -> dict[str, Any]:
    """The default configuration of a model with `overrides` (config table `train.network`).

    With the patch [i, j, k] where the network is built for one size, and as many output channels as
    there are `classes`.
    """
    model = require_model(name)
    config = {**model.model_config, **overrides}
    if model.patch_key is not None:
        config[model.patch_key] = [int(n) for n in patch]
    if classes > 1:
        config["out_channels"] = classes
    return config


def check_patch(name: str, model_config: Mapping[str, Any], patch: Sequence[int]) -> None:
    """UsageError naming the nearest valid size if the network cannot take patches of this size.

    Valid: each size a multiple of `patch_multiple`, and more than one voxel left at the deepest
    level (normalisation needs two).
    """
    multiple = require_model(name).patch_multiple(model_config)
    if all(n > 0 and n % m == 0 for n, m in zip(patch, multiple, strict=True)) and (
        tuple(patch) != multiple or multiple == (1, 1, 1)
    ):
        return
    nearest = [max(m, m * round(n / m)) for n, m in zip(patch, multiple, strict=True)]
    if tuple(nearest) == multiple:
        nearest[0] *= 2
    raise UsageError(
        f"train.patch = {_text(patch)}: {name} takes sizes that are multiples of "
        f"{_text(multiple)}, and not all equal to them",
        hint=f"--set train.patch={_text(nearest)}   is the nearest valid size",
    )


def build_network(name: str, model_config: Mapping[str, Any], in_channels: int) -> "nn.Module":
    """The network [n, c, i, j, k] -> logits [n, 1, i, j, k].

    Deep supervision in `train()` gives a list, full resolution first.

    `model_config` overrides the entry's defaults; UsageError names an unknown or impossible value.
    """
    model = require_model(name)
    if not model.factory:
        raise UsageError(
            f"{name} has its own trainer and is not built here", hint=f"hemseg train --model {name}"
        )
    if model.input_channels and in_channels not in model.input_channels:
        raise UsageError(
            f"{name} takes {', '.join(map(str, model.input_channels))} input channels, "
            f"not {in_channels}",
            hint="the number of windows in train.windows is the number of channels",
        )

    factory = imported(model.factory)
    arguments = {**model.model_config, **model_config}
    _check_arguments(name, factory, arguments)

    # The one border at which a network's constructor is called with a user's arguments: what it
    # raises for impossible ones is not ours to foresee (MONAI raises nine kinds), and is their
    # error. Where the file's own bounds refuse (FileFormatError), that is passed on.
    try:
        network: nn.Module = factory(in_channels=in_channels, **arguments)
    except HemsegError:
        raise
    except Exception as error:
        raise UsageError(
            f"{name} cannot be built with {arguments}: {error}",
            hint="see the table train.network of the config",
        ) from error
    return network


def _check_arguments(name: str, factory: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    known = [
        key for key in inspect.signature(factory).parameters if key not in ("self", "in_channels")
    ]
    for key in arguments:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
            raise UsageError(
                f"train.network.{key}: {name} has no such setting"
                + (f"; did you mean {nearest[0]}?" if nearest else ""),
                hint=f"it has: {', '.join(known)}",
            )


def _text(sizes: Sequence[int]) -> str:
    return "[" + ", ".join(str(int(n)) for n in sizes) + "]"
