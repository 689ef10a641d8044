"""Read a scan to predict, with the volume of its voxels and what is wrong with it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.geometry import foreign_voxel_volume_mm3
from hemseg_cli.imaging.nifti import Volume, read_nifti_header, read_sidecar, read_volume
from hemseg_cli.inference.inputs.finding import ScanInput


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


def read_scan(source: ScanInput) -> Scan:
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
    voxel, warning = source.voxel_volume_mm3, ""
    if voxel is None:
        sidecar = read_sidecar(source.path) or {}
        stored = sidecar.get("voxel_volume_mm3")
        if isinstance(stored, int | float) and stored > 0:
            voxel = float(stored)
        else:
            voxel, warning = foreign_voxel_volume_mm3(volume.affine)
    return Scan(
        volume, voxel, read_nifti_header(source.path), warnings=(warning,) if warning else ()
    )


def _read_series(source: ScanInput) -> Scan:
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
