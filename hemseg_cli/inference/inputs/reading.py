"""Read a scan to predict, with the volume of its voxels and what is wrong with it."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import CaseError
from hemseg_cli.imaging.dicom.origin import UNKNOWN, Identity
from hemseg_cli.imaging.file_kind import Kind, file_kind, is_label_map
from hemseg_cli.imaging.geometry import (
    Affine,
    VoxelVolume,
    foreign_voxel_volume_mm3,
    header_voxel_volume_mm3,
    spacing_mm,
    tilt_deg,
    true_steps_mm,
)
from hemseg_cli.imaging.image_file import read_image
from hemseg_cli.imaging.nifti import Volume, read_nifti_header
from hemseg_cli.imaging.orientation import Reorientation, from_canonical, to_canonical
from hemseg_cli.imaging.sidecar import find_sidecar
from hemseg_cli.imaging.uneven import UnevenSlices, are_even, network_slices
from hemseg_cli.inference.inputs.scan_input import ScanInput

# A voxel volume below the header's by this share comes of a tilt of 0.8 degrees or more.
_TILT_SHOWS_FROM = 1e-4


@dataclass(frozen=True)
class Scan:
    """A scan in memory, brought to canonical axes once.

    `volume`: HU on canonical axes; `change`: how it came from the axes of its file, `file_affine`
    the affine there. `voxel_volume_mm3`: the true one. `header`: the NIfTI header of the input
    (None: another kind of file). `slices`: the DICOM file of each k of the file's axes, relative to
    the folder or zip `slices_in`. `uneven`: where slices at uneven steps lie; the affine then has
    the mean of the steps, and the voxel volume is their mean. `warnings` make a person look at the
    scan, `notes` are only said. `identity`: whose DICOM series it is. `true_affine`: of the file's
    axes, with the shear of a tilted gantry where it is known (None: the file's own affine).
    """

    volume: Volume
    change: Reorientation
    file_affine: Affine
    voxel_volume_mm3: float
    header: Any = None
    warnings: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    slices_in: Path = Path()
    identity: Identity = UNKNOWN
    uneven: UnevenSlices | None = None
    notes: tuple[str, ...] = ()
    true_affine: Affine | None = None

    @property
    def voxel_volumes_mm3(self) -> VoxelVolume:
        """The true volume of every voxel, or of each slice's, to broadcast to [i, j, k], mm3."""
        if self.uneven is None:
            return self.voxel_volume_mm3
        in_plane = np.delete(spacing_mm(self.volume.affine), self.uneven.axis)
        return self.uneven.voxel_volumes_mm3(float(np.prod(in_plane)))

    def at_even_steps(self) -> Volume:
        """Return the scan as a network takes it: uneven slices are interpolated to even steps."""
        if self.uneven is None:
            return self.volume
        return Volume(
            self.uneven.even(self.volume.array), self.uneven.even_affine(self.volume.affine)
        )

    def true_affine_at_even_steps(self) -> Affine:
        """Return where the voxels of `at_even_steps` lie, with the shear of a tilted gantry."""
        if self.true_affine is None:
            return self.at_even_steps().affine

        # The same index map leads from the file's axes to the canonical ones.
        to_file = np.linalg.inv(self.file_affine) @ self.volume.affine
        affine = np.asarray(self.true_affine @ to_file)
        return affine if self.uneven is None else self.uneven.even_affine(affine)

    def on_file_axes(self, array: NDArray[Any]) -> Volume:
        """Return an array on canonical axes as a volume on the axes of the input's file."""
        return Volume(from_canonical(array, self.change), self.file_affine)

    def file_slices(self, box: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the first and the last k of the file's axes in a box on canonical axes."""
        axis = self.change.axes.index(2)
        first, last = box[axis]
        if self.change.flipped[axis]:
            count = self.volume.array.shape[axis]
            first, last = count - 1 - last, count - 1 - first
        return first, last

    @contextlib.contextmanager
    def slice_files(self) -> Iterator[list[Path]]:
        """Give the DICOM slices as files; those of a zip are unpacked for as long as it lasts."""
        if not self.slices_in.is_file():
            yield [self.slices_in / name for name in self.slices]
            return

        from hemseg_cli.imaging.dicom.tree import Tree  # pydicom is slow to import

        with tempfile.TemporaryDirectory() as folder, Tree(self.slices_in) as tree:
            files = []
            for number, name in enumerate(self.slices):
                files.append(Path(folder) / f"{number:05d}.dcm")
                files[-1].write_bytes(tree.read(name))
            yield files


class LabelMapError(CaseError):
    """The image found in a folder holds labels, not CT numbers: it is left out."""


def read_scan(source: ScanInput, *, keep_identity: bool = False) -> Scan:
    """Read a scan, with its true voxel volume; of a series with the patient's elements if kept.

    FileFormatError or CaseError says what is wrong with it; LabelMapError that it is a label map.
    """
    if source.kind == "dicom":
        return _read_series(source, keep_identity)
    return _read_image(source)


def _read_image(source: ScanInput) -> Scan:
    volume = read_image(source.path)
    if not source.named and is_label_map(volume.array):
        raise LabelMapError(f"{source.path} is a label map, no scan")

    # The case table knows the true geometry of a split's scan, a sidecar that of a converted one.
    warnings: list[str] = []
    voxel_mm3 = source.voxel_volume_mm3
    true_affine = None if voxel_mm3 is None else _sheared(volume.affine, voxel_mm3)
    if voxel_mm3 is None:
        sidecar, warning = find_sidecar(source.path, volume)
        if sidecar is not None:
            voxel_mm3, true_affine = sidecar.voxel_volume_mm3, np.array(sidecar.true_affine)
        warnings += [warning] if warning else []
    if voxel_mm3 is None:
        voxel_mm3, warning = foreign_voxel_volume_mm3(volume.affine)
        warnings += [warning] if warning else []

    header = None
    if file_kind(source.path).kind is Kind.NIFTI:
        header = read_nifti_header(source.path)
    canonical, change = to_canonical(volume)
    return Scan(
        canonical,
        change,
        volume.affine,
        voxel_mm3,
        header,
        tuple(warnings),
        true_affine=true_affine,
    )


def _sheared(affine: Affine, voxel_volume_mm3: float) -> Affine | None:
    """The affine with the gantry's tilt, where the known voxel volume says that it was tilted."""
    if voxel_volume_mm3 > header_voxel_volume_mm3(affine) * (1 - _TILT_SHOWS_FROM):
        return None
    sheared = affine.copy()
    sheared[:3, :3] = true_steps_mm(affine, tilt_deg(affine))
    return sheared


def _read_series(source: ScanInput, keep_identity: bool) -> Scan:
    from hemseg_cli.imaging.dicom.hounsfield import PADDING_SET
    from hemseg_cli.imaging.dicom.identity import read_identity
    from hemseg_cli.imaging.dicom.series import read_series  # pydicom is slow to import
    from hemseg_cli.imaging.dicom.tree import Tree

    assert source.series is not None
    with Tree(source.path) as tree:
        volume, sidecar = read_series(tree, source.series, uneven="keep")
        with tree.open(source.series.files[0]) as file:
            identity = read_identity(file, keep=keep_identity)

    canonical, change = to_canonical(volume)
    uneven = _uneven_slices(np.array(sidecar.slice_positions_mm), change)
    # Padding is said, and is no reason for a person to look.
    padding = tuple(said for said in sidecar.warnings if said.startswith(PADDING_SET))
    return Scan(
        canonical,
        change,
        volume.affine,
        sidecar.voxel_volume_mm3,
        warnings=tuple(said for said in sidecar.warnings if said not in padding),
        slices=sidecar.source_slices,
        slices_in=source.path,
        identity=identity,
        uneven=uneven,
        notes=padding if uneven is None else (*padding, _uneven_note(uneven)),
        true_affine=np.array(sidecar.true_affine),
    )


def _uneven_slices(positions_mm: NDArray[np.float64], change: Reorientation) -> UnevenSlices | None:
    """Where the slices of a series lie on canonical axes; None where the steps are even."""
    if are_even(positions_mm):
        return None

    # A series is stacked along the last axis of its file.
    axis = change.axes.index(2)
    if change.flipped[axis]:
        positions_mm = (positions_mm[-1] - positions_mm)[::-1]
    return UnevenSlices(axis, positions_mm, network_slices(positions_mm))


def _uneven_note(uneven: UnevenSlices) -> str:
    steps = np.unique(np.round(np.diff(uneven.positions_mm), 2))
    shown = ", ".join(f"{step:.2f}" for step in steps[:6])
    more = f" and {len(steps) - 6} more" if len(steps) > 6 else ""
    return (
        f"uneven slice steps ({shown}{more} mm): the mask lies on the {len(uneven.positions_mm)} "
        "slices as they were acquired, and each counts with half the way to its neighbours"
    )
