"""What `convert` returns: as plain values and as tables."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.core.console import Table
from hemseg_cli.core.names import first_few
from hemseg_cli.dataset.conversion.log import LOG_NAME, ConversionRow

_MOST_ROWS_SHOWN = 30
_REASON_CHARACTERS = 150  # the whole reason stands in the log, and in the warning on stderr
_NAMES_SHOWN = 8


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
    """What `convert` did.

    `rows`: the scans tried now; `done_before`: scans that needed nothing; `left_out`: files that
    belong to no scan, each with its reason; `need`: of a dry run.
    """

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
    def failures(self) -> dict[str, str]:
        """Scan -> why it could not be converted."""
        return {row.scan: row.reason for row in self.rows if not row.ok}

    @property
    def failed(self) -> bool:
        """Whether a scan could not be converted, or, in a dry run, could not be."""
        return bool(self.failures) or (self.need is not None and self.need.slices_missing > 0)

    def payload(self) -> dict[str, Any]:
        """Return the result as plain values."""
        left_out = [{"file": name, "reason": reason} for name, reason in self.left_out]
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
                "left_out": left_out,
            }
        return {
            "folder": str(self.folder),
            "converted": self.converted,
            "done_before": self.done_before,
            "failures": self.failures,
            "warnings": {row.scan: list(row.warnings) for row in self.rows if row.warnings},
            "left_out": left_out,
        }

    def tables(self) -> list[Table]:
        """Return the result for a person: totals, then what was refused, warned of, left out."""
        if self.need is not None:
            return [_need_table(self.need), *self._left_out_tables()]

        log = self.folder / LOG_NAME
        counts = [self.converted, self.done_before, len(self.failures)]
        columns = ["converted", "done before", "refused"]
        totals = [[*(str(count) for count in counts), str(log)]]
        tables = [Table("", [*columns, "log"], totals, right=frozenset(columns))]

        if self.failures:
            rows = [
                [scan, textwrap.shorten(reason, _REASON_CHARACTERS)]
                for scan, reason in self.failures.items()
            ]
            tables.append(_capped_table("Refused", ["scan", "reason"], rows, log))
        noted = [[row.scan, warning] for row in self.rows for warning in row.warnings]
        if noted:
            tables.append(_capped_table("Warnings", ["scan", "warning"], noted, log))
        return [*tables, *self._left_out_tables()]

    def _left_out_tables(self) -> list[Table]:
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.left_out:
            by_reason.setdefault(reason, []).append(name)
        rows = [
            [reason, str(len(names)), first_few(names, 3)] for reason, names in by_reason.items()
        ]
        columns = ["reason", "files", "first"]
        return [Table("Left out", columns, rows, right=frozenset({"files"}))] if rows else []


def _need_table(need: Need) -> Table:
    rows = [
        ["scans to convert", f"{need.scans:,}"],
        ["scans done before", f"{need.scans_done:,}"],
        ["slices needed", f"{need.slices:,}"],
        ["slices present", f"{need.slices - need.slices_missing:,}"],
        ["slices missing", f"{need.slices_missing:,}"],
        ["bytes to move", f"{need.bytes_to_move / 1e6:,.1f} MB"],
    ]
    incomplete = need.scans_incomplete
    caption = f"incomplete: {first_few(incomplete, _NAMES_SHOWN)}" if incomplete else ""
    return Table("Dry run", ["", "count"], rows, caption=caption, right=frozenset({"count"}))


def _capped_table(title: str, columns: list[str], rows: list[list[str]], log: Path) -> Table:
    more = len(rows) - _MOST_ROWS_SHOWN
    caption = f"{more} more in {log}" if more > 0 else ""
    return Table(title, columns, rows[:_MOST_ROWS_SHOWN], caption=caption)
