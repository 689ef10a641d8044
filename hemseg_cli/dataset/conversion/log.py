"""`conversion.csv`: one row per scan tried."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.files import read_table, write_table

LOG_NAME = "conversion.csv"
Status = Literal["converted", "refused"]

_COLUMNS: dict[str, type] = {
    "scan": str,
    "status": str,
    "reason": str,
    "warnings": str,
    "seconds": float,
}


@dataclass(frozen=True)
class ConversionRow:
    """What became of one scan.

    `seconds`: wall time, None where it was not measured. `hint` is shown and not stored.
    """

    scan: str
    status: Status
    reason: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    hint: str = ""

    @property
    def ok(self) -> bool:
        """Whether the scan's image is there."""
        return self.status == "converted"


def read_log(path: Path) -> dict[str, ConversionRow]:
    """Read the rows by scan id; empty where there is no file yet.

    FileFormatError names the line and the column that are wrong.
    """
    if not path.is_file():
        return {}
    hint = f"remove {path}; it is written anew"
    frame = read_table(path, columns=_COLUMNS, hint=hint)
    rows: dict[str, ConversionRow] = {}
    for line, values in zip(frame.index, frame.to_dict("records"), strict=True):
        status = values["status"]
        if status not in get_args(Status):
            raise FileFormatError(f"{path}, line {line}: status = {status!r:.40}", hint=hint)
        seconds = values["seconds"]
        rows[values["scan"]] = ConversionRow(
            values["scan"],
            status,
            values["reason"],
            tuple(part for part in values["warnings"].split("\n") if part),
            None if seconds != seconds else float(seconds),  # NaN: an empty cell
        )
    return rows


def write_log(path: Path, rows: Iterable[ConversionRow]) -> None:
    """Write the rows, sorted by scan id.

    Warnings of one scan stand on lines of their own in their cell.
    """
    import pandas as pd  # slow to import

    ordered = sorted(rows, key=lambda row: row.scan)
    values = [
        [row.scan, row.status, row.reason, "\n".join(row.warnings), row.seconds] for row in ordered
    ]
    write_table(path, pd.DataFrame(values, columns=list(_COLUMNS)))
