"""Checkpoint files: dicts of tensors and plain values that `torch.load(weights_only=True)` reads, and nothing else."""

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import nn

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.run_directory import atomic_path
from hemseg_cli.models.registry import build_network

KEYS = (
    "model",
    "model_name",
    "model_config",
    "preprocess",
    "patch",
    "in_channels",
    "step",
    "epoch",
)


def write_checkpoint(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` atomically: whatever happens, `path` holds the old file or the whole new one.

    Raises HemsegError naming the file where the disk is full or the folder not writable.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)
        try:
            torch.save(dict(values), cast(IO[bytes], sink))
        except RuntimeError:
            # torch's zip writer turns a failed write into a RuntimeError of its own.
            if sink.error is None:
                raise
            raise sink.error from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; never falls back to unpickling arbitrary objects.

    Raises HemsegError if there is none, FileFormatError if it is damaged, holds code, or is no
    checkpoint of ours.
    """
    if not path.is_file():
        raise HemsegError(f"no checkpoint {path}", hint="hemseg train   writes it")
    _check_whole(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileFormatError(
            f"{path} is refused: it holds more than tensors and plain values, and loading it could run foreign code "
            f"({str(error).splitlines()[0]})",
            hint="use a checkpoint that hemseg wrote",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"{path} is damaged or no checkpoint: {str(error).splitlines()[0]}"
        ) from None
    missing = [key for key in KEYS if key not in values] if isinstance(values, dict) else list(KEYS)
    if missing:
        raise FileFormatError(f"{path} is no checkpoint of hemseg: it has no {', '.join(missing)}")
    return dict(values)


def network_of(checkpoint: Mapping[str, Any]) -> nn.Module:
    """The trained network, in eval mode.

    FileFormatError if the weights do not fit the network that the checkpoint names.
    """
    network = build_network(
        str(checkpoint["model_name"]),
        dict(checkpoint["model_config"]),
        int(checkpoint["in_channels"]),
    )
    load_weights(network, checkpoint)
    return network.eval()


def load_weights(network: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Put the checkpoint's weights into `network`; FileFormatError if they are another model's."""
    try:
        network.load_state_dict(checkpoint["model"])
    except (RuntimeError, AttributeError, TypeError) as error:
        detail = str(error).splitlines()
        raise FileFormatError(
            f"the weights are not those of {checkpoint['model_name']}: {detail[1].strip()[:200] if len(detail) > 1 else detail[0]}",
            hint="the checkpoint belongs to another model or configuration",
        ) from None


def _check_whole(path: Path) -> None:
    """FileFormatError unless the file is a zip archive whose every checksum holds.

    Torch reads changed bytes without a word.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        raise FileFormatError(f"{path} is damaged or no checkpoint: {error}") from None
    if damaged is not None:
        raise FileFormatError(f"{path} is damaged: the checksum of {damaged} does not hold")


class _Sink:
    """A file for `torch.save` that remembers the system's error, which torch drops."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()
