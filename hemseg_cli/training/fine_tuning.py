"""Begin a training from the weights of another run or archive (`train --from`), or freeze some."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hemseg_cli.core import console
from hemseg_cli.core.classes import LabelClass
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.names import first_few
from hemseg_cli.core.run_directory import open_run
from hemseg_cli.models.archive import is_archive, read_models
from hemseg_cli.models.checkpoint_settings import classes_of
from hemseg_cli.models.registry import build_network
from hemseg_cli.models.weights import without_memory

if TYPE_CHECKING:
    from hemseg_cli.config import Config

_ENCODERS = {
    "dynunet": r"input_block\.|downsamples\.|bottleneck\.",
    "unet": r"model(\.1\.submodule)*\.0\.",
    "vnet": r"in_tr\.|down_tr",
    "dynunet-res": r"input_block\.|downsamples\.|bottleneck\.",
    "segresnet-2d": r"network\.(convInit\.|down_layers\.)",
    "segresnet": r"convInit\.|down_layers\.",
    "unetr": r"vit\.",
    "swin-unetr": r"swinViT\.",
}
"""The beginnings of the names of each model's encoder weights."""


def read_start(config: "Config") -> dict[str, Any] | None:
    """Read the checkpoint that `train.start_from` names; None where it names none.

    HemsegError where there is none, or it holds another model.
    """
    name = config.train.start_from
    if name is None:
        return None
    path = Path(name)
    if not (is_archive(path) and path.is_file()):
        run = open_run(config.runs.root, name)
        path = (
            run.checkpoint("best") if run.checkpoint("best").is_file() else run.checkpoint("last")
        )
    checkpoint = read_models(path)[0]
    if checkpoint["model_name"] != config.train.model:
        raise HemsegError(
            f"{path} holds a {checkpoint['model_name']}, and train.model = {config.train.model}",
            hint=f"--model {checkpoint['model_name']}",
        )
    return checkpoint


def take_weights(
    network: nn.Module, start: Mapping[str, Any], classes: Sequence[LabelClass]
) -> None:
    """Put the weights of a checkpoint into a new network where their shapes agree.

    Output channels are matched by the keys of their classes. The rest stays as it was drawn, and
    is said. UsageError where nothing agrees.
    """
    given, own = start["model"], network.state_dict()
    before = [each.key for each in classes_of(start)]
    wanted = [each.key for each in classes]

    outputs = _output_weights(start, len(before)) if before != wanted else set()
    taken, new = {}, []
    for key, value in own.items():
        if key not in given:
            new.append(key)
        elif key in outputs and given[key].shape[1:] == value.shape[1:]:
            taken[key], missing = _by_class(given[key], value, before, wanted)
            new += [f"{key} of {name}" for name in missing]
        elif given[key].shape == value.shape:
            taken[key] = given[key]
        else:
            new.append(key)
    if not taken:
        raise UsageError(
            f"train.start_from = none of its {len(given)} weights fits the network",
            hint="train.network has to be as in the run that is started from",
        )

    network.load_state_dict({**own, **taken})
    console.say(
        f"started from {len(taken)} of {len(own)} weights"
        + (f"; new: {first_few(sorted(new))}" if new else "")
    )


def _output_weights(start: Mapping[str, Any], classes: int) -> set[str]:
    """The names of the weights that have one row for each class: those that one more changes."""
    config = {**start["model_config"], "out_channels": classes + 1}
    with without_memory():
        larger = build_network(str(start["model_name"]), config, int(start["in_channels"]))
    given = start["model"]
    return {
        key
        for key, value in larger.state_dict().items()
        if key in given and value.shape != given[key].shape
    }


def _by_class(
    given: torch.Tensor, own: torch.Tensor, before: Sequence[str], wanted: Sequence[str]
) -> tuple[torch.Tensor, list[str]]:
    """The rows of the classes that are known, the others as drawn; and the names of those."""
    value, missing = own.clone(), []
    for row, key in enumerate(wanted):
        if key in before:
            value[row] = given[list(before).index(key)]
        else:
            missing.append(key)
    return value, missing


def freeze_encoder(network: nn.Module, model: str) -> None:
    """Leave the encoder's weights as they are; UsageError where the encoder is not known."""
    if model not in _ENCODERS:
        raise UsageError(
            f"train.freeze = encoder: it is not known which weights of {model} are its encoder",
            hint=f"one of {', '.join(_ENCODERS)}, or leave --freeze out",
        )
    frozen = [
        weight for name, weight in network.named_parameters() if re.match(_ENCODERS[model], name)
    ]
    for weight in frozen:
        weight.requires_grad_(False)
    console.say(f"{len(frozen)} weights of the encoder are frozen")
