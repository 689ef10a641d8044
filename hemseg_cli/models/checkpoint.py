"""Checkpoint files: dicts of tensors and plain values, read without running code.

`torch.load(weights_only=True)` reads them. The settings in them are checked by one model
(`checkpoint_settings`), and so are those of a model archive.
"""

import os
import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import nn

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.files import atomic_path
from hemseg_cli.core.printable import printable
from hemseg_cli.models.checkpoint_settings import FORMAT, CheckpointSettings, read_settings
from hemseg_cli.models.registry import build_network
from hemseg_cli.models.weights import check_finite

REQUIRED = (
    "model",
    *(
        field.alias or name
        for name, field in CheckpointSettings.model_fields.items()
        if field.is_required() and name != "format"
    ),
)
"""The keys without which a file is no checkpoint."""

_HINT = "use a checkpoint that hemseg wrote"
_MOST_MEMBERS = 100_000
_MOST_PICKLE_BYTES = 64 << 20


def write_checkpoint(path: Path, values: Mapping[str, Any]) -> None:
    """Write `values` atomically: whatever happens, `path` holds the old file or the whole new one.

    Raises HemsegError naming the file where the disk is full or the folder not writable.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        sink = _Sink(file)
        try:
            torch.save({"format": FORMAT, **values}, cast(IO[bytes], sink))
        except RuntimeError:
            # torch's zip writer turns a failed write into a RuntimeError of its own.
            if sink.error is None:
                raise
            raise sink.error from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; never falls back to unpickling arbitrary objects.

    Raises HemsegError if there is none, FileFormatError if it is damaged, holds code, numbers that
    are not finite or settings out of bounds, or is no checkpoint of ours.
    """
    if not path.is_file():
        raise HemsegError(f"no checkpoint {path}", hint="hemseg train   writes it")
    _check_whole(path)

    values = _loaded(path)
    missing = [key for key in REQUIRED if not isinstance(values, dict) or key not in values]
    if missing or not isinstance(values["model"], dict):
        raise FileFormatError(
            f"{path} is no checkpoint of hemseg: it has no {', '.join(missing or ['model'])}",
            hint=_HINT,
        )
    read_settings(values, str(path), hint=_HINT)

    try:
        check_finite(values["model"])
    except FileFormatError as error:
        raise FileFormatError(f"{path}: {error.message}", hint=error.hint or _HINT) from None
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
        lines = str(error).splitlines()
        detail = printable((lines[1] if len(lines) > 1 else lines[0]).strip()[:200])
        raise FileFormatError(
            f"the weights are not those of {checkpoint['model_name']}: {detail}",
            hint="the checkpoint belongs to another model or configuration",
        ) from None


def _loaded(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileFormatError(
            f"{path} is refused: it holds more than tensors and plain values, and loading it could "
            f"run foreign code ({_first_line(error)})",
            hint=_HINT,
        ) from None
    except HemsegError:
        raise
    # The one border of reading this file: torch's restricted unpickler executes the file's opcodes
    # and passes on whatever a damaged or hostile sequence of them raises.
    except Exception as error:
        raise FileFormatError(
            f"{path} is damaged or no checkpoint: {_first_line(error)}", hint=_HINT
        ) from None


def _check_whole(path: Path) -> None:
    """FileFormatError unless the file is a zip archive whose every checksum holds.

    torch reads changed bytes without a word, and packed members at any size: a member must be
    stored as it is, so that what is read is never larger than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(path, members)
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        raise FileFormatError(f"{path} is damaged or no checkpoint: {error}", hint=_HINT) from None
    except (RuntimeError, ValueError) as error:  # an encrypted member, an impossible name or date
        raise FileFormatError(f"{path} is no checkpoint: {error}", hint=_HINT) from None
    if damaged is not None:
        raise FileFormatError(
            f"{path} is damaged: the checksum of {printable(damaged[:80])} does not hold",
            hint=_HINT,
        )


def _check_sizes(path: Path, members: list[zipfile.ZipInfo]) -> None:
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    size = sum(member.file_size for member in members)
    pickles = [member.file_size for member in members if member.filename.endswith(".pkl")]

    if packed or size > os.path.getsize(path) or len(members) > _MOST_MEMBERS:
        what = f"member {packed[0]!r} is packed" if packed else f"its members hold {size} bytes"
        raise FileFormatError(f"{path} is no checkpoint of hemseg: {what}", hint=_HINT)
    if sum(pickles) > _MOST_PICKLE_BYTES:
        raise FileFormatError(
            f"{path} is no checkpoint of hemseg: {sum(pickles)} bytes beside its weights",
            hint=_HINT,
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
