"""What is to be predicted: the scans of a split, NIfTI files, DICOM series, or a mixture.

Each with the name its outputs get.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hemseg_cli.config.schema import DataConfig
from hemseg_cli.core.cases import Case, cases_in_split, read_cases
from hemseg_cli.core.errors import CaseError, UsageError
from hemseg_cli.imaging.geometry import true_voxel_volume_mm3
from hemseg_cli.imaging.nifti import (
    Volume,
    nifti_stem,
    read_nifti_header,
    read_sidecar,
    read_volume,
)

if TYPE_CHECKING:
    from hemseg_cli.imaging.dicom.tree import Series

_OURS = ("_mask.nii.gz", "_probability.nii.gz")
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Source:
    """One scan to predict: a NIfTI file, or a DICOM series in the folder `path` (its file names relative to it).

    `voxel_volume_mm3`: the true one, where the case table has it; `uneven`: refuse or resample, for
    uneven slice steps of a series.
    """

    name: str
    path: Path
    kind: Literal["nifti", "dicom"] = "nifti"
    voxel_volume_mm3: float | None = None
    series: "Series | None" = None
    uneven: str = "refuse"

    @property
    def files(self) -> list[Path]:
        """The files that it is made of."""
        return (
            [self.path / name for name in self.series.files]
            if self.series is not None
            else [self.path]
        )


@dataclass(frozen=True)
class Inputs:
    """The scans found, and (file, reason) of each DICOM file that is no slice of one.

    Localizers, other modalities, no images.
    """

    sources: list[Source]
    left_out: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True)
class Scan:
    """A scan in memory.

    `header`: the NIfTI header of the input (None: DICOM); `voxel_volume_mm3`: the true one;
    `slices`: the DICOM file of each k (none where the volume was interpolated to even steps between
    them).
    """

    volume: Volume
    voxel_volume_mm3: float
    header: Any = None
    warnings: tuple[str, ...] = ()
    slices: tuple[Path, ...] = ()


def split_sources(data: DataConfig, split: str) -> list[Source]:
    """The scans of a split, by the case table. No label is looked at."""
    return [
        _case_source(data.folder, split, case)
        for case in cases_in_split(read_cases(data.cases_file), split)
    ]


def path_sources(inputs: Sequence[Path], *, uneven: str = "refuse") -> Inputs:
    """Files, DICOM folders and folders of either, each scan once, under names that no two share.

    A DICOM series is named after its folder, and where that holds several, after folder and series.
    Masks and probabilities that `predict` itself wrote into a folder are left out; a file that is
    named is taken. UsageError for a folder without any image.
    """
    found: dict[Path, Source] = {}
    left_out: dict[Path, str] = {}
    for given in inputs:
        series, others = _series_in(given, uneven) if given.is_dir() else ([], {})
        inside = (
            [*_nifti_in(given), *series] if given.is_dir() else [Source(nifti_stem(given), given)]
        )
        if not inside and not others:
            raise UsageError(
                f"{given} holds no .nii, no .nii.gz and no DICOM files",
                hint="give image files or folders of them",
            )
        for source in inside or [_no_series(given, others)]:
            found.setdefault(
                source.files[0].resolve() if source.files else source.path.resolve(), source
            )
        left_out |= others
    return Inputs(_with_own_names(list(found.values())), tuple(left_out.items()))


def read_scan(source: Source) -> Scan:
    """Read a scan, with its true voxel volume.

    FileFormatError or CaseError says what is wrong with it.
    """
    if source.kind == "dicom":
        return _read_series(source)
    if not source.path.is_file():
        raise CaseError(
            f"{source.path} does not exist", hint="hemseg convert   makes the images of a data set"
        )
    volume = read_volume(source.path)
    voxel = source.voxel_volume_mm3
    if voxel is None:
        sidecar = read_sidecar(source.path) or {}
        stored = sidecar.get("voxel_volume_mm3")
        voxel = (
            float(stored)
            if isinstance(stored, int | float) and stored > 0
            else true_voxel_volume_mm3(volume.affine)
        )
    return Scan(volume, voxel, read_nifti_header(source.path))


def _case_source(folder: Path, split: str, case: Case) -> Source:
    path = folder / (case.image or f"{split}/image/{case.scan}.nii.gz")
    return Source(case.scan, path, voxel_volume_mm3=case.voxel_volume_mm3)


def _nifti_in(folder: Path) -> Iterator[Source]:
    """The NIfTI files of a folder tree; hidden ones are left out."""
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if (
            not hidden
            and file.name.endswith(_NIFTI)
            and not file.name.endswith(_OURS)
            and file.is_file()
        ):
            yield Source(nifti_stem(file), file)


def _series_in(folder: Path, uneven: str) -> tuple[list[Source], dict[Path, str]]:
    """The CT series of a folder tree, and why each other DICOM file is left out."""
    from hemseg_cli.imaging.dicom.tree import (
        NOT_DICOM,
        Tree,
        find_series,
    )  # pydicom is slow to import

    with Tree(folder) as tree:
        listing = find_series(tree)
    by_place: dict[Path, list[Series]] = defaultdict(list)
    for series in listing.series:
        place = os.path.commonpath([os.path.dirname(name) for name in series.files])
        files = tuple(os.path.relpath(name, place or ".") for name in series.files)
        unreadable = tuple(
            (os.path.relpath(name, place or "."), reason) for name, reason in series.unreadable
        )
        by_place[folder / place].append(replace(series, files=files, unreadable=unreadable))
    sources = [
        Source(
            f"{place.resolve().name}_{series.name}" if len(together) > 1 else place.resolve().name,
            place,
            kind="dicom",
            series=series,
            uneven=uneven,
        )
        for place, together in sorted(by_place.items())
        for series in together
    ]
    return sources, {
        folder / name: reason for name, reason in listing.left_out if reason != NOT_DICOM
    }


def _no_series(folder: Path, left_out: Mapping[Path, str]) -> Source:
    """A folder of DICOM files that are no CT slices.

    A scan that fails, so that the others are done.
    """
    from hemseg_cli.imaging.dicom.tree import Series

    return Source(
        folder.resolve().name,
        folder,
        kind="dicom",
        series=Series("", (), tuple((str(f), why) for f, why in left_out.items())),
    )


def _with_own_names(sources: Sequence[Source]) -> list[Source]:
    """Where two share a name, the names of the folders above are put before it.

    In one folder, the kind of file behind it.
    """
    named = list(sources)
    for depth in range(64):
        groups: dict[str, list[int]] = defaultdict(list)
        for index, source in enumerate(named):
            groups[source.name].append(index)
        for group in (group for group in groups.values() if len(group) > 1):
            for index in group:
                named[index] = replace(named[index], name=_longer_name(named[index], depth))
    return named


def _longer_name(source: Source, depth: int) -> str:
    if depth == 0:
        ending = (
            "dicom" if source.kind == "dicom" else "nii" if source.path.suffix == ".nii" else ""
        )
        return f"{source.name}_{ending}" if ending else source.name
    above = source.path.resolve().parents
    return (
        f"{above[depth - 1].name or 'root'}_{source.name}"
        if depth <= len(above)
        else f"_{source.name}"
    )


def _read_series(source: Source) -> Scan:
    from hemseg_cli.imaging.dicom.series import read_series  # pydicom is slow to import
    from hemseg_cli.imaging.dicom.tree import Tree

    if source.series is None or not source.series.files:
        reasons = (
            sorted({reason for _, reason in source.series.unreadable})
            if source.series is not None
            else []
        )
        raise CaseError(
            f"{source.path} holds no CT series ({', '.join(reasons[:6])})",
            hint="give a folder of the slices of a head CT",
        )
    with Tree(source.path) as tree:
        volume, sidecar = read_series(tree, source.series, uneven=source.uneven)
    in_order = (
        ()
        if sidecar["interpolated"]
        else tuple(source.path / name for name in sidecar["source_slices"])
    )
    return Scan(
        volume, float(sidecar["voxel_volume_mm3"]), None, tuple(sidecar["warnings"]), in_order
    )
