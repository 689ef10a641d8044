"""Check one scan: its label, its image, and whether the two and the case table agree."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.cases import Case
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import CaseError, FileFormatError
from hemseg_cli.core.names import first_few
from hemseg_cli.imaging.geometry import (
    SAME_GRID_MM,
    grid_distance_mm,
    tilt_deg,
    true_voxel_volume_mm3,
)
from hemseg_cli.imaging.label_values import whole_labels
from hemseg_cli.imaging.nifti import NiftiHeader, Volume, read_nifti_header, read_volume
from hemseg_cli.imaging.orientation import match_axes

_VOLUME_TOLERANCE = 1e-3  # relative; the case table rounds


@dataclass(frozen=True)
class Fault:
    """Something that makes numbers wrong. `kind`: a word of `KINDS`."""

    scan: str
    kind: str
    message: str


KINDS = ("missing label", "unreadable", "odd values", "grid mismatch", "sform/qform", "case table")


@dataclass(frozen=True)
class ScanCheck:
    """A scan to check: its row of the case table, its data set, and the values a label may hold."""

    data: DataDirectory
    case: Case
    values: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class ScanHealth:
    """What was found; None where there was nothing to measure.

    `label` and `image`: whether there is such a file.
    """

    scan: str
    faults: tuple[Fault, ...]
    label: bool
    image: bool
    empty: bool = False
    has_sform: bool = True
    tilt_deg: float | None = None
    truth_ml: float | None = None


def check_scan(check: ScanCheck) -> ScanHealth:
    """Check one scan's label and image. Nothing is raised for a bad file: it becomes a fault."""
    case = check.case
    label_path, image_path = check.data.label_of(case), check.data.image_of(case)
    findings = _Findings(case.scan)
    label_and_header = findings.read(label_path, "missing label")
    image_and_header = findings.read(image_path, None)
    if label_and_header is None:
        faults = tuple(findings.faults)
        return ScanHealth(case.scan, faults, label_path.is_file(), image_path.is_file())

    label, header = label_and_header
    if image_and_header is not None:
        findings.compare_grids(image_and_header[0], label)
    foreground = findings.check_values(label.array, check.values)

    voxel_volume_mm3 = case.voxel_volume_mm3 or true_voxel_volume_mm3(label.affine)
    truth_ml = foreground * voxel_volume_mm3 / 1000
    findings.check_case_table(case, label, truth_ml)
    return ScanHealth(
        case.scan,
        tuple(findings.faults),
        label=True,
        image=image_path.is_file(),
        empty=foreground == 0,
        has_sform=header.has_sform,
        tilt_deg=tilt_deg(label.affine),
        truth_ml=truth_ml,
    )


class _Findings:
    """The faults of one scan, as they are found."""

    def __init__(self, scan: str) -> None:
        self._scan = scan
        self.faults: list[Fault] = []

    def _add(self, kind: str, message: str) -> None:
        self.faults.append(Fault(self._scan, kind, message))

    def read(self, path: Path, kind_if_missing: str | None) -> tuple[Volume, NiftiHeader] | None:
        """Read the volume and its NIfTI header.

        None where it cannot be read (a fault) or does not exist (a fault of that kind, if any).
        """
        if not path.is_file():
            if kind_if_missing is not None:
                self._add(kind_if_missing, f"{path} does not exist")
            return None
        try:
            volume = read_volume(path)
        except FileFormatError as error:
            self._add("unreadable", error.message)
            return None
        header = read_nifti_header(path)
        difference = _sform_against_qform(header, volume.array.shape)
        if difference is not None and difference > SAME_GRID_MM:
            self._add(
                "sform/qform",
                f"{path}: sform and qform place a corner {difference:.3g} mm apart; "
                "readers will disagree",
            )
        return volume, header

    def compare_grids(self, image: Volume, label: Volume) -> None:
        """Check that image and label lie in one place, whatever their axis order."""
        try:
            match_axes(label, image.array.shape, image.affine)
        except CaseError as error:
            self._add("grid mismatch", error.message)

    def check_values(self, label: NDArray[Any], values: tuple[int, ...]) -> int:
        """Count the voxels that are not 0; a value that is no class of the data set is a fault."""
        # A view: in the order of another memory layout this takes ten times as long.
        flat = whole_labels(label).ravel(order="K")
        foreground = flat[flat != 0]
        odd = np.unique(foreground[~np.isin(foreground, values)])
        if len(odd):
            shown = first_few([f"{value:g}" for value in odd.tolist()])
            known = " and ".join(str(value) for value in (0, *values))
            self._add("odd values", f"the label holds {shown} beside {known}")
        return len(foreground)

    def check_case_table(self, case: Case, label: Volume, truth_ml: float) -> None:
        """Check that the table's depth and volume are those of the label."""
        depth = label.array.shape[2]
        if case.n_slices is not None and case.n_slices != depth:
            self._add(
                "case table", f"{case.n_slices} slices in the case table, {depth} in the label"
            )
        if case.truth_ml is not None and abs(case.truth_ml - truth_ml) > max(
            1e-3, _VOLUME_TOLERANCE * truth_ml
        ):
            self._add(
                "case table",
                f"truth_ml = {case.truth_ml:g} in the case table, {truth_ml:g} in the label",
            )


def _sform_against_qform(header: NiftiHeader, shape: tuple[int, ...]) -> float | None:
    """Measure how far apart the two put a corner, mm; None where only one is set."""
    if not (header.has_sform and header.has_qform):
        return None
    return grid_distance_mm(shape, header.raw.get_sform(), shape, header.raw.get_qform())
