"""Any tree of DICOM files, a folder or a zip.

Grouped into scans, with everything that is no CT slice named and left out.
"""

import contextlib
import hashlib
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from pydicom.dataset import FileDataset

from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.imaging.bounded_files import open_regular
from hemseg_cli.imaging.dicom.elements import quiet_pydicom, read_head, text_value, unsigned
from hemseg_cli.imaging.dicom.grouping import (
    LOCALIZER_REASON,
    SliceHeader,
    group_into_scans,
    slice_header,
)
from hemseg_cli.imaging.file_kind import HEAD_BYTES, kind_of
from hemseg_cli.imaging.file_tree import walk_files

_LARGEST_FILE_BYTES = 2**30
_LARGE_FILE_BYTES = 16 * 2**20  # a slice of 2048 x 2048 pixels of 32 bits
_HIDDEN = "hidden (its name begins with a dot)"
NOT_DICOM = "not a DICOM file"
_ENCRYPTED = 1  # bit of a zip member's flags


@dataclass(frozen=True)
class Series:
    """Hold one scan: its name, its files, and unreadable files beside them.

    The name is made of the series' number and a digest of its UID: no free text.
    """

    name: str
    files: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Listing:
    """Hold what a tree has: series by name, and (file, reason) of what is left out."""

    series: tuple[Series, ...]
    left_out: tuple[tuple[str, str], ...]


class Tree:
    """Read the files of a folder, or of a zip in place.

    Names are relative, with forward slashes. Use it as a context manager.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._zip: zipfile.ZipFile | None = None
        if root.is_file():
            try:
                self._zip = zipfile.ZipFile(root)
            except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
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
        """Return every regular file, in order of name; links to folders are followed."""
        return self.entries()[0]

    def entries(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Return every regular file in order of name, and (entry, reason) of what is none."""
        if self._zip is None:
            found = walk_files(self._root)
            return (
                sorted(path.relative_to(self._root).as_posix() for path in found.files),
                [
                    (path.relative_to(self._root).as_posix(), reason)
                    for path, reason in found.left_out.items()
                ],
            )

        names = sorted({entry.filename for entry in self._zip.infolist() if not entry.is_dir()})
        hidden = {
            name
            for name in names
            if any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
        }
        return (
            [name for name in names if name not in hidden],
            [(name, _HIDDEN) for name in sorted(hidden)],
        )

    @property
    def is_zip(self) -> bool:
        """Whether the tree is a zip, not a folder."""
        return self._zip is not None

    def size(self, name: str) -> int:
        """Return the bytes of one file."""
        if self._zip is not None:
            return self._zip.getinfo(name).file_size
        return (self._root / name).stat().st_size

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open one file as a stream; a broken zip member is an OSError."""
        if self._zip is None:
            with open_regular(self._root / name) as file:
                yield file
            return

        if self._zip.getinfo(name).flag_bits & _ENCRYPTED:
            raise OSError(0, "it needs a password: unpack the zip")
        try:
            with self._zip.open(name) as member:
                yield cast(BinaryIO, member)
        except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(0, f"damaged zip member: {error}") from None

    def read(self, name: str) -> bytes:
        """Return one file's bytes, of a large one no more than its own header accounts for.

        FileFormatError for more than 1 GiB of image.
        """
        size = self.size(name)
        if size > _LARGE_FILE_BYTES:
            with quiet_pydicom(), self.open(name) as file:
                size = min(size, _LARGE_FILE_BYTES + 2 * _announced_bytes(read_head(file)))
        if size > _LARGEST_FILE_BYTES:
            raise FileFormatError("larger than 1 GiB")

        with self.open(name) as file:
            return file.read(size)


def find_series(tree: Tree) -> Listing:
    """Group a tree's files into scans; nothing but headers is read."""
    headers: list[SliceHeader] = []
    names, others = tree.entries()
    left_out: list[tuple[str, str]] = list(others)
    broken: dict[str, list[tuple[str, str]]] = defaultdict(list)

    with quiet_pydicom():
        for name in console.progress(names, label="headers"):
            try:
                dataset = _head(tree, name)
            except FileFormatError as error:
                is_other = error.message == NOT_DICOM and tree.is_zip
                left_out.append((name, _what_else(tree, name) if is_other else error.message))
                if error.message != NOT_DICOM and _may_be_slice(name):
                    broken[_folder(name)].append((name, error.message))
                continue

            reason = _why_not(dataset, name)
            if reason:
                left_out.append((name, reason))
            else:
                headers.append(slice_header(dataset, name, _folder(name)))

    scans, localizers = group_into_scans(headers)
    left_out += [(one.file, LOCALIZER_REASON) for one in localizers]
    series = _named_series(scans, broken)
    return Listing(tuple(sorted(series, key=lambda one: one.name)), tuple(left_out))


