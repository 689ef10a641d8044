"""Find the scans to predict: of a split, in files, in folders and zips of NIfTI, DICOM and others.

What a file is, its content decides. Every file that is given and is no scan is named with a reason.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hemseg_cli.config.schema import DataConfig, NameRule
from hemseg_cli.core.cases import cases_in_split, read_cases
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.imaging.file_kind import Kind, file_kind, is_label_map
from hemseg_cli.imaging.file_names import IMAGE_SUFFIXES
from hemseg_cli.imaging.file_tree import walk_files
from hemseg_cli.imaging.image_file import read_image
from hemseg_cli.inference.inputs.naming import image_stem, with_own_names
from hemseg_cli.inference.inputs.naming_rules import named_by
from hemseg_cli.inference.inputs.scan_input import ScanInput

if TYPE_CHECKING:
    from hemseg_cli.imaging.dicom.tree import Listing, Series

WRITTEN_BY_US = ("_mask.nii.gz", "_probability.nii.gz", "_upright.nii.gz")
"""How the names of files end that `predict` writes, and that are no scans."""

_OURS_REASON = "a mask, probability or upright copy that hemseg predict wrote"
LABEL_MAP = "a label map, no scan"
# Folder and file names that make a look at the voxels worth while before a scan is named.
_LABEL_WORDS = ("label", "mask", "seg", "truth", "annot", "gt")


@dataclass(frozen=True)
class LeftOut:
    """A file that was given and is not predicted, and why."""

    file: Path
    reason: str


@dataclass(frozen=True)
class Inputs:
    """The scans found, and each file that was given and is none."""

    sources: list[ScanInput]
    left_out: tuple[LeftOut, ...] = ()


def split_inputs(data: DataConfig, split: str) -> list[ScanInput]:
    """List the scans of a split by the case table. No label is looked at."""
    return [
        ScanInput(
            case.scan,
            data.folder / (case.image or f"{split}/image/{case.scan}.nii.gz"),
            voxel_volume_mm3=case.voxel_volume_mm3,
            named=True,
        )
        for case in cases_in_split(read_cases(data.cases_file), split)
    ]


def path_inputs(
    inputs: Sequence[Path], *, name_by: NameRule = "folder", names_in: Path | None = None
) -> Inputs:
    """List the scans in files, folders and zips, each once, under names that no two share.

    A DICOM series is named by `name_by` (`naming_rules`): after its folder or zip, and where that
    holds several, after both; `names_in`: the folder whose key makes the names of series
    (`core.names_key`). Masks that `predict` wrote and label maps are left out of a folder; a file
    that is named is taken.
    UsageError for a folder without any scan.
    """
    found: dict[tuple[Path, str], ScanInput] = {}
    left_out: dict[Path, str] = {}

    for given in inputs:
        place = Path(os.path.expanduser(given))
        inside, others = _in_folder(place) if place.is_dir() else _named(place)
        if not inside:
            inside = [_without_scan(given, others, alone=len(inputs) == 1)]
        for source in inside:
            # Two names of one content are two scans, a folder by two ways is one.
            file = source.path.parent.resolve() / source.path.name
            found.setdefault((file, _series_key(source)), source)
        left_out |= others

    # A file that one input leaves out may be named by another.
    taken = {source.path for source in found.values()}
    named = tuple(LeftOut(file, why) for file, why in left_out.items() if file not in taken)
    sources = named_by(list(found.values()), name_by, names_in)
    return Inputs(with_own_names(sources), named)


def _series_key(source: ScanInput) -> str:
    return "\n".join(source.series.files) if source.series is not None else ""


def _without_scan(given: Path, left_out: dict[Path, str], *, alone: bool) -> ScanInput:
    """A scan that fails, for a folder or zip without any; UsageError where it is the only input."""
    reasons = sorted(set(left_out.values()))
    what = f" ({', '.join(reasons[:6])})" if reasons else ""
    problem = f"{given} holds no head CT, as an image file or a CT series{what}"
    if alone:
        raise UsageError(problem, hint="give image files, DICOM slices, or folders or zips of them")
    return ScanInput(given.resolve().name, given, kind="dicom", problem=problem)


def _named(file: Path) -> tuple[list[ScanInput], dict[Path, str]]:
    """The scans of a file that is given by its name; what cannot be read fails when it is read."""
    image = ScanInput(image_stem(file), file, named=True)
    if not file.exists():
        return [image], {}

    kind = file_kind(file).kind
    if kind is Kind.ZIP:
        return _series_in(file, named=True)
    if kind is Kind.DICOM:
        from hemseg_cli.imaging.dicom.tree import Series  # pydicom is slow to import

        series = Series(image_stem(file), (file.name,))
        return [replace(image, path=file.parent, kind="dicom", series=series)], {}
    return [image], {}


def _in_folder(folder: Path) -> tuple[list[ScanInput], dict[Path, str]]:
    """The scans of a folder tree, and why each other entry is left out."""
    walked = walk_files(folder)
    sources: list[ScanInput] = []
    left_out = dict(walked.left_out)
    has_dicom = False

    for file in walked.files:
        found = file_kind(file)
        if found.is_volume and file.name.endswith(WRITTEN_BY_US):
            left_out[file] = _OURS_REASON
        elif found.is_volume:
            sources.append(ScanInput(image_stem(file), file))
        elif found.kind is Kind.ZIP:
            inside, others = _series_in(file)
            sources += inside
            left_out |= others
        elif found.kind is Kind.DICOM:
            has_dicom = True
        elif file.name.lower().endswith(IMAGE_SUFFIXES):
            sources.append(ScanInput(image_stem(file), file, problem=f"{file}: {found.reason}"))
        else:
            left_out[file] = found.reason

    sources, labels = _without_label_maps(folder, sources)
    left_out |= labels
    if has_dicom:
        series, others = _series_in(folder)
        sources += series
        left_out |= {file: why for file, why in others.items() if file not in left_out}
        taken = {source.path for source in sources if source.kind == "image"}
        left_out = {file: why for file, why in left_out.items() if file not in taken}
    return sources, left_out


def _without_label_maps(
    folder: Path, sources: list[ScanInput]
) -> tuple[list[ScanInput], dict[Path, str]]:
    """Leave label maps out where names say that there may be some.

    Voxels are looked at for images whose name, or that of a folder above, speaks of labels, and for
    those that share a name. A label map under another name is left out when it is read.
    """
    sharing: dict[str, int] = defaultdict(int)
    for source in sources:
        sharing[source.name] += 1

    scans, labels = [], {}
    for source in sources:
        words = source.path.relative_to(folder).as_posix().lower()
        suspect = sharing[source.name] > 1 or any(word in words for word in _LABEL_WORDS)
        if suspect and _is_label_map(source.path):
            labels[source.path] = LABEL_MAP
        else:
            scans.append(source)
    return scans, labels


def _is_label_map(file: Path) -> bool:
    try:
        return is_label_map(read_image(file).array)
    except HemsegError:  # said when its turn comes
        return False


def _series_in(root: Path, *, named: bool = False) -> tuple[list[ScanInput], dict[Path, str]]:
    """The CT series of a folder tree or zip, and why each other DICOM file is left out."""
    from hemseg_cli.imaging.dicom.tree import NOT_DICOM, Tree, find_series  # slow to import

    try:
        with Tree(root) as tree:
            listing = find_series(tree)
    except FileFormatError as error:
        if not named:
            return [], {root: error.message}
        return [
            ScanInput(image_stem(root), root, kind="dicom", named=True, problem=error.message)
        ], {}

    left_out = {
        root / name: reason
        for name, reason in listing.left_out
        if root.is_file() or reason != NOT_DICOM
    }
    if root.is_file():
        return _zip_series(root, listing, named), left_out
    return _folder_series(root, listing), left_out


def _zip_series(root: Path, listing: "Listing", named: bool) -> list[ScanInput]:
    stem = image_stem(root)
    return [
        ScanInput(
            f"{stem}_{series.name}" if len(listing.series) > 1 else stem,
            root,
            kind="dicom",
            series=series,
            named=named,
        )
        for series in listing.series
    ]


def _folder_series(root: Path, listing: "Listing") -> list[ScanInput]:
    """Each series in the smallest folder that holds it, and named after that."""
    by_place: dict[Path, list[Series]] = defaultdict(list)
    for series in listing.series:
        place = os.path.commonpath([os.path.dirname(name) for name in series.files])
        inside = tuple(os.path.relpath(name, place or ".") for name in series.files)
        unreadable = tuple(
            (os.path.relpath(name, place or "."), reason) for name, reason in series.unreadable
        )
        by_place[root / place].append(replace(series, files=inside, unreadable=unreadable))

    return [
        ScanInput(
            f"{place.resolve().name}_{series.name}" if len(together) > 1 else place.resolve().name,
            place,
            kind="dicom",
            series=series,
        )
        for place, together in sorted(by_place.items())
        for series in together
    ]
