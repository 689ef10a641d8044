"""Name scans after their files, so that no two share a name."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hemseg_cli.imaging.file_names import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from hemseg_cli.inference.inputs.scan_input import ScanInput

_SUFFIXES = (*IMAGE_SUFFIXES, ".gz", ".img", ".zip", ".dcm", ".ima")
# nnU-Net writes the number of the channel behind a scan's name; CT has one.
_FIRST_CHANNEL = "_0000"
_DEEPEST_FOLDER = 64


def image_stem(path: Path) -> str:
    """Return a scan's name: the file's without `.nii.gz` and the like, and nnU-Net's `_0000`."""
    name = path.name
    for _ in range(2):
        suffix = Path(name).suffix.lower()
        if suffix in _SUFFIXES and len(name) > len(suffix):
            name = name[: -len(suffix)]
    short = name.removesuffix(_FIRST_CHANNEL)
    return short or name


def with_own_names(sources: Sequence["ScanInput"]) -> list["ScanInput"]:
    """Make names unique: where two share one, those of the folders above are put before it.

    In one folder, the kind of file is put behind it.
    """
    named = list(sources)
    for depth in range(_DEEPEST_FOLDER):
        groups: dict[str, list[int]] = defaultdict(list)
        for index, source in enumerate(named):
            groups[source.name].append(index)

        shared = [group for group in groups.values() if len(group) > 1]
        if not shared:
            break
        for index in (index for group in shared for index in group):
            named[index] = replace(named[index], name=_longer_name(named[index], depth))
    return named


def _longer_name(source: "ScanInput", depth: int) -> str:
    if depth == 0:
        return f"{source.name}_{_kind_of_file(source)}" if _kind_of_file(source) else source.name

    above = source.path.resolve().parents
    if depth > len(above):
        return f"_{source.name}"
    return f"{above[depth - 1].name or 'root'}_{source.name}"


def _kind_of_file(source: "ScanInput") -> str:
    """What stands behind a name that several files of a folder share; nothing for `.nii.gz`."""
    if source.kind == "dicom":
        return "zip" if source.path.is_file() else "dicom"
    suffix = source.path.suffix.lower().lstrip(".")
    return "" if suffix == "gz" else suffix
