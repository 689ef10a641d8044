"""One case from its files to its numbers: what a worker process does."""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import UNION, LabelClass
from hemseg_cli.core.errors import CaseError
from hemseg_cli.evaluation.class_pairs import HEMORRHAGE_PAIR, ClassPairs
from hemseg_cli.evaluation.metric_table import Protocol, metric_rows
from hemseg_cli.evaluation.metrics import MM3_PER_ML, CaseMetrics
from hemseg_cli.evaluation.nsd_tolerance import Tolerance, slice_distance_mm, tolerance_at
from hemseg_cli.evaluation.surfaces import Foreground, MaskPair, mask_pair
from hemseg_cli.evaluation.volume_intervals import VolumeInterval
from hemseg_cli.imaging.geometry import (
    Affine,
    foreign_voxel_volume_mm3,
    tilt_deg,
    true_steps_mm,
)
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import describe_grid, match_axes

_DIGEST_DIGITS = 16


@dataclass(frozen=True)
class CaseFiles:
    """What is needed to score one case.

    `prediction` None: there is none, and the case counts as missed. `voxel_volume_mm3` and
    `tilt_deg` None: taken from the label's header as it stands. `scan_class`: "" where none is
    known. `network_mask`: the network's own output on the published grid, None: there is none.
    `classes`: what the voxel values of both mean. `volume_intervals`: class key -> interval of the
    true volume that the run stated, mL.
    """

    scan: str
    label: Path
    prediction: Path | None
    patient: str = ""
    split: str = ""
    voxel_volume_mm3: float | None = None
    tilt_deg: float | None = None
    scan_class: str = ""
    tolerance_mm: Tolerance = 2.0
    protocol: Protocol = "native"
    network_mask: Path | None = None
    classes: ClassPairs = HEMORRHAGE_PAIR
    volume_intervals: Mapping[str, VolumeInterval] = field(default_factory=dict)

    def absolute(self) -> "CaseFiles":
        """Return the same with absolute paths."""
        made = {
            name: path.absolute()
            for name in ("prediction", "network_mask")
            if (path := getattr(self, name)) is not None
        }
        return replace(self, label=self.label.absolute(), **made)


@dataclass(frozen=True)
class ClassScore:
    """The numbers of one class in one case: `values` by the key of their row.

    `taken_for_ml`: how much of the true class was taken for each class, or for none, mL.
    """

    values: dict[str, float]
    truth_digest: str
    taken_for_ml: dict[str, float]


@dataclass(frozen=True)
class CaseScore:
    """The numbers of one case: `values` by the key of their row in the metric table.

    They are of all classes together; `classes` holds those of each class, by key.

    `truth_digest` tells whether two runs were scored against the same label. `resampled`: under the
    paper's protocol, whether the mask came to the published grid by way of another one.
    """

    files: CaseFiles
    values: dict[str, float]
    tilt_deg: float
    truth_digest: str
    resampled: bool = False
    warning: str = ""
    classes: dict[str, ClassScore] = field(default_factory=dict)

    @property
    def scan(self) -> str:
        """Scan id."""
        return self.files.scan


def score_case(files: CaseFiles) -> CaseScore:
    """Read both masks and score them.

    CaseError: values that are no class, or grids that differ. FileFormatError: a file that is not
    a volume.
    """
    truth = read_label(files.label)

    # A scan without a mask is scored as one of which nothing was predicted.
    prediction = Volume(np.zeros_like(truth.array, dtype=np.uint8), truth.affine)
    if files.prediction is not None:
        prediction, truth = _on_one_grid(read_label(files.prediction), truth, files)

    # True steps for distances: a tilted gantry shears the scan, and its header does not say so.
    tilt = tilt_deg(truth.affine) if files.tilt_deg is None else files.tilt_deg
    steps_mm = _steps_mm(truth.affine, files)
    tolerance_mm = tolerance_at(files.tolerance_mm, slice_distance_mm(steps_mm))

    # Read each map once; every class is a part of it.
    maps = mask_pair(prediction.array, truth.array, steps_mm)
    classes = files.classes
    _refuse_other_values(maps.truth, classes.truth, files.label)
    _refuse_other_values(maps.prediction, classes.predicted, files.prediction)
    pair = classes.of_class(maps, UNION)

    # The published grid is asked of imaging, which brings SimpleITK: only where it is scored.
    own_grid = files.network_mask if files.prediction is not None else None
    on_paper_grid = None
    if files.protocol == "paper":
        from hemseg_cli.evaluation.paper_protocol import paper_pair

        on_paper_grid = paper_pair(prediction, truth, network_mask=own_grid)

    # Volumes by the true voxel, which the header of a tilted scan overstates.
    volume_mm3, warning = _voxel_volume_mm3(truth.affine, files)
    stated = files.volume_intervals
    case = CaseMetrics(
        pair, volume_mm3, tolerance_mm, on_paper_grid, volume_interval_ml=stated.get(UNION)
    )
    return CaseScore(
        files,
        _values(case, files),
        tilt_deg=tilt,
        truth_digest=_digest(pair.truth),
        resampled=on_paper_grid is not None and files.prediction is not None and own_grid is None,
        warning=warning,
        classes={
            key: _class_score(key, maps, volume_mm3, tolerance_mm, files) for key in classes.scored
        },
    )


