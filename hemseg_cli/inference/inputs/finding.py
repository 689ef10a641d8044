"""What is to be predicted: the scans of a split, NIfTI files, DICOM series, or a mixture.

Each with the name its outputs get.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hemseg_cli.config.schema import DataConfig
from hemseg_cli.core.cases import Case, cases_in_split, read_cases
from hemseg_cli.core.errors import UsageError
from hemseg_cli.imaging.nifti import (
    nifti_stem,
)

if TYPE_CHECKING:
    from hemseg_cli.imaging.dicom.stack_checks import Uneven
    from hemseg_cli.imaging.dicom.tree import Series

_OURS = ("_mask.nii.gz", "_probability.nii.gz")
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class ScanInput:
    """One scan to predict: a NIfTI file, or a DICOM series in the folder `path` (its file names relative to it).

    `voxel_volume_mm3`: the true one, where the case table has it; `uneven`: refuse or resample, for
    uneven slice steps of a series.
    """

    name: str
    path: Path
    kind: Literal["nifti", "dicom"] = "nifti"
    voxel_volume_mm3: float | None = None
    series: "Series | None" = None
    uneven: "Uneven" = "refuse"

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

    sources: list[ScanInput]
    left_out: tuple[tuple[Path, str], ...] = ()


def split_inputs(data: DataConfig, split: str) -> list[ScanInput]:
    """The scans of a split, by the case table. No label is looked at."""
    return [
        _case_input(data.folder, split, case)
        for case in cases_in_split(read_cases(data.cases_file), split)
    ]


def path_inputs(inputs: Sequence[Path], *, uneven: "Uneven" = "refuse") -> Inputs:
    """Files, DICOM folders and folders of either, each scan once, under names that no two share.

    A DICOM series is named after its folder, and where that holds several, after folder and series.
    Masks and probabilities that `predict` itself wrote into a folder are left out; a file that is
    named is taken. UsageError for a folder without any image.
    """
    found: dict[Path, ScanInput] = {}
    left_out: dict[Path, str] = {}
    for given in inputs:
        series, others = _series_in(given, uneven) if given.is_dir() else ([], {})
        inside = (
            [*_nifti_in(given), *series]
            if given.is_dir()
            else [ScanInput(nifti_stem(given), given)]
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


def _case_input(folder: Path, split: str, case: Case) -> ScanInput:
    path = folder / (case.image or f"{split}/image/{case.scan}.nii.gz")
    return ScanInput(case.scan, path, voxel_volume_mm3=case.voxel_volume_mm3)


def _nifti_in(folder: Path) -> Iterator[ScanInput]:
    """The NIfTI files of a folder tree; hidden ones are left out."""
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if (
            not hidden
            and file.name.endswith(_NIFTI)
            and not file.name.endswith(_OURS)
            and file.is_file()
        ):
            yield ScanInput(nifti_stem(file), file)


def _series_in(folder: Path, uneven: "Uneven") -> tuple[list[ScanInput], dict[Path, str]]:
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
        ScanInput(
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


def _no_series(folder: Path, left_out: Mapping[Path, str]) -> ScanInput:
    """A folder of DICOM files that are no CT slices.

    A scan that fails, so that the others are done.
    """
    from hemseg_cli.imaging.dicom.tree import Series

    return ScanInput(
        folder.resolve().name,
        folder,
        kind="dicom",
        series=Series("", (), tuple((str(f), why) for f, why in left_out.items())),
    )


def _with_own_names(sources: Sequence[ScanInput]) -> list[ScanInput]:
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


def _longer_name(source: ScanInput, depth: int) -> str:
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
