"""Read the labels of an archive, taken by name from an allow-list.

Nothing is ever extracted by a name that the archive chose.
"""

import contextlib
import re
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hemseg_cli.core.cases import SPLITS
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.dataset.slices.zip_index import ZIP_DAMAGE, open_zip

MOST_LABEL_BYTES = 16 * 2**20
_MOST_MEMBERS = 100_000
_LABEL = re.compile(
    rf"(?P<root>[^/]+)/(?P<split>{'|'.join(SPLITS)})/label/(?P<scan>[0-9a-f]{{10}})\.nii\.gz"
)
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class LabelMember:
    """One label of the archive: packed NIfTI of `bytes` bytes with checksum `crc`."""

    scan: str
    split: str
    bytes: int
    crc: int
    name: str


class LabelArchive:
    """A label archive opened for reading; `members` are its labels by scan id.

    Opening refuses (FileFormatError naming the member): what is no zip, names that are absolute or
    hold `..` or a backslash, links, names that repeat or differ only in case, encrypted members,
    labels larger than a label can be, one scan in two places. Members that are no labels (a README)
    are left alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.ExitStack() as stack:
            self._zip = stack.enter_context(open_zip(path))
            self.members = _find_labels(path, self._zip.infolist())
            self._close = stack.pop_all()  # opened well: closed at the end of the block

    def read(self, member: LabelMember) -> bytes:
        """Read the member's bytes, checked against its size and checksum.

        FileFormatError if they differ.
        """
        try:
            with self._zip.open(member.name) as file:
                data = file.read(member.bytes + 1)
                if file.read(1):
                    raise FileFormatError(
                        f"{self._path}: {member.name} unpacks to more than its "
                        f"{member.bytes:,} bytes"
                    )
        except (*ZIP_DAMAGE, zlib.error) as error:
            raise FileFormatError(f"{self._path}: {member.name} is damaged: {error}") from None
        if len(data) != member.bytes or zlib.crc32(data) != member.crc:
            raise FileFormatError(
                f"{self._path}: {member.name} is damaged: {len(data):,} bytes, "
                f"checksum {zlib.crc32(data):08x}"
            )
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close.close()


def _find_labels(path: Path, infos: list[zipfile.ZipInfo]) -> dict[str, LabelMember]:
    if len(infos) > _MOST_MEMBERS:
        raise FileFormatError(
            f"{path} has {len(infos):,} members; no label archive has more than {_MOST_MEMBERS:,}"
        )
    seen: dict[str, str] = {}
    labels: dict[str, LabelMember] = {}
    for info in infos:
        name = info.orig_filename  # as stored: `filename` has been cut at a NUL
        _refuse_hostile(path, info, name)
        if name.lower() in seen:
            same = "twice" if seen[name.lower()] == name else f"and as {seen[name.lower()]!r}"
            raise FileFormatError(f"{path}: member {name!r} stands there {same}")
        seen[name.lower()] = name
        if match := _LABEL.fullmatch(name):
            if info.flag_bits & _ENCRYPTED:
                raise FileFormatError(f"{path}: member {name!r} is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise FileFormatError(
                    f"{path}: member {name!r} is packed by method {info.compress_type}, "
                    "which is neither stored nor deflated"
                )
            if info.file_size > MOST_LABEL_BYTES or info.compress_size > MOST_LABEL_BYTES:
                raise FileFormatError(
                    f"{path}: member {name!r} has {info.file_size:,} bytes; "
                    f"no label has more than {MOST_LABEL_BYTES:,}"
                )
            scan = match["scan"]
            if scan in labels:
                raise FileFormatError(
                    f"{path}: scan {scan} stands there as {labels[scan].name!r} and as {name!r}"
                )
            labels[scan] = LabelMember(scan, match["split"], info.file_size, info.CRC, name)
    if not labels:
        raise FileFormatError(
            f"{path} holds no labels",
            hint="they are named <folder>/{train,val,test}/label/<10 hex digits>.nii.gz",
        )
    return labels


def _refuse_hostile(path: Path, info: zipfile.ZipInfo, name: str) -> None:
    if (
        name.startswith("/")
        or "\\" in name
        or "\0" in name
        or re.match(r"[A-Za-z]:", name)
        or ".." in name.split("/")
    ):
        raise FileFormatError(
            f"{path}: member {name!r} would leave its folder; nothing was taken from this archive"
        )
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise FileFormatError(
            f"{path}: member {name!r} is a link or device; nothing was taken from this archive"
        )
