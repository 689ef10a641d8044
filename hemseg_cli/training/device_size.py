"""Choose the size of the default network by the memory of the GPU, and say what training takes.

nnU-Net's planner gives head CTs of 0.5 x 0.5 x 5 mm patches of 320 x 256 x 20 voxels and seven
levels on a GPU; the size that the recipes state is for CPUs and small GPUs.
"""

from collections.abc import Sequence
from typing import Any

import torch

from hemseg_cli.config import Config
from hemseg_cli.config.recipes import preset
from hemseg_cli.core import console
from hemseg_cli.core.devices import precision_for
from hemseg_cli.models.registry import build_network, full_config, require_model
from hemseg_cli.training.distributed import Processes

# A card is sold as 24 GB (10^9 or 2^30 bytes), and the driver takes some of it.
_LARGE_FROM_BYTES = 23e9
_LARGE_PATCH = (320, 256, 20)
_LARGE_NETWORK: dict[str, Any] = {
    "channels": [32, 64, 128, 256, 320, 320, 320],
    "strides": [
        [1, 1, 1],
        [2, 2, 1],
        [2, 2, 1],
        [2, 2, 1],
        [2, 2, 2],
        [2, 2, 2],
        [2, 2, 1],
    ],
    "kernels": [
        [3, 3, 1],
        [3, 3, 1],
        [3, 3, 1],
        [3, 3, 3],
        [3, 3, 3],
        [3, 3, 3],
        [3, 3, 3],
    ],
    "supervised_levels": 4,
}
_SIZED_MODELS = ("dynunet", "dynunet-res")

# Of a weight: itself, its gradient, AdamW's two means and the averaged weight, float32.
_BYTES_PER_WEIGHT = 5 * 4
# cuDNN's workspace, the gradients of activations on their way, and gaps between blocks.
_RESERVE = 1.3


def size_for_device(config: Config, device: torch.device) -> Config:
    """Return the config with the size of the network decided (`train.size`), which a run keeps.

    `auto` is `large` on a GPU of 24 GB and more. Patch and network are changed only where they are
    those of the recipe: what a user states stands, and so do weights that a training starts from.
    """
    train = config.train
    usual = preset("strong", train.model)
    is_usual = list(train.patch) == usual["patch"] and not train.network
    sized = train.recipe == "strong" and train.model in _SIZED_MODELS and is_usual
    if not sized or train.start_from is not None:
        return config

    size = train.size
    if size == "auto":
        size = "large" if device_bytes(device) >= _LARGE_FROM_BYTES else "standard"
    update: dict[str, Any] = {"size": size}
    if size == "large":
        update |= {"patch": _LARGE_PATCH, "network": dict(_LARGE_NETWORK)}
    return config.model_copy(update={"train": train.model_copy(update=update)})


def say_memory(config: Config, device: torch.device, processes: Processes, classes: int) -> None:
    """Say before a training on a GPU what it is about to take there; warn where it is too much."""
    train = config.train
    if device.type != "cuda" or not processes.is_main:
        return
    if not require_model(train.model).convolutional:
        return  # transformers compute with the numbers of their shapes, which shapes alone lack
    patches = min(train.micro_batch or train.batch_size, train.batch_size) // processes.size
    needed = training_bytes(config, max(1, patches), classes, device)
    there = device_bytes(device)
    text = (
        f"{train.model} on patches of {' x '.join(map(str, train.patch))}, {max(1, patches)} at "
        f"once: about {needed / 1e9:.1f} of the {there / 1e9:.0f} GB of {device}"
    )
    if needed > there:
        console.warn(f"{text}; --set train.size=standard or a smaller train.patch takes less")
    else:
        console.say(text)


def device_bytes(device: torch.device) -> int:
    """The memory of a GPU; 0 of any other device."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.get_device_properties(device).total_memory)


def training_bytes(config: Config, patches: int, classes: int, device: torch.device) -> int:
    """Estimate what a training step takes: weights with all that is kept for them, activations.

    Counted from what automatic differentiation keeps of one patch, on shapes alone; half of it in
    half precision.
    """
    train = config.train
    arguments = full_config(train.model, train.network, train.patch, classes)
    weights, kept = kept_bytes(train.model, arguments, len(train.windows), train.patch)
    half = precision_for(train.precision, device) != torch.float32
    activations = kept * patches * (0.5 if half else 1.0)
    return int((weights * _BYTES_PER_WEIGHT + activations) * _RESERVE)


def kept_bytes(
    model: str, arguments: dict[str, Any], channels: int, patch: Sequence[int]
) -> tuple[int, int]:
    """Count a network's weights, and the float32 bytes kept for the gradient of one patch."""
    with torch.device("meta"):
        network = build_network(model, arguments, channels).train()
        image = torch.zeros(1, channels, *patch)
    own = {weight.untyped_storage()._cdata for weight in network.parameters()}
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        # Several operations may keep one tensor, or a view of it.
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = network(image)
    del output
    return sum(weight.numel() for weight in network.parameters()), sum(kept.values())