def _class_score(
    key: str, maps: MaskPair, volume_mm3: float, tolerance_mm: float, files: CaseFiles
) -> ClassScore:
    """Score one class as if it were the only one; `maps`: the pair of label maps."""
    pair = files.classes.of_class(maps, key)
    case = CaseMetrics(
        pair,
        volume_mm3,
        tolerance_mm,
        volume_interval_ml=files.volume_intervals.get(key),
    )
    taken_for = files.classes.taken_for(maps, key)
    return ClassScore(
        _values(case, files),
        _digest(pair.truth),
        {other: count * volume_mm3 / MM3_PER_ML for other, count in taken_for.items()},
    )


def _values(case: CaseMetrics, files: CaseFiles) -> dict[str, float]:
    """Ask every row of the metric table that has a value of a case."""
    values = {}
    for row in metric_rows(files.protocol, files.tolerance_mm):
        if row.function is not None:
            # What is averaged over hemorrhages has no value in a scan without one.
            undefined = row.averaged_over == "hemorrhage" and not case.pair.truth.count
            values[row.key] = math.nan if undefined else float(row.function(case))
    return values


def _steps_mm(affine: Affine, files: CaseFiles) -> NDArray[np.float64]:
    """Return the true step vectors where the case table knows the tilt, else the header's.

    An oblique scan that no ITK reader flattened has its true steps in the header: the voxel volume
    of the case table tells which of the two spans it.
    """
    header = np.asarray(affine[:3, :3], dtype=np.float64)
    if files.tilt_deg is None:
        return header

    # Of both readings of the header the one whose voxel has the volume of the case table.
    sheared = true_steps_mm(affine, files.tilt_deg)
    if files.voxel_volume_mm3 is None:
        return sheared

    def miss_mm3(steps: NDArray[np.float64]) -> float:
        return abs(abs(float(np.linalg.det(steps))) - (files.voxel_volume_mm3 or 0.0))

    return header if miss_mm3(header) < miss_mm3(sheared) else sheared


def _voxel_volume_mm3(affine: Affine, files: CaseFiles) -> tuple[float, str]:
    """Return the voxel volume, mm3, and a warning where it could be another one."""
    if files.voxel_volume_mm3 is not None:
        return files.voxel_volume_mm3, ""

    volume, doubt = foreign_voxel_volume_mm3(affine)
    return volume, f"scan {files.scan}: {files.label}: {doubt}" if doubt else ""


def _digest(truth: Foreground) -> str:
    # Shape and foreground tell a label; its affine may be written in more than one way.
    whole = np.array(truth.shape).tobytes() + truth.flat.tobytes()
    return hashlib.sha256(whole).hexdigest()[:_DIGEST_DIGITS]


def _on_one_grid(prediction: Volume, truth: Volume, files: CaseFiles) -> tuple[Volume, Volume]:
    """Return both on the truth's axes (a tool may store R-A-S); CaseError where they lie apart."""
    shape, affine = truth.array.shape, truth.affine
    try:
        return match_axes(prediction, shape, affine), truth
    except CaseError:
        theirs = describe_grid(prediction.array.shape, prediction.affine)
        raise CaseError(
            f"scan {files.scan}: {files.prediction} ({theirs}) is not on the grid of "
            f"{files.label} ({describe_grid(shape, affine)})",
            hint="predict on the scan that the label belongs to, or resample the mask onto "
            "the label's grid",
        ) from None


def _refuse_other_values(
    mask: Foreground, classes: Collection[LabelClass], path: Path | None
) -> None:
    """CaseError where a voxel has a value that is none of the classes'."""
    known = [each.value for each in classes]
    found = np.unique(mask.line[mask.flat]).astype(float)
    unknown = found[~np.isin(found, known)]
    if not unknown.size:
        return

    values = ", ".join(f"{value:g}" for value in found[:6])
    if known == [1]:
        raise CaseError(
            f"{path} is not a mask of 0 and 1: it holds {values}",
            hint="write hemorrhage as 1 and everything else as 0, or list the classes in a "
            "classes.toml beside the masks",
        )
    named = ", ".join(f"{each.value} {each.key}" for each in classes)
    raise CaseError(
        f"{path} holds {unknown[0]:g}, which is none of the classes ({named})",
        hint="list the class in classes.toml, or set the voxels to 0",
    )
