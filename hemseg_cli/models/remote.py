"""Download model archives that somebody shares, and keep each under its SHA-256.

`https://HOST/model.zip#sha256=HEX` names a file of a web server, `hf:OWNER/NAME@REVISION` the
`model.zip` of a repository on the Hugging Face hub (`HF_ENDPOINT` names a mirror of it, as for the
hub's own client). The hash has to be given the first time: a server may send something else
tomorrow. From then on the address alone stands for the archive that it stood for then.

The hub's own client is not used: it keeps files by the hub's names and checks no hash that the user
gives, and our own asking has deadlines (`core.http`).
"""

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import typer

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.core.files import atomic_path, cannot_write, read_json, remove_leftovers, write_json

if TYPE_CHECKING:
    from hemseg_cli.core.http import Client

_HUB = "https://huggingface.co"
_HUB_PREFIX = "hf:"
_HUB_FILE = "model.zip"
# Where the hub sends those who ask for a large file.
_HUB_HOSTS = (
    "cdn-lfs.huggingface.co",
    "cdn-lfs-us-1.hf.co",
    "cdn-lfs-eu-1.hf.co",
    "cas-bridge.xethub.hf.co",
)
_HUB_NAME = re.compile(r"hf:(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)@(?P<revision>[\w./-]+)")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 32 << 30  # several networks of the largest kind


@dataclass(frozen=True)
class CachedModel:
    """A downloaded archive. `address`: where it came from, without query and hash."""

    file: Path
    address: str
    sha256: str

    @property
    def name(self) -> str:
        """A name for the run that its masks go into: of the address, and the hash's first signs."""
        stem = Path(urlsplit(self.address.removeprefix(_HUB_PREFIX)).path).stem
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"
        return f"{plain[:80]}-{self.sha256[:8]}"


@dataclass(frozen=True)
class _Address:
    """What `--run` names: the address as it is kept, the URL to ask, and the hash if given."""

    text: str
    url: str
    sha256: str
    hosts: tuple[str, ...] = ()


def is_remote(name: str) -> bool:
    """Whether the name of a model is an address of a server or of the hub."""
    return name.startswith(_HUB_PREFIX) or "://" in name


def models_folder(config: Config) -> Path:
    """The folder of the downloaded models: `runs.models`, else in the user's own folder."""
    return config.runs.models or Path(typer.get_app_dir("hemseg")) / "models"


def fetch_model(config: Config, name: str) -> CachedModel:
    """The archive at an address, downloaded unless it is kept already.

    UsageError where the address is none or no hash pins it, FileFormatError with both hashes where
    the server sends another file, HemsegError where it cannot be reached.
    """
    address = _parse(name)
    folder = models_folder(config)
    kept = [
        model
        for model in cached_models(folder)
        if (model.sha256 == address.sha256 if address.sha256 else model.address == address.text)
    ]
    if kept:
        _check_hash(kept[0].file, kept[0].sha256, place=str(kept[0].file))
        return kept[0]
    if not address.sha256:
        raise UsageError(
            f"--run {address.text}: no SHA-256 says which archive this is",
            hint=f"--run '{address.text}#sha256=...'   with the 64 hexadecimal digits that its "
            "author states; needed the first time only",
        )

    model = CachedModel(folder / f"{address.sha256}.zip", address.text, address.sha256)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from None
    remove_leftovers(folder)
    _download(config, address, model.file)
    # The note comes last: an archive without one is downloaded again, never half known.
    write_json(_note(model.file), {"address": model.address, "sha256": model.sha256})
    return model


def cached_models(folder: Path) -> list[CachedModel]:
    """The models that are kept in the folder, by address."""
    found = []
    for note in sorted(folder.glob("*.json")):
        file = note.with_suffix(".zip")
        with contextlib.suppress(HemsegError):  # a damaged note: its archive is downloaded again
            stated = read_json(note)
            address = stated.get("address") if isinstance(stated, dict) else None
            if isinstance(address, str) and _SHA256.fullmatch(note.stem) and file.is_file():
                found.append(CachedModel(file, address, note.stem))
    return sorted(found, key=lambda model: (model.address, model.sha256))


def _note(file: Path) -> Path:
    return file.with_suffix(".json")


def _parse(name: str) -> _Address:
    from hemseg_cli.core.http import check_url, shown

    text, mark, fragment = name.partition("#")
    digest = fragment.removeprefix("sha256=").lower()
    if mark and not (fragment.startswith("sha256=") and _SHA256.fullmatch(digest)):
        raise UsageError(
            f"--run {shown(text)}: what follows # is not sha256= and 64 hexadecimal digits",
            hint="sha256sum model.zip   prints them",
        )

    if not text.startswith(_HUB_PREFIX):
        check_url(text)
        return _Address(shown(text), text, digest)
    match = _HUB_NAME.fullmatch(text)
    if match is None or ".." in text:
        raise UsageError(
            f"--run {text[:200]!r} is not of the form hf:OWNER/NAME@REVISION",
            hint="the revision is a tag or a commit of the repository: a branch moves on",
        )
    hub = os.environ.get("HF_ENDPOINT", _HUB).rstrip("/")
    place = f"{match['owner']}/{match['name']}/resolve/{quote(match['revision'], safe='')}"
    return _Address(text, f"{hub}/{place}/{_HUB_FILE}", digest, _HUB_HOSTS)


def _download(config: Config, address: _Address, target: Path) -> None:
    """Download to `target`, which appears only once its hash is right."""
    from hemseg_cli.core.http import Client, http_settings, shown

    settings = http_settings(config)
    settings = replace(settings, hosts=(*settings.hosts, *address.hosts))
    with contextlib.closing(Client(settings)) as client, atomic_path(target) as temporary:
        client.retry(
            shown(address.url),
            lambda one: _receive(one, address.url, temporary),
            hint="run the same command again, or download the archive by hand: --run FILE.zip",
        )
        _check_hash(temporary, address.sha256, place=shown(address.url))


def _receive(client: "Client", url: str, temporary: Path) -> None:
    from hemseg_cli.core.http import announced_bytes, read_body, shown

    with client.get(url) as (response, _):
        announced = announced_bytes(response)
        if announced is not None and announced > _MOST_BYTES:
            raise HemsegError(
                f"{shown(url)}: {announced:,} bytes; no model is that large; refused",
                hint="name the archive that hemseg export wrote",
            )
        received = 0
        with (
            console.live("download model", total=announced or 0, unit="B") as track,
            temporary.open("wb") as file,
        ):
            for piece in read_body(
                response, timeout_s=client.settings.timeout_s, limit=_MOST_BYTES
            ):
                received += len(piece)
                file.write(piece)
                track.update(done=received)
    # A connection that ends early is tried again; a wrong hash is not.
    if announced is not None and received < announced:
        raise ConnectionError(f"the connection closed after {received:,} of {announced:,} bytes")


def _check_hash(file: Path, expected: str, *, place: str) -> None:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise HemsegError(f"cannot read {place}: {error.strerror or error}") from None
    if found != expected:
        raise FileFormatError(
            f"{place} is not the archive that was asked for; refused\n"
            f"  sha256 expected {expected}\n  sha256 found    {found}",
            hint="ask its author for the hash; a kept archive that was changed: delete it",
        )
