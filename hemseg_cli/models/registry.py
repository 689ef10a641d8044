"""Name -> network. Adding one is one entry in `MODELS`.

A factory, its arguments, and the rule for the patch sizes it takes.

Nothing heavy is imported here: `hemseg train --list` and every usage error do without torch.
"""

import contextlib
import difflib
import importlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hemseg_cli.core.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

Size = tuple[int, int, int]
NNUNET = "nnunet"


@dataclass(frozen=True)
class ModelEntry:
    """One row of `hemseg train --list`.

    `factory` is `module:callable`, called with `in_channels` and the entries of `model_config`; it
    returns a network from [n, c, i, j, k] to logits [n, 1, i, j, k]. `parameters` is its size at
    one input channel and the default configuration. `multiple` gives the numbers that the patch's
    sizes must be multiples of. `patch_key` names the argument that takes the patch, where a network
    takes one size only. `input_channels`: the numbers of input channels it takes (empty: any).
    `reference_dice`: the published Dice on HemSeg-200's test split, per cent.
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


_NETS = "monai.networks.nets"
_CHANNELS = [32, 64, 128, 256, 512]
_TWOS = [2, 2, 2, 2]

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
            model_config={
                "channels": [32, 64, 128, 256, 320, 320],
                "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 1], [2, 2, 1], [2, 2, 2], [2, 2, 2]],
                "kernels": [[3, 3, 1], [3, 3, 1], [3, 3, 1], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
                "supervised_levels": 3,
            },
            multiple=_product_of_strides,
        ),
        ModelEntry(
            name=NNUNET,
            title="nnU-Net",
            source="nnunetv2 (extra nnunet): its own planner and trainer",
            factory="",
            parameters=None,
            reference_dice=78.99,
        ),
    )
}


def entry(name: str) -> ModelEntry:
    """The model of that name; UsageError offers the nearest."""
    if name in MODELS:
        return MODELS[name]
    nearest = difflib.get_close_matches(name.lower(), MODELS, n=1, cutoff=0.4)
    raise UsageError(
        f"train.model = {name!r}: no such model"
        + (f"; did you mean {nearest[0]}?" if nearest else ""),
        hint=f"one of: {', '.join(MODELS)}   (hemseg train --list)",
    )


def full_config(name: str, overrides: Mapping[str, Any], patch: Sequence[int]) -> dict[str, Any]:
    """The default configuration of a model with `overrides` (config table `train.network`) and the patch, where the network takes one."""
    model = entry(name)
    config = {**model.model_config, **overrides}
    if model.patch_key is not None:
        config[model.patch_key] = [int(n) for n in patch]
    return config


def check_patch(name: str, model_config: Mapping[str, Any], patch: Sequence[int]) -> None:
    """UsageError naming the nearest valid size if the network cannot take patches of this size.

    Valid: each size a multiple of `patch_multiple`, and more than one voxel left at the deepest
    level (normalisation needs two).
    """
    multiple = entry(name).patch_multiple(model_config)
    if (
        all(n > 0 and n % m == 0 for n, m in zip(patch, multiple, strict=True))
        and tuple(patch) != multiple
    ):
        return
    nearest = [max(m, m * round(n / m)) for n, m in zip(patch, multiple, strict=True)]
    if tuple(nearest) == multiple:
        nearest[0] *= 2
    raise UsageError(
        f"train.patch = {_text(patch)}: {name} takes sizes that are multiples of {_text(multiple)}, and not all equal to them",
        hint=f"--set train.patch={_text(nearest)}   is the nearest valid size",
    )


def build_network(name: str, model_config: Mapping[str, Any], in_channels: int) -> "nn.Module":
    """The network [n, c, i, j, k] -> logits [n, 1, i, j, k].

    Deep supervision in `train()` gives a list, full resolution first.

    `model_config` overrides the entry's defaults; UsageError names an unknown or impossible value.
    """
    model = entry(name)
    if not model.factory:
        raise UsageError(
            f"{name} has its own trainer and is not built here", hint=f"hemseg train --model {name}"
        )
    if model.input_channels and in_channels not in model.input_channels:
        raise UsageError(
            f"{name} takes {', '.join(map(str, model.input_channels))} input channels, not {in_channels}",
            hint="the number of windows in train.windows is the number of channels",
        )
    module, _, attribute = model.factory.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    arguments = {**model.model_config, **model_config}
    _check_arguments(name, factory, arguments)
    try:
        network: nn.Module = factory(in_channels=in_channels, **arguments)
    except (
        ValueError,
        TypeError,
        AssertionError,
        IndexError,
        RuntimeError,
        NotImplementedError,
        KeyError,
    ) as error:
        raise UsageError(
            f"{name} cannot be built with {arguments}: {error}",
            hint="see the table train.network of the config",
        ) from error
    return network


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Draw the weights of networks built inside on torch's meta device: shapes without numbers.

    Only what holds weights goes there. `torch.device("meta")` moves every new tensor, also the
    drop-path rates that MONAI's Swin transformer computes and reads back, and fails at them.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    of_weights = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn}

    class OnMeta(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = dict(kwargs or {})
            if func in of_weights:
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    with OnMeta():
        yield


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
