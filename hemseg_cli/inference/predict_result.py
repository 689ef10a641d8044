"""The result of `hemseg predict`: what was predicted, what failed, what was left out."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hemseg_cli.core.console import Table
from hemseg_cli.core.names import counted
from hemseg_cli.core.printable import printable
from hemseg_cli.core.quantities import VOLUME_CONFIDENCE
from hemseg_cli.inference.inputs.finding import LeftOut
from hemseg_cli.inference.measures import ScanMeasures, interval_text


@dataclass
class PredictResult:
    """What one call did.

    `failures`: scan -> reason; `hints`: scan -> what helps. `left_out`: files that are no scans.
    `trained_on`, `data_set`: the names of the data sets, where a split was predicted.
    `no_interval`: why the volumes have no interval, "" where they do.
    """

    folder: Path
    run: str
    predicted: list[ScanMeasures] = field(default_factory=list)
    already_done: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)
    trained_on: str = ""
    data_set: str = ""
    no_interval: str = ""

    @property
    def failed(self) -> bool:
        """Whether some scan could not be predicted, or everything given was left out."""
        nothing = not self.predicted and not self.already_done
        return bool(self.failures) or (nothing and bool(self.left_out))

    def payload(self) -> dict[str, Any]:
        """Return the result as JSON has it."""
        return {
            "run": self.run,
            "folder": str(self.folder),
            "volumes": str(self.folder / "volumes.csv"),
            "trained_on": self.trained_on or None,
            "data_set": self.data_set or None,
            "volume_confidence": VOLUME_CONFIDENCE,
            "no_interval": self.no_interval or None,
            "predicted": [asdict(row) for row in self.predicted],
            "already_done": [printable(name) for name in self.already_done],
            "failed": [
                {
                    "scan": printable(scan),
                    "error": printable(reason),
                    "hint": printable(self.hints.get(scan, "")),
                }
                for scan, reason in self.failures.items()
            ],
            "warnings": {printable(scan): texts for scan, texts in self.warnings.items()},
            "left_out": [
                {"file": printable(str(one.file)), "reason": printable(one.reason)}
                for one in self.left_out
            ],
        }

    def tables(self) -> list[Table]:
        """Return the result as a person sees it."""
        tables = [self._scans()] if self.predicted or not self.failures else []
        if self.failures:
            rows = [
                [printable(scan), printable(reason), self.hints.get(scan, "")]
                for scan, reason in self.failures.items()
            ]
            title = f"{counted(len(rows), 'scan')} failed"
            tables.append(Table(title, ["scan", "reason", "what helps"], rows))
        return tables

    def _scans(self) -> Table:
        done = f"; {len(self.already_done)} were done already" if self.already_done else ""
        other = ""
        if self.trained_on != self.data_set:
            other = f"; trained on {self.trained_on}, predicted on {self.data_set}"

        # A column of dashes says less than one sentence.
        interval = f"{VOLUME_CONFIDENCE:.0%}".replace("%", " %")
        without = ""
        if self.no_interval:
            without = f"; no interval of the mL: {self.no_interval}"

        columns = ["scan", "mL", interval, "lesions", "largest mL", "review"]
        rows = [
            [
                row.scan,
                f"{row.predicted_ml:.2f}",
                interval_text(row.volume_low_ml, row.volume_high_ml),
                str(row.lesions),
                f"{row.largest_ml:.2f}",
                "yes" if row.review else "no",
            ]
            for row in self.predicted
        ]
        if self.no_interval:
            columns.remove(interval)
            rows = [[*row[:2], *row[3:]] for row in rows]

        return Table(
            f"{counted(len(self.predicted), 'scan')} predicted by {self.run}",
            columns,
            rows,
            caption=f"in {self.folder}{done}{other}{without}",
            right=frozenset({"mL", interval, "lesions", "largest mL"}),
        )
