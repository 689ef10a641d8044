"""One case from its files to its numbers: what a worker process does."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hemseg_cli.core.errors import CaseError
from hemseg_cli.evaluation.metrics import CaseMetrics, metrics_of
from hemseg_cli.evaluation.surfaces import Foreground, foreground, mask_pair
from hemseg_cli.imaging.geometry import header_voxel_volume_mm3, spacing_mm, tilt_deg
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.orientation import describe_grid, match_axes


@dataclass(frozen=True)
class CaseFiles:
    """What is needed to score one case.

    `prediction` None: there is none, and the case counts as missed.

    `voxel_volume_mm3` and `tilt_deg` None: taken from the label's header (`imaging.geometry`).
    `scan_class`: "" where none is known.
    """

    scan: str
    label: Path
    prediction: Path | None
    patient: str = ""
    split: str = ""
    voxel_volume_mm3: float | None = None
    tilt_deg: float | None = None
    scan_class: str = ""
    tolerance_mm: float = 2.0
    paper: bool = False

    def absolute(self) -> "CaseFiles":
        """The same with absolute paths."""
        return replace(
            self,
            label=self.label.absolute(),
            prediction=self.prediction.absolute() if self.prediction is not None else None,
        )


@dataclass(frozen=True)
class CaseScore:
    """The numbers of one case. `paper_*`.

    On the published grid (NaN undefined), None under the native protocol.

    `truth_digest` tells whether two runs were scored against the same label.
    """

    files: CaseFiles
    metrics: CaseMetrics
    tilt_deg: float
    truth_digest: str
    paper_dice: float | None = None
    paper_iou: float | None = None
    hd95_voxel: float | None = None

    @property
    def scan(self) -> str:
        """Scan id."""
        return self.files.scan

    @property
    def group(self) -> str:
        """What the bootstrap draws: the patient, or the scan itself where no patient is known."""
        return self.files.patient or f"scan {self.files.scan}"


def score_case(files: CaseFiles) -> CaseScore:
    """Read both masks and score them.

    CaseError: values other than 0 and 1, or grids that differ. FileFormatError: a file that is not
    a volume.
    """
    label = truth = read_volume(files.label)
    prediction = Volume(np.zeros_like(truth.array, dtype=np.uint8), truth.affine)
    if files.prediction is not None:
        prediction, truth = _on_one_grid(read_volume(files.prediction), truth, files)
    pair = mask_pair(prediction.array, truth.array, spacing_mm(truth.affine))
    _refuse_other_values(pair.truth, files.label)
    _refuse_other_values(pair.prediction, files.prediction)
    volume = (
        header_voxel_volume_mm3(truth.affine)
        if files.voxel_volume_mm3 is None
        else files.voxel_volume_mm3
    )
    score = CaseScore(
        files,
        metrics_of(pair, voxel_volume_mm3=volume, tolerance_mm=files.tolerance_mm),
        tilt_deg=tilt_deg(truth.affine) if files.tilt_deg is None else files.tilt_deg,
        truth_digest=_digest(pair.truth if truth is label else foreground(label.array.T)),
    )
    return _with_paper(score, prediction, truth) if files.paper else score


def _digest(truth: Foreground) -> str:
    return hashlib.sha256(np.array(truth.shape).tobytes() + truth.flat.tobytes()).hexdigest()


def _with_paper(score: CaseScore, prediction: Volume, truth: Volume) -> CaseScore:
    from hemseg_cli.evaluation.paper_protocol import paper_metrics  # brings SimpleITK

    paper = paper_metrics(prediction, truth)
    return replace(score, paper_dice=paper.dice, paper_iou=paper.iou, hd95_voxel=paper.hd95_voxel)


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


def _refuse_other_values(mask: Foreground, path: Path | None) -> None:
    values = mask.line[mask.flat]
    if (values != 1).any():
        found = ", ".join(f"{value:g}" for value in np.unique(values)[:6].astype(float))
        raise CaseError(
            f"{path} is not a mask of 0 and 1: it holds {found}",
            hint="write hemorrhage as 1 and everything else as 0",
        )
