"""A trained model as one file to share.

A zip of weights (safetensors), settings (JSON), metrics, licence note, and the hash of each.

It may come from anywhere, so it is read as hostile: members by a list of names, sizes bounded,
every hash checked, no unpickling, and the weights compared with the network's own shapes before any
of it is built.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.run_directory import atomic_path
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.models.registry import MODELS, NNUNET, build_network, without_memory

FORMAT = 1
_WEIGHTS = "model.safetensors"
_SETTINGS = "model.json"
_HASHES = "SHA256SUMS.json"
_OPTIONAL = ("config.toml", "metrics.json", "NOTICE.txt")
_MEMBERS = (_WEIGHTS, _SETTINGS, *_OPTIONAL)
_SETTING_KEYS = (
    "model_name",
    "model_config",
    "preprocess",
    "patch",
    "in_channels",
    "step",
    "epoch",
    "predict",
    "padding",
)
_REQUIRED_KEYS = frozenset(_SETTING_KEYS) - {"predict", "padding"}
_MOST_WEIGHT_BYTES = 4 << 30
_MOST_TEXT_BYTES = 8 << 20
_HINT = "get the archive again; hemseg export   writes one"

NOTICE = """\
This archive holds a segmentation model trained with hemseg. Research use only: not a medical device.
Its weights derive from the data that it was trained on; their terms apply (see model.json and config.toml for the data set's name).
"""


def is_archive(path: Path) -> bool:
    """Whether a path names a model archive (a checkpoint of torch is a zip too, but named `.pt`)."""
    return path.suffix.lower() == ".zip"


def read_model(path: Path) -> dict[str, Any]:
    """The checkpoint in a file of either kind, `.pt` or model archive."""
    return read_archive(path) if is_archive(path) else read_checkpoint(path)


def write_archive(path: Path, checkpoint: Mapping[str, Any], *, files: Mapping[str, bytes]) -> None:
    """Write a checkpoint's network and settings, and `files` (names among config.toml, metrics.json), atomically."""
    from safetensors.torch import save

    weights, aliases = _distinct(
        {key: value.detach().cpu().contiguous() for key, value in checkpoint["model"].items()}
    )
    settings = {
        "format": FORMAT,
        **{key: checkpoint[key] for key in _SETTING_KEYS if key in checkpoint},
        "aliases": aliases,
    }
    members = {
        _WEIGHTS: save(weights),
        _SETTINGS: json.dumps(settings, indent=1).encode(),
        "NOTICE.txt": NOTICE.encode(),
        **files,
    }
    unknown = set(members) - set(_MEMBERS)
    if unknown:
        raise ValueError(f"not members of a model archive: {sorted(unknown)}")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name, data in {**members, _HASHES: json.dumps(hashes, indent=1).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)


def read_archive(path: Path) -> dict[str, Any]:
    """The checkpoint in an archive, as `checkpoint.read_checkpoint` gives it.

    Raises HemsegError if there is none, FileFormatError naming the member and what is wrong with
    it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file():
        raise HemsegError(f"no model archive {path}", hint="hemseg export   writes one")
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise FileFormatError(
            f"{path} is damaged or no model archive: {error}", hint=_HINT
        ) from None
    _check_hashes(path, members)
    settings = _settings(path, members[_SETTINGS])
    try:
        weights = load(members[_WEIGHTS])
    except (SafetensorError, ValueError, KeyError) as error:
        raise FileFormatError(f"{path}: {_WEIGHTS} is not readable: {error}", hint=_HINT) from None
    for key, original in settings.pop("aliases").items():
        if key in weights or original not in weights:
            raise FileFormatError(
                f"{path}: weight {key!r} is said to be {original!r}, which is not so", hint=_HINT
            )
        weights[key] = weights[original]
    _check_weights(path, settings, weights)
    return {**settings, "model": weights}


def _distinct(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each tensor once, and which names stand for one that has another name already (DynUNet registers its blocks twice)."""
    kept: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[tuple[int, tuple[int, ...]], str] = {}
    for key, value in weights.items():
        place = (value.data_ptr(), tuple(value.shape))
        if value.numel() and place in owners:
            aliases[key] = owners[place]
        else:
            owners[place] = key
            kept[key] = value
    return kept, aliases


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for info in archive.infolist():
        name = info.filename
        if name not in (*_MEMBERS, _HASHES) or name in found:
            raise FileFormatError(
                f"{path}: member {name!r} does not belong in a model archive, or stands in it twice",
                hint=_HINT,
            )
        most = _MOST_WEIGHT_BYTES if name == _WEIGHTS else _MOST_TEXT_BYTES
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
            raise FileFormatError(
                f"{path}: member {name} is packed or larger than {most} bytes", hint=_HINT
            )
        with archive.open(info) as member:
            found[name] = member.read(most + 1)
    missing = {_WEIGHTS, _SETTINGS, _HASHES} - set(found)
    if missing:
        raise FileFormatError(
            f"{path} is no model archive of hemseg: it has no {', '.join(sorted(missing))}",
            hint=_HINT,
        )
    return found


def _check_hashes(path: Path, members: Mapping[str, bytes]) -> None:
    stated = _json(path, _HASHES, members[_HASHES])
    for name, data in members.items():
        if name == _HASHES:
            continue
        actual = hashlib.sha256(data).hexdigest()
        if stated.get(name) != actual:
            raise FileFormatError(
                f"{path}: {name} was changed: its SHA-256 is {actual}, stated is {stated.get(name)}",
                hint=_HINT,
            )


def _settings(path: Path, data: bytes) -> dict[str, Any]:
    settings = _json(path, _SETTINGS, data)
    if settings.get("format") != FORMAT:
        raise FileFormatError(
            f"{path}: format {settings.get('format')!r} is not known to this version ({FORMAT})",
            hint="update hemseg",
        )
    missing = _REQUIRED_KEYS - set(settings)
    if (
        missing
        or settings["model_name"] not in MODELS
        or not isinstance(settings["model_config"], dict)
    ):
        raise FileFormatError(
            f"{path}: {_SETTINGS} names no model of hemseg (missing: {sorted(missing)})", hint=_HINT
        )
    aliases = settings.get("aliases", {})
    if not isinstance(aliases, dict) or not all(isinstance(name, str) for name in aliases.values()):
        raise FileFormatError(f"{path}: {_SETTINGS}: aliases is not a table of names", hint=_HINT)
    return {**{key: settings[key] for key in _SETTING_KEYS if key in settings}, "aliases": aliases}


def _check_weights(
    path: Path, settings: Mapping[str, Any], weights: Mapping[str, torch.Tensor]
) -> None:
    """Compare with the network's shapes, drawn without memory.

    Settings that ask for a monstrous network cost nothing.
    """
    if settings["model_name"] == NNUNET:
        return
    try:
        with without_memory():
            network = build_network(
                str(settings["model_name"]),
                dict(settings["model_config"]),
                int(settings["in_channels"]),
            )
    except (
        TypeError,
        ValueError,
        KeyError,
        RuntimeError,
        AttributeError,
        IndexError,
        ZeroDivisionError,
        HemsegError,
    ) as error:
        raise FileFormatError(
            f"{path}: no network can be built from {_SETTINGS}: {error}", hint=_HINT
        ) from None
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in weights.items()}
    if expected != given:
        key = next(
            key
            for key in sorted(expected.keys() | given.keys())
            if expected.get(key) != given.get(key)
        )
        raise FileFormatError(
            f"{path}: the weights are not those of {settings['model_name']}: {key} is {given.get(key)}, expected {expected.get(key)}",
            hint=_HINT,
        )


def _json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: {name} is not valid JSON: {error}", hint=_HINT) from None
    if not isinstance(values, dict):
        raise FileFormatError(f"{path}: {name} is not a JSON object", hint=_HINT)
    return values
