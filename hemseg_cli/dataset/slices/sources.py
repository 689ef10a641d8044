"""Where the DICOM slices come from: a folder, a zip on this disk, a zip behind a URL, or Kaggle.

One interface, by slice id.

A source is opened once, pickled into the workers, and opens its file or connection there when the
first slice is asked for.
"""

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from hemseg_cli.config import Config
from hemseg_cli.core.errors import CaseError, FileFormatError, HemsegError, UsageError
from hemseg_cli.core.executor import default_workers
from hemseg_cli.dataset.labels.manifest import SLICE_ID
from hemseg_cli.dataset.slices.zip_index import Member, SliceIndex, read_member

_SUBFOLDERS = ("stage_2_train", "rsna-intracranial-hemorrhage-detection/stage_2_train")


class SliceSource(Protocol):
    """Slices by id (9 hexadecimal digits). CaseError names a slice that is missing or damaged."""

    @property
    def place(self) -> str:
        """What to call it in messages."""
        ...

    def read(self, slice_id: str) -> bytes:
        """One slice's DICOM file."""
        ...

    def read_many(self, slice_ids: Sequence[str]) -> list[bytes]:
        """The files of one scan, in the order asked; a remote source moves several at once."""
        ...

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Those that the source does not have, in the order asked."""
        ...

    def sizes(self, slice_ids: Sequence[str]) -> dict[str, int]:
        """Bytes to move for each slice that is there: the file's, or the packed member's.

        0 where it has been loaded before.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def open_source(config: Config) -> SliceSource:
    """The source that `convert.dicom` names.

    UsageError where it is not set, HemsegError where it is not there.
    """
    dicom = config.convert.dicom
    if dicom is None:
        raise UsageError(
            "no DICOM source",
            hint="--dicom FOLDER|FILE.zip|https://...zip|kaggle   or convert.dicom in hemseg.toml",
        )
    if dicom == "kaggle" or "://" in dicom:
        return _remote_source(dicom, config)
    path = Path(dicom)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return ZipSource(path, config.data.folder / ".cache" / "zip-index")
    raise HemsegError(
        f"--dicom {dicom} does not exist",
        hint="a folder of ID_*.dcm files, the Kaggle zip, https://...zip, or kaggle",
    )


