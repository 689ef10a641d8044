"""How much, how many: what `volumes.csv` says of each scan."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.imaging.components import label_components
from hemseg_cli.run_directory import write_text


@dataclass(frozen=True)
class Volumes:
    """One row: the volume by true geometry and the 26-connected components, mL."""

    scan: str
    predicted_ml: float
    lesions: int
    largest_ml: float


def measure(scan: str, mask: NDArray[np.uint8], *, voxel_volume_mm3: float) -> Volumes:
    """The row of one mask [i, j, k]; all zero where it is empty."""
    labels, count = label_components(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    to_ml = voxel_volume_mm3 / 1000
    return Volumes(scan, float(sizes.sum() * to_ml), count, float(sizes.max() * to_ml) if count else 0.0)


def row_of(volumes: Volumes) -> dict[str, Any]:
    """The row as plain values."""
    return asdict(volumes)


def write_volumes(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table, sorted by scan; mL with four decimals."""
    columns = [field.name for field in fields(Volumes)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in sorted(rows, key=lambda row: str(row["scan"])):
        writer.writerow([_cell(row.get(column, "")) for column in columns])
    write_text(path, text.getvalue())


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
