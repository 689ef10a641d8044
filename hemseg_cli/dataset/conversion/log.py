"""`conversion.csv`: one row per scan tried, and what `convert` returns."""

import csv
import io
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.core.console import Table
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.files import write_text

LOG_NAME = "conversion.csv"
_COLUMNS = ("scan", "status", "reason", "warnings", "seconds")
_ROWS_SHOWN = 30
_REASON_WIDTH = 150  # the whole reason stands in the log, and in the warning on stderr


@dataclass(frozen=True)
class ConversionRow:
    """What became of one scan: status converted or refused.

    `seconds` None where it was not measured.
    """

    scan: str
    status: str
    reason: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    hint: str = ""

    @property
    def ok(self) -> bool:
        """Whether the scan's image is there."""
        return self.status == "converted"


@dataclass(frozen=True)
class Need:
    """What a conversion takes, as `--dry-run` prints it."""

    scans: int
    scans_done: int
    slices: int
    slices_missing: int
    bytes_to_move: int
    scans_incomplete: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConvertResult:
    """What `convert` did: `rows` of the scans tried now, `done_before` scans that needed nothing, files left out and why."""

    folder: Path
    rows: tuple[ConversionRow, ...] = ()
    done_before: int = 0
    left_out: tuple[tuple[str, str], ...] = ()
    need: Need | None = None

    @property
    def converted(self) -> int:
        """Scans converted now."""
        return sum(row.ok for row in self.rows)

    @property
    def refused(self) -> tuple[ConversionRow, ...]:
        """The scans that were refused, and why."""
        return tuple(row for row in self.rows if not row.ok)

    def payload(self) -> dict[str, Any]:
        """The result as one JSON object."""
        if self.need is not None:
            need = self.need
            return {
                "folder": str(self.folder),
                "dry_run": True,
                "scans": need.scans,
                "scans_done": need.scans_done,
                "slices": need.slices,
                "slices_missing": need.slices_missing,
                "scans_incomplete": list(need.scans_incomplete),
                "bytes_to_move": need.bytes_to_move,
                "left_out": [{"file": name, "reason": reason} for name, reason in self.left_out],
            }
        return {
            "folder": str(self.folder),
            "converted": self.converted,
            "done_before": self.done_before,
            "refused": [{"scan": row.scan, "reason": row.reason} for row in self.refused],
            "warnings": {row.scan: list(row.warnings) for row in self.rows if row.warnings},
            "left_out": [{"file": name, "reason": reason} for name, reason in self.left_out],
        }

    def tables(self) -> list[Table]:
        """The result for a person: totals, then what was refused, warned of or left out."""
        if self.need is not None:
            return [_need_table(self.need), *self._left_out_table()]
        log = self.folder / LOG_NAME
        totals = [[str(self.converted), str(self.done_before), str(len(self.refused)), str(log)]]
        tables = [
            Table(
                "",
                ["converted", "done before", "refused", "log"],
                totals,
                right=frozenset({"converted", "done before", "refused"}),
            )
        ]
        if self.refused:
            tables.append(
                _capped(
                    "Refused",
                    ["scan", "reason"],
                    [
                        [row.scan, textwrap.shorten(row.reason, _REASON_WIDTH)]
                        for row in self.refused
                    ],
                    log,
                )
            )
        noted = [[row.scan, warning] for row in self.rows for warning in row.warnings]
        if noted:
            tables.append(_capped("Warnings", ["scan", "warning"], noted, log))
        return [*tables, *self._left_out_table()]

    def _left_out_table(self) -> list[Table]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left_out:
            by_reason.setdefault(reason, []).append(name)
        rows = [
            [reason, str(len(names)), ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")]
            for reason, names in by_reason.items()
        ]
        return (
            [Table("Left out", ["reason", "files", "first"], rows, right=frozenset({"files"}))]
            if rows
            else []
        )


def read_log(path: Path) -> dict[str, ConversionRow]:
    """The rows by scan id; empty where there is no file yet."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {
                row["scan"]: ConversionRow(
                    row["scan"],
                    row["status"],
                    row["reason"],
                    tuple(part for part in row["warnings"].split("\n") if part),
                    float(row["seconds"]) if row["seconds"] else None,
                )
                for row in csv.DictReader(file, strict=True)
            }
    except (csv.Error, KeyError, ValueError, AttributeError, TypeError) as error:
        raise FileFormatError(
            f"{path} is not a conversion log: {error!r}", hint=f"remove {path}; it is written anew"
        ) from None


def write_log(path: Path, rows: Mapping[str, ConversionRow] | Iterable[ConversionRow]) -> None:
    """Write the rows, sorted by scan id.

    Warnings of one scan stand on lines of their own in their cell.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in sorted(
        rows.values() if isinstance(rows, Mapping) else rows, key=lambda row: row.scan
    ):
        seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
        writer.writerow([row.scan, row.status, row.reason, "\n".join(row.warnings), seconds])
    write_text(path, text.getvalue())


def _need_table(need: Need) -> Table:
    size = f"{need.bytes_to_move / 1e6:,.1f} MB"
    rows = [
        ["scans to convert", f"{need.scans:,}"],
        ["scans done before", f"{need.scans_done:,}"],
        ["slices needed", f"{need.slices:,}"],
        ["slices present", f"{need.slices - need.slices_missing:,}"],
        ["slices missing", f"{need.slices_missing:,}"],
        ["bytes to move", size],
    ]
    caption = f"incomplete: {', '.join(need.scans_incomplete[:8])}" if need.scans_incomplete else ""
    return Table("Dry run", ["", "count"], rows, caption=caption, right=frozenset({"count"}))


def _capped(title: str, columns: list[str], rows: list[list[str]], log: Path) -> Table:
    more = len(rows) - _ROWS_SHOWN
    return Table(
        title, columns, rows[:_ROWS_SHOWN], caption=f"{more} more in {log}" if more > 0 else ""
    )
