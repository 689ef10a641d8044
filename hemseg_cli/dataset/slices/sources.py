"""Read DICOM slices by id from a folder, a zip on this disk, a zip behind a URL, or Kaggle.

A source is opened once, pickled into the workers, and opens its file or connection there when the
first slice is asked for.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from hemseg_cli.config import Config
from hemseg_cli.core.errors import CaseError, HemsegError, UsageError
from hemseg_cli.core.executor import default_workers
from hemseg_cli.dataset.slices.kept_index import KeptIndex, check_slice_id, missing_slice
from hemseg_cli.dataset.slices.zip_index import SliceIndex, open_zip, read_member

_SUBFOLDERS = ("stage_2_train", "rsna-intracranial-hemorrhage-detection/stage_2_train")


class SliceSource(Protocol):
    """Slices by id (9 hexadecimal digits). CaseError names a slice that is missing or damaged."""

    @property
    def place(self) -> str:
        """What to call it in messages."""
        ...

    def read(self, slice_id: str) -> bytes:
        """Read one slice's DICOM file."""
        ...

    def read_many(self, slice_ids: Sequence[str]) -> list[bytes]:
        """Read the files of one scan, in the order asked; a remote source moves several at once."""
        ...

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Return the ids that the source does not have, in the order asked."""
        ...

    def sizes(self, slice_ids: Sequence[str]) -> dict[str, int]:
        """Bytes to move for each slice that is there: the file's, or the packed member's.

        0 where it has been loaded before.
        """
        ...

    def forget(self, slice_ids: Sequence[str]) -> None:
        """Remove what was kept of slices that are not needed any more."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_exception: object) -> None: ...


def open_source(config: Config) -> SliceSource:
    """Open the source that `convert.dicom` names.

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
        return ZipSource(path, config.data.directory.cache / "zip-index")
    raise HemsegError(
        f"--dicom {dicom} does not exist",
        hint="a folder of ID_*.dcm files, the Kaggle zip, https://...zip, or kaggle",
    )


def _remote_source(dicom: str, config: Config) -> SliceSource:
    # requests is slow to import: a folder or a local zip does without it.
    from hemseg_cli.core.http import http_settings
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
    return RemoteZipSource(url, config.data.directory.cache, settings, connections=connections)


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
        """Read one file."""
        try:
            with open(self._path(slice_id), "rb", buffering=0) as file:
                return file.read()
        except FileNotFoundError:
            raise missing_slice(slice_id, self.place) from None
        except OSError as error:
            raise CaseError(
                f"slice {slice_id}: cannot read {error.filename}: {error.strerror}"
            ) from None

    def read_many(self, slice_ids: Sequence[str]) -> list[bytes]:
        """Read the files, one after the other."""
        return [self.read(slice_id) for slice_id in slice_ids]

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Return the ids without a file."""
        return [slice_id for slice_id in slice_ids if not os.path.isfile(self._path(slice_id))]

    def sizes(self, slice_ids: Sequence[str]) -> dict[str, int]:
        """Return the sizes of the files."""
        sizes = {}
        for slice_id in slice_ids:
            try:
                sizes[slice_id] = os.stat(self._path(slice_id)).st_size
            except FileNotFoundError:
                continue
        return sizes

    def forget(self, slice_ids: Sequence[str]) -> None:
        """Do nothing: the files are the user's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        return None

    def _path(self, slice_id: str) -> str:
        return os.path.join(self._folder, f"ID_{check_slice_id(slice_id)}.dcm")


class ZipSource:
    """A zip on this disk, read in place: nothing is unpacked. Its index is kept in `cache`."""

    def __init__(self, path: Path, cache: Path) -> None:
        self._path = path
        state = path.stat()
        key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}"
        file = cache / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:16]}.npy"
        self._file: int | None = None
        self._index = KeptIndex(str(path), file, self._build)

    @property
    def place(self) -> str:
        """The archive."""
        return str(self._path)

    def read(self, slice_id: str) -> bytes:
        """Read one member."""
        if self._file is None:
            self._file = os.open(self._path, os.O_RDONLY)
        return read_member(self.place, self._index.member(slice_id), self._read_at)

    def read_many(self, slice_ids: Sequence[str]) -> list[bytes]:
        """Read the members, one after the other."""
        return [self.read(slice_id) for slice_id in slice_ids]

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Return the ids without a member."""
        return self._index.missing(slice_ids)

    def sizes(self, slice_ids: Sequence[str]) -> dict[str, int]:
        """Return the packed sizes."""
        return {member.slice_id: member.packed for member in self._index.members(slice_ids)}

    def forget(self, slice_ids: Sequence[str]) -> None:
        """Do nothing: the archive is the user's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}  # opened anew where it is read

    def _build(self) -> SliceIndex:
        with open_zip(self._path) as archive:
            return SliceIndex.build(self.place, archive.infolist())

    def _read_at(self, offset: int, size: int) -> bytes:
        assert self._file is not None
        return os.pread(self._file, size, offset)
