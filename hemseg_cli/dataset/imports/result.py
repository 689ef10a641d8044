"""What `import` returns: as plain values and as tables."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.core.cases import SPLITS, Case
from hemseg_cli.core.console import Table
from hemseg_cli.core.names import first_few

_MOST_ROWS_SHOWN = 30
_NAMES_SHOWN = 3


@dataclass(frozen=True)
class ImportedClass:
    """One class of the data set: its value, key, the scans that hold it and its volume in mL."""

    value: int
    key: str
    scans: int
    volume_ml: float


@dataclass(frozen=True)
class ImportResult:
    """What was imported, or would be (`dry_run`).

    `failures`: scan -> why it could not be taken. `left_out`: file -> why it is no scan of the
    data set. `tilted`: scans whose gantry tilt was recovered. `rater_dice`: mean agreement.
    """

    dataset: str
    folder: Path
    layout: str
    dry_run: bool
    cases: tuple[Case, ...]
    classes: tuple[ImportedClass, ...]
    empty: tuple[str, ...]
    tilted: tuple[str, ...]
    warnings: Mapping[str, tuple[str, ...]]
    failures: dict[str, str]
    left_out: Mapping[str, str]
    rules: tuple[str, ...]
    licence: str = ""
    citation: str = ""
    rater_dice: float | None = None

    @property
    def failed(self) -> bool:
        """Whether a scan could not be taken."""
        return bool(self.failures) or not self.cases

    def split_counts(self) -> dict[str, int]:
        """Count the scans of each split."""
        counts = Counter(case.split for case in self.cases)
        return {split: counts[split] for split in SPLITS}

    def payload(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "dataset": self.dataset,
            "folder": str(self.folder),
            "layout": self.layout,
            "dry_run": self.dry_run,
            "scans": len(self.cases),
            "patients": len({case.patient for case in self.cases}),
            "splits": self.split_counts(),
            "classes": [asdict(one) for one in self.classes],
            "empty_labels": list(self.empty),
            "tilt_recovered": list(self.tilted),
            "warnings": {scan: list(lines) for scan, lines in self.warnings.items()},
            "failures": self.failures,
            "left_out": dict(self.left_out),
            "rules": list(self.rules),
            "rater_dice": self.rater_dice,
            "licence": self.licence,
            "citation": self.citation,
        }

    def tables(self) -> list[Table]:
        """Return the result for a person."""
        splits = "  ".join(f"{split} {count}" for split, count in self.split_counts().items())
        rows = [
            ["folder", str(self.folder) + (" (nothing written)" if self.dry_run else "")],
            ["layout", self.layout],
            ["scans", f"{len(self.cases)} of {len({c.patient for c in self.cases})} patients"],
            ["splits", splits],
            *(["rule", rule] for rule in self.rules),
        ]
        if self.empty:
            rows.append(["empty labels", f"{len(self.empty)}: {first_few(self.empty)}"])
        if self.rater_dice is not None:
            rows.append(["raters agree", f"mean Dice {self.rater_dice:.3f}"])
        if self.licence:
            rows += [["licence", self.licence], ["please cite", self.citation]]

        tables = [Table(self.dataset, ["", ""], rows), self._class_table()]
        tables += self._reason_tables()
        return tables

    def _class_table(self) -> Table:
        rows = [
            [str(one.value), one.key, str(one.scans), f"{one.volume_ml:.1f}"]
            for one in self.classes
        ]
        columns = ["value", "class", "scans", "mL"]
        return Table("Classes", columns, rows, right=frozenset({"value", "scans", "mL"}))

    def _reason_tables(self) -> list[Table]:
        """Make the tables of what was not taken and of what is doubtful."""
        tables = []
        if self.failures:
            rows = [list(pair) for pair in list(self.failures.items())[:_MOST_ROWS_SHOWN]]
            more = len(self.failures) - len(rows)
            caption = f"{more} more with --json" if more > 0 else ""
            tables.append(Table("Not imported", ["scan", "reason"], rows, caption))

        # Many files share a reason: one row for each, with the first names.
        for title, column, reasons in (
            ("Left out", "files", _by_reason(self.left_out.items())),
            ("Warnings", "scans", _by_reason(self._warning_pairs())),
        ):
            rows = [
                [reason, str(len(names)), first_few(names, _NAMES_SHOWN)]
                for reason, names in reasons.items()
            ]
            if rows:
                columns = ["reason", column, "first"]
                tables.append(Table(title, columns, rows, right=frozenset({column})))
        return tables

    def _warning_pairs(self) -> list[tuple[str, str]]:
        return [(scan, line) for scan, lines in self.warnings.items() for line in lines]


def _by_reason(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, reason in pairs:
        reasons.setdefault(reason, []).append(Path(name).name)
    return reasons
