"""Measure a mask: the rows of `volumes.csv` (scans) and `lesions.csv` (lesions)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.files import write_table
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.inference.confidence import confidence_of, review_reason
from hemseg_cli.inference.lesions import Lesion, find_lesions
from hemseg_cli.inference.subgrid import Probability, box_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScanMeasures:
    """One row of `volumes.csv`: mL by the true geometry, 26-connected lesions, HU, confidence.

    `abc2_ml`: the sum of the lesions' ABC/2. `mean_hu`: of the whole mask, None where it is empty.
    `review`: whether a person should look, `review_reason` why. The other columns are explained in
    `confidence`.
    """

    scan: str
    predicted_ml: float
    lesions: int
    largest_ml: float
    abc2_ml: float
    mean_hu: float | None
    mean_probability: float
    uncertain_share: float
    disagreement: float
    review: bool
    review_reason: str


@dataclass(frozen=True)
class LesionRow:
    """One row of `lesions.csv`; the centroid in RAS mm of the scan's own affine."""

    scan: str
    lesion: int
    volume_ml: float
    abc2_ml: float
    mean_hu: float
    centroid_r_mm: float
    centroid_a_mm: float
    centroid_s_mm: float


@dataclass(frozen=True)
class Measured:
    """A scan's row of `volumes.csv`, and its lesions, largest first."""

    row: ScanMeasures
    lesions: tuple[Lesion, ...]


def measure(
    name: str,
    mask: NDArray[np.uint8],
    scan: Volume,
    *,
    voxel_volume_mm3: float,
    probability: Probability,
    deviation: Probability | None,
    threshold: float,
    warnings: Sequence[str] = (),
) -> Measured:
    """Measure one mask on the grid of `scan` (HU), both on canonical axes [i, j, k].

    `warnings`: what was said of the input.
    """
    lesions = find_lesions(mask, scan, voxel_volume_mm3=voxel_volume_mm3)
    predicted_ml = sum(lesion.volume_ml for lesion in lesions)
    mean_hu = (
        sum(lesion.mean_hu * lesion.volume_ml for lesion in lesions) / predicted_ml
        if lesions
        else None
    )
    confidence = confidence_of(
        probability.values,
        mask[box_of(probability.part)],
        None if deviation is None else deviation.values,
    )
    reason = review_reason(
        confidence,
        predicted_ml=predicted_ml,
        lesions=len(lesions),
        threshold=threshold,
        mean_hu=mean_hu,
        warnings=tuple(warnings),
    )
    row = ScanMeasures(
        scan=name,
        predicted_ml=predicted_ml,
        lesions=len(lesions),
        largest_ml=lesions[0].volume_ml if lesions else 0.0,
        abc2_ml=sum(lesion.abc2_ml for lesion in lesions),
        mean_hu=mean_hu,
        mean_probability=confidence.mean_probability,
        uncertain_share=confidence.uncertain_share,
        disagreement=confidence.disagreement,
        review=bool(reason),
        review_reason=reason,
    )
    return Measured(row, tuple(lesions))


def lesion_rows(measured: Measured) -> list[LesionRow]:
    """Return the rows of a scan's lesions, numbered from 1."""
    return [
        LesionRow(
            measured.row.scan,
            number,
            lesion.volume_ml,
            lesion.abc2_ml,
            lesion.mean_hu,
            *lesion.centroid_mm,
        )
        for number, lesion in enumerate(measured.lesions, 1)
    ]


def write_volumes(path: Path, rows: Iterable[ScanMeasures]) -> None:
    """Write `volumes.csv`, sorted by scan; `review` is yes or no."""
    frame = _frame(ScanMeasures, sorted(rows, key=lambda row: row.scan))
    frame["review"] = frame["review"].map({True: "yes", False: "no"})
    write_table(path, frame)


def write_lesions(path: Path, rows: Iterable[LesionRow]) -> None:
    """Write `lesions.csv`, sorted by scan and size."""
    write_table(path, _frame(LesionRow, sorted(rows, key=lambda row: (row.scan, row.lesion))))


def _frame(kind: type[ScanMeasures] | type[LesionRow], rows: Sequence[Any]) -> "pd.DataFrame":
    """The rows as a table with every column of their kind, also when there is none."""
    import pandas as pd  # slow to import

    columns = [field.name for field in fields(kind)]
    return pd.DataFrame([asdict(row) for row in rows], columns=columns)