def _remote_source(dicom: str, config: Config) -> SliceSource:
    # requests is slow to import: a folder or a local zip does without it.
    from hemseg_cli.dataset.labels.source import http_settings
    from hemseg_cli.dataset.slices import kaggle
    from hemseg_cli.dataset.slices.http_ranges import RangeSettings
    from hemseg_cli.dataset.slices.remote_zip import RemoteZipSource

    settings, url = RangeSettings(http_settings(config)), dicom
    if dicom == "kaggle":
        url = kaggle.archive_url(config.convert.kaggle_url)
        secret = dataclasses.replace(settings.http, header=kaggle.authorization(), header_for=url)
        settings = RangeSettings(secret, kaggle.EXPLAIN)
    workers = config.compute.workers if config.compute.workers is not None else default_workers()
    connections = max(1, config.convert.connections // max(1, workers))
    return RemoteZipSource(url, config.data.folder / ".cache", settings, connections=connections)


def checked(slice_id: str) -> str:
    """The id, if it is one: no path or lookup is made from anything else. CaseError otherwise."""
    if not SLICE_ID.fullmatch(slice_id):
        raise CaseError(f"slice id {slice_id[:80]!r} is not 9 hexadecimal digits")
    return slice_id


def not_there(slice_id: str, place: str) -> CaseError:
    """The error for a slice that the source does not have."""
    return CaseError(
        f"slice {slice_id} is not in {place}",
        hint="hemseg convert --dry-run   counts what is missing",
    )


class KeptIndex:
    """The index of the archive at `place`, built once and kept in `file`.

    Travels to a worker as the file's name alone.
    """

    def __init__(self, place: str, file: Path, build: Callable[[], SliceIndex]) -> None:
        self._place, self._file = place, file
        self._index = SliceIndex.load(file)
        if self._index is None:
            build().save(file)

    def find(self, slice_id: str) -> Member | None:
        """The member of a slice, None where there is none."""
        if self._index is None:
            self._index = SliceIndex.load(self._file)
        if self._index is None:
            raise HemsegError(
                f"the index {self._file} of {self._place} went away", hint="run the command again"
            )
        return self._index.find(checked(slice_id))

    def member(self, slice_id: str) -> Member:
        """The member of a slice; CaseError where there is none."""
        member = self.find(slice_id)
        if member is None:
            raise not_there(slice_id, self._place)
        return member

    def members(self, slice_ids: Sequence[str]) -> list[Member]:
        """Those that are there."""
        return [member for member in map(self.find, slice_ids) if member is not None]

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Ids without a member."""
        return [slice_id for slice_id in slice_ids if self.find(slice_id) is None]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_index": None}


class FolderSource:
    """`ID_<id>.dcm` in a folder, or in the `stage_2_train/` below it."""

    def __init__(self, folder: Path) -> None:
        below = [folder / name for name in _SUBFOLDERS]
        self._folder = next((path for path in below if path.is_dir()), folder)

    @property
    def place(self) -> str:
        """The folder."""
        return str(self._folder)

    def read(self, slice_id: str) -> bytes:
        """One file."""
        try:
            with open(self._path(slice_id), "rb", buffering=0) as file:
                return file.read()
        except FileNotFoundError:
            raise not_there(slice_id, self.place) from None
        except OSError as error:
            raise CaseError(
                f"slice {slice_id}: cannot read {error.filename}: {error.strerror}"
            ) from None

    def read_many(self, slice_ids: Sequence[str]) -> list[bytes]:
        """The files, one after the other."""
        return [self.read(slice_id) for slice_id in slice_ids]

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Ids without a file."""
        return [slice_id for slice_id in slice_ids if not os.path.isfile(self._path(slice_id))]

    def sizes(self, slice_ids: Sequence[str]) -> dict[str, int]:
        """File sizes."""
        sizes = {}
        for slice_id in slice_ids:
            try:
                sizes[slice_id] = os.stat(self._path(slice_id)).st_size
            except FileNotFoundError:
                continue
        return sizes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def _path(self, slice_id: str) -> str:
        return os.path.join(self._folder, f"ID_{checked(slice_id)}.dcm")


class ZipSource:
    """A zip on this disk, read in place: nothing is unpacked. Its index is kept in `cache`."""

    def __init__(self, path: Path, cache: Path) -> None:
        self._path = path
        state = path.stat()
        key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
        file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        self._file: int | None = None
        self._index = KeptIndex(str(path), file, self._build)

    @property
    def place(self) -> str:
        """The archive."""
        return str(self._path)

    def read(self, slice_id: str) -> bytes:
        """One member."""
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY)
        return read_member(self.place, self._index.member(slice_id), self._read_at)

    def read_many(self, slice_ids: Sequence[str]) -> list[bytes]:
        """The members, one after the other."""
        return [self.read(slice_id) for slice_id in slice_ids]

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Ids without a member."""
        return self._index.missing(slice_ids)

    def sizes(self, slice_ids: Sequence[str]) -> dict[str, int]:
        """Packed sizes."""
        return {member.slice_id: member.packed for member in self._index.members(slice_ids)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}  # opened anew where it is read

    def _build(self) -> SliceIndex:
        try:
            with zipfile.ZipFile(self._path) as archive:
                return SliceIndex.build(self.place, archive.infolist())
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise FileFormatError(
                f"{self._path} is not a zip archive: {error}", hint="copy or download it again"
            ) from None

    def _read_at(self, offset: int, size: int) -> bytes:
        assert self._file is not None
        return os.pread(self._file, size, offset)
