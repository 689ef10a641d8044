"""How much, how many, how sure.

What `volumes.csv` says of each scan and `lesions.csv` of each lesion.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.files import write_text
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.orientation import to_canonical
from hemseg_cli.inference.confidence import confidence_of, review_reason
from hemseg_cli.inference.lesions import Lesion, find_lesions
from hemseg_cli.inference.subgrid import Probability, box_of


@dataclass(frozen=True)
class ScanMeasures:
    """One row of `volumes.csv`.

    ML by the true geometry, 26-connected lesions, HU, and how sure the networks are.

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
class Measured:
    """A scan's row, and its lesions, largest first."""

    volumes: ScanMeasures
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
    """The row of one mask [i, j, k] on the grid of `scan` (HU), and its lesions.

    `warnings`: what was said of the input.
    """
    lesions = find_lesions(mask, scan, voxel_volume_mm3=voxel_volume_mm3)
    predicted_ml = sum(lesion.volume_ml for lesion in lesions)
    mean_hu = (
        sum(lesion.mean_hu * lesion.volume_ml for lesion in lesions) / predicted_ml
        if lesions
        else None
    )
    canonical = to_canonical(Volume(mask, scan.affine))[0].array
    confidence = confidence_of(
        probability.values,
        canonical[box_of(probability.part)],
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


def row_of(volumes: ScanMeasures) -> dict[str, Any]:
    """The row as plain values."""
    return asdict(volumes)


def lesion_rows(measured: Measured) -> list[dict[str, Any]]:
    """The lesions as plain values, numbered from 1."""
    return [
        {
            "scan": measured.volumes.scan,
            "lesion": number,
            "volume_ml": lesion.volume_ml,
            "abc2_ml": lesion.abc2_ml,
            "mean_hu": lesion.mean_hu,
            **{
                f"centroid_{axis}_mm": value
                for axis, value in zip("ras", lesion.centroid_mm, strict=True)
            },
        }
        for number, lesion in enumerate(measured.lesions, 1)
    ]


LESION_COLUMNS = (
    "scan",
    "lesion",
    "volume_ml",
    "abc2_ml",
    "mean_hu",
    "centroid_r_mm",
    "centroid_a_mm",
    "centroid_s_mm",
)


def write_volumes(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `volumes.csv`, sorted by scan; numbers with four decimals."""
    _write(
        path,
        [field.name for field in fields(ScanMeasures)],
        sorted(rows, key=lambda row: str(row["scan"])),
    )


def write_lesions(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write `lesions.csv`, sorted by scan and size."""
    _write(
        path, LESION_COLUMNS, sorted(rows, key=lambda row: (str(row["scan"]), int(row["lesion"])))
    )


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row.get(column)) for column in columns])
    write_text(path, text.getvalue())


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
