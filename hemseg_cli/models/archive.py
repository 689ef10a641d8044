"""Write and read a trained model as one file to share, a model archive.

A zip of a model card (README.md), weights (safetensors) and settings (JSON) of one network or of
an ensemble's, metrics, licence note, and the hash of each.

It may come from anywhere, so it is read as hostile: members by a list of names, sizes bounded,
every hash checked, no unpickling, and the weights compared with the network's own shapes before any
of it is built.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.core.files import atomic_path
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.models.checkpoint_settings import (
    FORMAT,
    SETTING_KEYS,
    CheckpointSettings,
    read_settings,
)
from hemseg_cli.models.registry import MODELS, require_model
from hemseg_cli.models.weights import check_finite

_MOST_NETWORKS = 32
_SETTINGS = "model.json"
_HASHES = "SHA256SUMS.json"
_OPTIONAL = ("README.md", "config.toml", "metrics.json", "NOTICE.txt")
_WEIGHTS = tuple(f"model-{number}.safetensors" for number in range(_MOST_NETWORKS))
_MEMBERS = (*_WEIGHTS, _SETTINGS, *_OPTIONAL)
_MOST_WEIGHT_BYTES = 4 << 30
_MOST_TEXT_BYTES = 8 << 20
_HINT = "get the archive again; hemseg export   writes one"

NOTICE = """\
This archive holds a segmentation model trained with hemseg. Research use only: not a medical
device. Its weights derive from the data that it was trained on; their terms apply (config.toml
names the data set).
"""


def is_archive(path: Path) -> bool:
    """Whether a path names a model archive; a checkpoint of torch is a zip too, named `.pt`."""
    return path.suffix.lower() == ".zip"


def read_models(path: Path) -> list[dict[str, Any]]:
    """Read the networks for prediction in a file of either kind, `.pt` or model archive.

    FileFormatError naming the file also where weights are not those of the network that their
    settings describe: nothing is built before they agree.
    """
    if is_archive(path):
        return read_archive(path)
    checkpoint = read_checkpoint(path)
    _check_weights(path, read_settings(checkpoint, str(path)), checkpoint["model"])
    return [checkpoint]


def write_archive(
    path: Path, checkpoints: Sequence[Mapping[str, Any]], *, files: Mapping[str, bytes]
) -> None:
    """Write the networks and settings of checkpoints atomically, with `files` beside them.

    Their names are among README.md, config.toml and metrics.json. HemsegError for a network that is
    no model of hemseg: whoever reads the archive could not build it.
    """
    from safetensors.torch import save

    if not 1 <= len(checkpoints) <= _MOST_NETWORKS:
        raise HemsegError(f"a model archive holds 1 to {_MOST_NETWORKS} networks")

    members: dict[str, bytes] = {}
    networks = []
    for name, checkpoint in zip(_WEIGHTS, checkpoints, strict=False):
        _refuse_own_network(str(checkpoint["model_name"]))
        weights, aliases = _distinct(
            {key: value.detach().cpu().contiguous() for key, value in checkpoint["model"].items()}
        )
        settings = {key: checkpoint[key] for key in SETTING_KEYS if key in checkpoint}
        networks.append({**settings, "format": FORMAT, "aliases": aliases})
        members[name] = save(weights)

    stated = {"format": FORMAT, "networks": networks}
    members |= {
        _SETTINGS: json.dumps(stated, indent=1).encode(),
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


def read_archive(path: Path) -> list[dict[str, Any]]:
    """Read the checkpoints in an archive, each as `checkpoint.read_checkpoint` gives it.

    Raises HemsegError if there is none, FileFormatError naming the member and its fault.
    """
    members = _checked_members(path)
    stated = _json(path, _SETTINGS, members[_SETTINGS])
    if stated.get("format") != FORMAT:
        raise FileFormatError(
            f"{path}: {_SETTINGS}: format {str(stated.get('format'))[:40]} is not known to this "
            f"version of hemseg, which reads format {FORMAT}",
            hint="use the version of hemseg that wrote it, or export again",
        )

    # Settings and weights belong together one by one, none more and none fewer.
    networks = stated.get("networks")
    given = [name for name in _WEIGHTS if name in members]
    if not isinstance(networks, list) or not networks or set(stated) != {"format", "networks"}:
        raise FileFormatError(f"{path}: {_SETTINGS} lists no networks", hint=_HINT)
    if given != list(_WEIGHTS[: len(networks)]):
        raise FileFormatError(
            f"{path}: {_SETTINGS} lists {len(networks)} networks, the archive has weights of "
            f"{len(given)}",
            hint=_HINT,
        )
    return [
        _network(path, name, settings, members[name])
        for name, settings in zip(given, networks, strict=True)
    ]


def read_card(path: Path) -> dict[str, str]:
    """Read the texts that an archive says of itself, by member: README.md, NOTICE.txt ...

    HemsegError or FileFormatError as `read_archive`; every hash is checked, no network is read.
    """
    members = _checked_members(path)
    return {name: members[name].decode("utf-8", "replace") for name in _OPTIONAL if name in members}


def read_stated_settings(path: Path) -> list[CheckpointSettings]:
    """Read the settings of an archive's networks without their weights.

    HemsegError or FileFormatError as `read_archive`.
    """
    members = _checked_members(path)
    networks = _json(path, _SETTINGS, members[_SETTINGS]).get("networks")
    if not isinstance(networks, list) or not all(isinstance(one, dict) for one in networks):
        raise FileFormatError(f"{path}: {_SETTINGS} lists no networks", hint=_HINT)
    return [
        _settings(path, {key: value for key, value in one.items() if key != "aliases"})
        for one in networks
    ]


def _network(path: Path, name: str, stated: object, data: bytes) -> dict[str, Any]:
    """One network of an archive: its settings, and its weights from the member of that name."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not isinstance(stated, dict):
        raise FileFormatError(f"{path}: {_SETTINGS} is not a list of tables", hint=_HINT)
    aliases = stated.pop("aliases", {})
    settings = _settings(path, stated)
    try:
        weights = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise FileFormatError(f"{path}: {name} is not readable: {error}", hint=_HINT) from None

    _add_aliases(path, weights, aliases)
    _check_weights(path, settings, weights)
    return {**stated, "model": weights}