def _announced_bytes(dataset: FileDataset) -> int:
    """Return how many bytes of pixels a header announces at most, 32 bits a pixel."""
    frames = text_value(dataset, "frames")
    count = int(frames) if frames.isdigit() and len(frames) < 6 else 1
    rows, columns = unsigned(dataset, "rows") or 0, unsigned(dataset, "columns") or 0
    return 4 * count * rows * columns


def _named_series(
    scans: Sequence[Sequence[SliceHeader]], broken: dict[str, list[tuple[str, str]]]
) -> list[Series]:
    """Name each scan by its series; where one series holds several, by what keeps them apart."""
    of_series: dict[str, list[Sequence[SliceHeader]]] = defaultdict(list)
    for slices in scans:
        of_series[slices[0].series[2]].append(slices)

    return [
        _series(uid if len(together) == 1 else _identity(slices), slices, broken)
        for uid, together in of_series.items()
        for slices in together
    ]


def _identity(slices: Sequence[SliceHeader]) -> str:
    """Return a text that only these slices give: it does not change when others are added."""
    first = min(slices, key=lambda one: one.file)
    parts: list[object] = [
        *first.series,
        first.size,
        first.spacing,
        sorted(first.acquisition.items()),
    ]
    if first.place is not None:
        parts.append([round(float(part), 2) for part in first.place[1]])
    return repr(parts) + ("" if first.place is not None else first.file)


def _series(
    identity: str, slices: Sequence[SliceHeader], broken: dict[str, list[tuple[str, str]]]
) -> Series:
    digest = hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:10]
    number = slices[0].series_number
    is_number = number.isascii() and number.isdigit() and len(number) < 8
    prefix = f"series-{int(number):03d}-" if is_number else "series-"

    files = sorted(one.file for one in slices)
    beside = [
        fault
        for folder in sorted({_folder(name) for name in files})
        for fault in broken.get(folder, [])
    ]
    return Series(prefix + digest, tuple(files), tuple(beside))


def _head(tree: Tree, name: str) -> FileDataset:
    """Parse everything before the pixels of one file of a tree."""
    try:
        with tree.open(name) as file:
            return read_head(file)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise FileFormatError(f"unreadable ({why})") from None


def _what_else(tree: Tree, name: str) -> str:
    """Say what a member of a zip is that is no DICOM file: nobody else looks into it."""
    try:
        with tree.open(name) as file:
            found = kind_of(file.read(HEAD_BYTES))
    except OSError:
        return NOT_DICOM
    return (
        found.reason or f"a {found.kind.value} file in a zip, where DICOM alone is read: unpack it"
    )


def _why_not(dataset: FileDataset, name: str) -> str:
    """Say why a readable DICOM file is no slice of a CT series; empty where it is one."""
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

    has_place = dataset.get_item("ImagePositionPatient") is not None
    is_secondary = len(kinds) > 1 and kinds[1] == "SECONDARY"
    if "SCREEN SAVE" in kinds or (is_secondary and not has_place):
        return "a secondary capture without a place in the patient"
    return ""


def _may_be_slice(name: str) -> bool:
    """Tell by its name: DICOM files end in .dcm, .ima, a number, or nothing at all."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix in ("", ".dcm", ".dicom", ".dic", ".ima") or suffix[1:].isdigit()


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.as_posix()
