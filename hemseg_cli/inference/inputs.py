"""What is to be predicted: the scans of a split, NIfTI files, DICOM folders, or a mixture; each with the name its outputs get."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hemseg_cli.cases import Case, cases_in_split, read_cases
from hemseg_cli.config.data import DataConfig
from hemseg_cli.errors import CaseError, UsageError
from hemseg_cli.imaging.geometry import true_voxel_volume_mm3
from hemseg_cli.imaging.volume import Volume, nifti_stem, read_nifti_header, read_sidecar, read_volume

_OURS = ("_mask.nii.gz", "_probability.nii.gz")
_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Source:
    """One scan to predict: a NIfTI file or the folder of a DICOM series. `voxel_volume_mm3`: the true one, where the case table has it."""

    name: str
    path: Path
    kind: Literal["nifti", "dicom"] = "nifti"
    voxel_volume_mm3: float | None = None


@dataclass(frozen=True)
class Scan:
    """A scan in memory.

    `header`: the NIfTI header of the input (None: DICOM); `voxel_volume_mm3`: the true one; `slices`: the DICOM file of each k.
    """

    volume: Volume
    voxel_volume_mm3: float
    header: Any = None
    warnings: tuple[str, ...] = ()
    slices: tuple[Path, ...] = ()


def split_sources(data: DataConfig, split: str) -> list[Source]:
    """The scans of a split, by the case table. No label is looked at."""
    return [_case_source(data.folder, split, case) for case in cases_in_split(read_cases(data.cases_file), split)]


def path_sources(inputs: Sequence[Path]) -> list[Source]:
    """Files, DICOM folders and folders of either, each scan once, under names that no two share.

    Masks and probabilities that `predict` itself wrote into a folder are left out; a file that is named is taken. UsageError for a
    folder without any image.
    """
    found: dict[Path, Source] = {}
    for given in inputs:
        inside = list(_in_folder(given)) if given.is_dir() else [Source(nifti_stem(given), given)]
        if not inside:
            raise UsageError(f"{given} holds no .nii, no .nii.gz and no DICOM files", hint="give image files or folders of them")
        for source in inside:
            found.setdefault(source.path.resolve(), source)
    return _with_own_names(list(found.values()))


def read_scan(source: Source) -> Scan:
    """Read a scan, with its true voxel volume. FileFormatError or CaseError says what is wrong with it."""
    if source.kind == "dicom":
        return _read_series(source)
    if not source.path.is_file():
        raise CaseError(f"{source.path} does not exist", hint="hemseg convert   makes the images of a data set")
    volume = read_volume(source.path)
    voxel = source.voxel_volume_mm3
    if voxel is None:
        sidecar = read_sidecar(source.path) or {}
        stored = sidecar.get("voxel_volume_mm3")
        voxel = float(stored) if isinstance(stored, int | float) and stored > 0 else true_voxel_volume_mm3(volume.affine)
    return Scan(volume, voxel, read_nifti_header(source.path))


def _case_source(folder: Path, split: str, case: Case) -> Source:
    path = folder / (case.image or f"{split}/image/{case.scan}.nii.gz")
    return Source(case.scan, path, voxel_volume_mm3=case.voxel_volume_mm3)


def _in_folder(folder: Path) -> Iterator[Source]:
    """The NIfTI files of a folder tree, and each folder in it that holds DICOM files; hidden ones are left out."""
    for path in [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]:
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        for file in files:
            if file.name.endswith(_NIFTI) and not file.name.endswith(_OURS):
                yield Source(nifti_stem(file), file)
        if any(_is_dicom(file) for file in files):
            yield Source(path.resolve().name, path, kind="dicom")


def _is_dicom(file: Path) -> bool:
    """DICOM PS3.10 section 7.1: `DICM` after a preamble of 128 bytes."""
    if file.suffix.lower() == ".dcm":
        return True
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"


def _with_own_names(sources: Sequence[Source]) -> list[Source]:
    """Where two share a name, the names of the folders above are put before it; in one folder, the kind of file behind it."""
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
        ending = "dicom" if source.kind == "dicom" else "nii" if source.path.suffix == ".nii" else ""
        return f"{source.name}_{ending}" if ending else source.name
    above = source.path.resolve().parents
    return f"{above[depth - 1].name or 'root'}_{source.name}" if depth <= len(above) else f"_{source.name}"


def _read_series(source: Source) -> Scan:
    from hemseg_cli.imaging.dicom import assemble, read_slices  # pydicom is slow to import

    files = [file.name for file in sorted(source.path.iterdir()) if file.is_file() and not file.name.startswith(".") and _is_dicom(file)]
    slices = read_slices(source.name, files, lambda name: (source.path / name).read_bytes())
    volume, sidecar = assemble(source.name, slices)
    in_order = tuple(source.path / name for name in sidecar["source_slices"])
    return Scan(volume, float(sidecar["voxel_volume_mm3"]), None, tuple(sidecar["warnings"]), in_order)
