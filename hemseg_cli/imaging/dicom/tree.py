"""Any tree of DICOM files, a folder or a zip.

Grouped by series, with everything that is no CT slice named and left out.
"""

import contextlib
import hashlib
import stat
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from pydicom import dcmread
from pydicom.dataset import FileDataset

from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.imaging.dicom.slice import (
    DAMAGE,
    TAG_LIST,
    looks_like_dicom,
    quiet_pydicom,
    text_value,
)

_LARGEST_FILE = 2**30
_HEAD_BYTES = 132


@dataclass(frozen=True)
class Series:
    """One series: a name made of its number and a digest of its UID (no free text), its files, and unreadable files beside them."""

    name: str
    files: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Listing:
    """What a tree holds: series by name, and (file, reason) of what is left out."""

    series: tuple[Series, ...]
    left_out: tuple[tuple[str, str], ...]


class Tree:
    """The files of a folder, or of a zip read in place; names are relative, with forward slashes.

    Use it as a context manager.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._zip: zipfile.ZipFile | None = None
        if root.is_file():
            try:
                self._zip = zipfile.ZipFile(root)
            except (zipfile.BadZipFile, NotImplementedError) as error:
                raise FileFormatError(
                    f"{root} is neither a folder nor a zip file: {error}"
                ) from None
        elif not root.is_dir():
            raise HemsegError(
                f"{root} does not exist",
                hint="--dicom names a folder of DICOM files, or a zip of one",
            )

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def names(self) -> list[str]:
        """Every regular file (a pipe or a device would block), in order of name.

        Hidden ones of a folder are left out.
        """
        if self._zip is not None:
            return sorted({entry.filename for entry in self._zip.infolist() if not entry.is_dir()})
        found = ((path, path.relative_to(self._root)) for path in self._root.rglob("*"))
        return sorted(
            name.as_posix()
            for path, name in found
            if not any(part.startswith(".") for part in name.parts) and _is_regular(path)
        )

    def size(self, name: str) -> int:
        """Bytes of one file."""
        return (
            self._zip.getinfo(name).file_size
            if self._zip is not None
            else (self._root / name).stat().st_size
        )

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One file as a stream; a broken zip member is an OSError."""
        try:
            with (
                self._zip.open(name)
                if self._zip is not None
                else (self._root / name).open("rb") as file
            ):
                yield cast(BinaryIO, file)
        except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(0, f"damaged or encrypted zip member: {error}") from None

    def read(self, name: str) -> bytes:
        """One file's bytes; files of more than 1 GiB are no CT slices."""
        if self.size(name) > _LARGEST_FILE:
            raise FileFormatError("larger than 1 GiB")
        with self.open(name) as file:
            return file.read(_LARGEST_FILE)


def find_series(tree: Tree) -> Listing:
    """Group a tree's files by series; nothing but headers is read."""
    groups: dict[str, list[str]] = defaultdict(list)
    numbers: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    broken: dict[str, list[tuple[str, str]]] = defaultdict(list)
    with quiet_pydicom():
        for name in console.progress(tree.names(), label="headers"):
            try:
                dataset = _head(tree, name)
            except FileFormatError as error:
                left_out.append((name, error.message))
                if error.message != NOT_DICOM and _may_be_slice(name):
                    broken[_folder(name)].append((name, error.message))
                continue
            reason = _why_not(dataset, name)
            if reason:
                left_out.append((name, reason))
                continue
            key = text_value(dataset, "series") or f"folder {_folder(name)}"
            groups[key].append(name)
            numbers.setdefault(key, text_value(dataset, "series_number"))
    series = [_series(key, numbers[key], files, broken) for key, files in groups.items()]
    return Listing(tuple(sorted(series, key=lambda one: one.name)), tuple(left_out))


NOT_DICOM = "not a DICOM file"


def _series(
    key: str, number: str, files: list[str], broken: dict[str, list[tuple[str, str]]]
) -> Series:
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    prefix = (
        f"series-{int(number):03d}-"
        if number.isascii() and number.isdigit() and len(number) < 8
        else "series-"
    )
    beside = [
        fault
        for folder in sorted({_folder(name) for name in files})
        for fault in broken.get(folder, [])
    ]
    return Series(prefix + digest, tuple(files), tuple(beside))


def _head(tree: Tree, name: str) -> FileDataset:
    """Everything before the pixels.

    FileFormatError with a reason that quotes nothing of the file.
    """
    try:
        with tree.open(name) as file:
            head = file.read(_HEAD_BYTES)
            if not head:
                raise FileFormatError("the file is empty (0 bytes)")
            if not looks_like_dicom(head):
                raise FileFormatError(NOT_DICOM)
            file.seek(0)
            return dcmread(
                file, specific_tags=TAG_LIST, stop_before_pixels=True, force=head[128:] != b"DICM"
            )
    except FileFormatError:
        raise
    except DAMAGE as error:
        raise FileFormatError(f"unreadable ({type(error).__name__})") from None


def _why_not(dataset: FileDataset, name: str) -> str:
    """Why a readable DICOM file is no slice of a CT series; empty where it is one."""
    if PurePosixPath(name).name.upper() == "DICOMDIR":
        return "an index (DICOMDIR)"
    modality = text_value(dataset, "modality")
    if modality not in ("", "CT"):
        return f"modality {modality[:16]}, not CT" if modality.isalnum() else "not CT"
    if dataset.get_item("Rows") is None or dataset.get_item("Columns") is None:
        return "not an image"
    kinds = text_value(dataset, "image_type").upper().split("\\")
    if "LOCALIZER" in kinds or "SCOUT" in kinds:
        return "a localizer"
    if text_value(dataset, "photometric") not in ("", "MONOCHROME2", "MONOCHROME1"):
        return "a colour image (secondary capture)"
    if "SCREEN SAVE" in kinds or (
        len(kinds) > 1
        and kinds[1] == "SECONDARY"
        and dataset.get_item("ImagePositionPatient") is None
    ):
        return "a secondary capture without a place in the patient"
    return ""


def _may_be_slice(name: str) -> bool:
    """By its name: DICOM files end in .dcm, .ima, a number, or nothing at all."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in ("", ".dcm", ".dicom", ".dic", ".ima") or suffix[1:].isdigit()


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
