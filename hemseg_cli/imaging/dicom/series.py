"""Read a head CT from DICOM slices, in Hounsfield units on the grid that ITK's reader would give.

The pieces: `slice` (one file), `stack` (order, geometry, what has to agree), `hounsfield`
(rescale and repairs).
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from hemseg_cli.core.errors import CaseError, FileFormatError
from hemseg_cli.imaging import geometry as geometry_of
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.faults import Faults
from hemseg_cli.imaging.dicom.hounsfield import HuSummary, to_hu
from hemseg_cli.imaging.dicom.slice import Slice, read_frames
from hemseg_cli.imaging.dicom.stack import Stack, stack
from hemseg_cli.imaging.dicom.stack_checks import Uneven
from hemseg_cli.imaging.dicom.tree import Series, Tree
from hemseg_cli.imaging.hounsfield import PADDING_HU
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.resampling import resample_planes
from hemseg_cli.imaging.sidecar import GeometryKind, Sidecar, matrix_rows
from hemseg_cli.imaging.uneven import even_positions_mm
from hemseg_cli.imaging.upright import image_on, upright_grid


def read_slices(scan: str, ids: Iterable[str], read: Callable[[str], bytes]) -> list[Slice]:
    """Read the slices of a scan, `read` giving the bytes of each file.

    CaseError names every one that cannot be used, and why.
    """
    slices, faults = [], Faults()
    with quiet_pydicom():
        for name in dict.fromkeys(ids):
            try:
                slices += read_frames(read(name), name)
            except (FileFormatError, CaseError) as error:
                faults.add(
                    error.message.removeprefix(f"slice {name}").lstrip(": "), [name], error.hint
                )
            except OSError as error:
                faults.add(f"cannot be read ({error.strerror or error})", [name])
    faults.raise_if_any(scan)
    return slices


def assemble(
    scan: str,
    slices: list[Slice],
    *,
    patient: str = "",
    uneven: Uneven = "refuse",
    repair: bool = True,
) -> tuple[Volume, Sidecar]:
    """Make one volume [i, j, k], int16 HU, on ITK's grid (RAS affine), and its sidecar.

    The sidecar says what is known of it beyond that grid; where slices lie at uneven steps, its
    `slice_positions_mm` say where (`imaging.uneven`). With `uneven` keep the grid has the slices
    as they were acquired, with the mean of their steps. CaseError where the slices do not make one
    volume (see `stack`). `slices` is emptied: each one's bytes are let go once used.
    """
    ordered = stack(scan, slices, uneven=uneven)
    given = len(slices)
    slices.clear()

    hu, summary, notes = to_hu(ordered.slices, repair=repair)
    interpolated = not ordered.even and uneven == "resample"
    if interpolated:
        notes.append(
            f"uneven slice steps: {hu.shape[0]} slices interpolated to {ordered.even_count} "
            "at even steps"
        )
        even = even_positions_mm(ordered.distances_mm, ordered.even_count)
        hu = resample_planes(hu, ordered.distances_mm, even)

    volume = Volume(hu.transpose(2, 1, 0), ordered.label_affine(hu.shape[0]))
    sidecar = _sidecar(scan, patient, volume, ordered, given, summary, notes)
    return volume, dataclasses.replace(sidecar, interpolated=interpolated)


def read_series(
    tree: Tree,
    series: Series,
    *,
    uneven: Uneven = "refuse",
    geometry: GeometryKind = "label",
    repair: bool = True,
) -> tuple[Volume, Sidecar]:
    """Read one series of a tree as a volume with its sidecar; CaseError names the files at fault.

    `geometry`: label for ITK's grid, true for an upright one (a scan without tilt is the same in
    both).
    """
    if series.unreadable:
        faults = Faults()
        for name, reason in series.unreadable:
            faults.add(
                f"a file beside the series, perhaps one of its slices: {reason}",
                [name],
                "copy the file again, or remove it",
            )
        faults.raise_if_any(series.name)

    slices = read_slices(series.name, series.files, tree.read)
    volume, sidecar = assemble(series.name, slices, uneven=uneven, repair=repair)
    return upright(volume, sidecar) if geometry == "true" else (volume, sidecar)


def upright(volume: Volume, sidecar: Sidecar) -> tuple[Volume, Sidecar]:
    """Resample a volume of `assemble` onto an upright grid, air outside, and say so in its sidecar.

    Without tilt nothing is resampled.
    """
    true = np.array(sidecar.true_affine)
    if not geometry_of.is_sheared(true):
        return volume, dataclasses.replace(sidecar, geometry="true")

    i, j, k = volume.array.shape
    grid = upright_grid((i, j, k), true)
    image = image_on(grid, Volume(volume.array, true), outside=PADDING_HU)
    x, y, z = geometry_of.spacing_mm(grid.affine)
    told = dataclasses.replace(
        sidecar,
        shape=grid.shape,
        spacing_mm=(round(x, 6), round(y, 6), round(z, 6)),
        tilt_deg=round(geometry_of.tilt_deg(grid.affine), 4),
        gantry_tilt_deg=sidecar.tilt_deg,
        slice_distance_mm=round(z, 6),
        voxel_volume_mm3=geometry_of.header_voxel_volume_mm3(grid.affine),
        affine=matrix_rows(grid.affine),
        true_affine=matrix_rows(grid.affine),
        geometry="true",
        warnings=(
            *sidecar.warnings,
            f"tilted by {sidecar.tilt_deg:g} degrees: resampled onto an upright grid",
        ),
    )
    return Volume(image, grid.affine), told


def _sidecar(
    scan: str,
    patient: str,
    volume: Volume,
    ordered: Stack,
    given: int,
    summary: HuSummary,
    notes: list[str],
) -> Sidecar:
    i, j, k = volume.array.shape
    true = ordered.true_affine(k)
    x, y, z = geometry_of.spacing_mm(volume.affine)
    return Sidecar(
        scan=scan,
        patient=patient,
        shape=(i, j, k),
        spacing_mm=(round(x, 6), round(y, 6), round(z, 6)),
        tilt_deg=round(geometry_of.tilt_deg(true), 4),
        slice_distance_mm=round(ordered.length_mm / (k - 1), 6),
        voxel_volume_mm3=geometry_of.header_voxel_volume_mm3(true),
        affine=matrix_rows(volume.affine),
        true_affine=matrix_rows(true),
        hu_min=summary.hu_min,
        hu_max=summary.hu_max,
        share_air=summary.share_air,
        share_brain=summary.share_brain,
        share_bone=summary.share_bone,
        source_slices=tuple(one.name for one in ordered.slices),
        slices_given=given,
        slice_positions_mm=tuple(np.round(ordered.distances_mm, 4).tolist()),
        interpolated=False,
        geometry="label",
        warnings=(*ordered.warnings, *notes),
    )
