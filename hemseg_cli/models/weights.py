"""Check weights against the network that they claim to be of, before memory is taken for it."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.printable import printable
from hemseg_cli.models.registry import MODELS, build_network

if TYPE_CHECKING:
    from hemseg_cli.models.checkpoint_settings import CheckpointSettings

# Beyond the weights that a file holds, a network draws at most a few that it throws away: MONAI's
# deep-supervision heads, and buffers that are no part of its state.
_MOST_TENSORS_PER_WEIGHT = 4
_SPARE_TENSORS = 256

# 4 GB in float32: eight times the largest layer of a listed network at its largest usual patch.
_MOST_NUMBERS_IN_A_LAYER = 1 << 30

_DRAWN = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.arange, torch.full}


class _OnMeta(TorchFunctionMode):
    """Draw new tensors on torch's meta device (shapes without numbers), at most `most` of them."""

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self._left = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})

        if func in _DRAWN:
            kwargs["device"] = "meta"
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise FileFormatError("the settings describe a far larger network")
        return func(*args, **kwargs)


@contextlib.contextmanager
def without_memory(most_tensors: int | None = None) -> Iterator[None]:
    """Build networks inside without memory for their weights: shapes alone.

    `torch.device("meta")` would move every new tensor, also the drop-path rates that MONAI's Swin
    transformer computes and reads back, at which it fails. FileFormatError where more than
    `most_tensors` are drawn, so that a number in a stranger's file cannot build layers for hours.
    """
    with _OnMeta(most_tensors):
        yield


@contextlib.contextmanager
def drawn_within(weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """As `without_memory`, bounded by the weights at hand; what fails inside is the file's fault.

    The one border at which any failure of building a network from a file's settings becomes a
    FileFormatError: third-party constructors raise whatever their arguments lead to.
    """
    try:
        with without_memory(_MOST_TENSORS_PER_WEIGHT * len(weights) + _SPARE_TENSORS):
            yield
    except FileFormatError:
        raise
    except HemsegError as error:
        raise FileFormatError(f"no network can be built from its settings: {error}") from None
    except Exception as error:
        raise FileFormatError(
            f"no network can be built from its settings: {type(error).__name__}: {error}"
        ) from None


def check_network_weights(
    settings: "CheckpointSettings", weights: Mapping[str, torch.Tensor]
) -> None:
    """FileFormatError unless the weights are those of the network that the settings describe.

    Shapes are compared one by one, and the numbers that a layer holds for one patch are bounded.
    """
    name = settings.model_name
    if name not in MODELS:
        return  # the user's own code, which may not know the meta device
    with drawn_within(weights):
        network = build_network(name, settings.network_config, settings.in_channels)
    check_shapes(network, weights, name)

    if MODELS[name].convolutional:
        with drawn_within(weights):
            largest = _largest_layer(network, settings)
        if largest > _MOST_NUMBERS_IN_A_LAYER:
            raise FileFormatError(
                f"a patch {settings.patch} takes {largest:.1e} numbers in one layer of {name}"
            )


def check_shapes(network: nn.Module, weights: Mapping[str, torch.Tensor], name: str) -> None:
    """FileFormatError naming the first weight whose shape is not the network's."""
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    if expected == given:
        return

    key = next(
        key for key in sorted(expected.keys() | given.keys()) if expected.get(key) != given.get(key)
    )
    raise FileFormatError(
        f"the weights are not those of {name}: {printable(key[:80])} is {given.get(key)}, "
        f"expected {expected.get(key)}"
    )


def check_finite(weights: Mapping[str, Any]) -> None:
    """FileFormatError naming the first weight that is no plain tensor of finite numbers."""
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise FileFormatError(f"the weight {str(key)[:80]!r} is no tensor")
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise FileFormatError(f"the weight {printable(key[:80])} is no plain tensor")

        # A view with repeated strides would stand for more numbers than the file holds.
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise FileFormatError(
                f"the weight {printable(key[:80])} is larger than what the file holds of it"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise FileFormatError(
                f"the weight {printable(key[:80])} holds numbers that are not finite",
                hint="the training diverged: train again with a lower train.lr",
            )


def _largest_layer(network: nn.Module, settings: "CheckpointSettings") -> int:
    largest = 0

    def note(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, torch.Tensor):
            largest = max(largest, output.numel())

    hooks = [layer.register_forward_hook(note) for layer in network.modules()]
    with torch.inference_mode():
        network.eval()(torch.empty(1, settings.in_channels, *settings.patch, device="meta"))
    for hook in hooks:
        hook.remove()
    return largest