def _refuse_own_network(name: str) -> None:
    if name not in MODELS:
        raise HemsegError(
            f"the network {name} is your own, and an archive carries no code",
            hint="give the run folder on, with the package of the network",
        )


def _checked_members(path: Path) -> dict[str, bytes]:
    """The members of an archive by name, each of a known name, bounded, and with its hash."""
    if not path.is_file():
        raise HemsegError(f"no model archive {path}", hint="hemseg export   writes one")
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(path, archive)
    # zipfile raises the last three for packings, encryption and names that it does not know.
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError) as error:
        raise FileFormatError(
            f"{path} is damaged or no model archive: {error}", hint=_HINT
        ) from None
    _check_hashes(path, members)
    return members


def _add_aliases(path: Path, weights: dict[str, torch.Tensor], aliases: object) -> None:
    """Give the weights their other names back; FileFormatError where a name stands for nothing."""
    if not isinstance(aliases, dict):
        raise FileFormatError(f"{path}: {_SETTINGS}: aliases is not a table of names", hint=_HINT)

    owners = set(weights)
    for key, original in aliases.items():
        if key in weights or not isinstance(original, str) or original not in owners:
            raise FileFormatError(
                f"{path}: weight {key[:80]!r} is said to be {str(original)[:80]!r}, "
                "which is not so",
                hint=_HINT,
            )
        weights[key] = weights[original]


def _distinct(
    weights: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Keep each tensor once, and list the names that stand for one that is kept under another.

    DynUNet registers its blocks twice.
    """
    kept: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    owners: dict[tuple[int, tuple[int, ...]], str] = {}
    for key, value in weights.items():
        # Two names of one tensor share its memory.
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
                f"{path}: member {name!r} does not belong in a model archive, "
                "or stands in it twice",
                hint=_HINT,
            )
        most = _MOST_WEIGHT_BYTES if name in _WEIGHTS else _MOST_TEXT_BYTES
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
            raise FileFormatError(
                f"{path}: member {name} is packed or larger than {most} bytes", hint=_HINT
            )
        with archive.open(info) as member:
            found[name] = member.read(most + 1)
    missing = {_WEIGHTS[0], _SETTINGS, _HASHES} - set(found)
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
                f"{path}: {name} was changed: its SHA-256 is {actual}, "
                f"stated is {stated.get(name)}",
                hint=_HINT,
            )


def _settings(path: Path, stated: Mapping[str, Any]) -> CheckpointSettings:
    settings = read_settings(stated, f"{path}: {_SETTINGS}", hint=_HINT)
    unknown = sorted(set(stated) - set(SETTING_KEYS))
    if unknown:
        raise FileFormatError(f"{path}: {_SETTINGS} has an unknown {unknown[0]!r}", hint=_HINT)

    # Only the listed models: an archive may not name code, not even code that is installed here.
    if settings.model_name not in MODELS:
        raise FileFormatError(
            f"{path}: {_SETTINGS}: model_name = {settings.model_name!r} is no model of hemseg",
            hint="a network of your own is predicted from its run: hemseg predict --run RUN",
        )
    return settings


def _check_weights(
    path: Path, settings: CheckpointSettings, weights: Mapping[str, torch.Tensor]
) -> None:
    try:
        check_finite(weights)
        require_model(settings.model_name).family.check_weights(settings, weights)
    except (FileFormatError, UsageError) as error:  # UsageError: a model that is not known here
        raise FileFormatError(f"{path}: {error.message}", hint=error.hint or _HINT) from None


def _json(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: {name} is not valid JSON: {error}", hint=_HINT) from None
    if not isinstance(values, dict):
        raise FileFormatError(f"{path}: {name} is not a JSON object", hint=_HINT)
    return values
