"""What a layout is: it recognises a folder and finds the scans in it; nothing is read or written.

A new layout is one module with a class that satisfies `Layout`, and one row in `layouts.LAYOUTS`.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hemseg_cli.core.errors import FileFormatError, UsageError
from hemseg_cli.core.files import read_json
from hemseg_cli.core.printable import printable

NIFTI_SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class ImportRequest:
    """What the user asks for. `source` is the folder; the rest stands for options of that name."""

    source: Path | None
    name: str
    layout: str | None = None
    images: Path | None = None
    labels: Path | None = None
    table: Path | None = None
    classes: str | None = None
    patient_from: str | None = None
    rater: str | None = None
    copy: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class FoundScan:
    """One scan of the source: its image and its label files.

    `labels` are several where several people drew them (`raters` then names each) or where each
    class has a file (`label_values`: its value). `patient` and `split` are empty where the
    source does not say.
    """

    name: str
    image: Path
    labels: tuple[Path, ...]
    raters: tuple[str, ...] = ()
    label_values: tuple[int, ...] = ()
    patient: str = ""
    split: str = ""


@dataclass(frozen=True)
class Findings:
    """What a layout found.

    `left_out`: file -> why it is not taken. `rules`: what was assumed, a line each for the user.
    `class_names`: value in the label files -> its name in the source, where the source says.
    """

    scans: tuple[FoundScan, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    class_names: Mapping[int, str] | None = None


class Layout(Protocol):
    """A way in which people lay out images and labels."""

    def recognises(self, source: Path) -> bool:
        """Tell whether a folder looks like this layout."""
        ...

    def find(self, request: ImportRequest) -> Findings:
        """Find the scans; FileFormatError or UsageError where the folder is not of this layout."""
        ...


def source_folder(request: ImportRequest) -> Path:
    """Return the folder of the request; UsageError where none was named or it is none."""
    if request.source is None:
        raise UsageError("no SOURCE", hint="hemseg import FOLDER --name mydata")
    if not request.source.is_dir():
        raise UsageError(
            f"{printable(str(request.source))} is not a folder",
            hint="unpack an archive first; SOURCE is the folder that holds the scans",
        )
    return request.source


def nifti_files(folder: Path) -> list[Path]:
    """List the NIfTI files of a folder by name, whatever the case of their suffix; none hidden."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if is_nifti_name(path.name) and path.is_file())


def walk_folders(root: Path) -> Iterator[Path]:
    """Yield a folder and all below it in order of name; links are followed, loops ended."""
    seen: set[str] = set()
    for path, folders, _ in os.walk(root, followlinks=True):
        real = os.path.realpath(path)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(path)


def is_nifti_name(name: str) -> bool:
    """Tell whether a file is called like a NIfTI file and is not hidden."""
    return name.lower().endswith(NIFTI_SUFFIXES) and not name.startswith(".")


def read_description(path: Path) -> dict[str, Any]:
    """Read a `dataset.json`; FileFormatError where it is not a JSON object."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise FileFormatError(f"{path} is not a JSON object")
    return values


def check_one_ct_channel(path: Path, channels: Any) -> None:
    """Refuse a data set of several channels, or of one that is no CT.

    `channels`: `channel_names` or `modality` of a `dataset.json`, None where it says nothing.
    """
    if channels is None:
        return
    names = list(channels.values()) if isinstance(channels, dict) else [channels]
    shown = ", ".join(printable(str(name))[:40] for name in names[:6])
    if len(names) != 1:
        raise FileFormatError(
            f"{path}: {len(names)} channels ({shown})",
            hint="only data sets of one CT channel are imported",
        )
    if "ct" not in str(names[0]).lower().replace("-", " ").split():
        raise FileFormatError(
            f"{path}: the channel is {shown}, not CT",
            hint="this program is for head CT; --images DIR --labels DIR takes the files anyway",
        )
