"""What `report` returns: the files that it wrote, and what went into them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hemseg_cli.core import console
from hemseg_cli.reporting.tables import ReportTable, numeric_titles


@dataclass(frozen=True)
class ReportResult:
    """The files written, and what went into them."""

    failed: ClassVar[bool] = False
    """A report fails as a whole or not at all."""

    html: Path
    markdown: Path
    csv_files: tuple[Path, ...]
    runs: tuple[str, ...]
    split: str
    size_bytes: int
    summary: ReportTable
    warnings: tuple[str, ...] = ()
    viewer_scans: tuple[str, ...] = ()
    viewer_left_out: dict[str, str] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "html": str(self.html),
            "markdown": str(self.markdown),
            "csv": [str(path) for path in self.csv_files],
            "runs": list(self.runs),
            "split": self.split,
            "size_bytes": self.size_bytes,
            "warnings": list(self.warnings),
            "viewer": {"scans": list(self.viewer_scans), "left_out": self.viewer_left_out},
        }

    def tables(self) -> list[console.Table]:
        """For a terminal."""
        titles = [column.title for column in self.summary.columns]
        written = [
            ["page", str(self.html), f"{self.size_bytes / 1e6:.1f} MB"],
            ["tables", str(self.markdown), ""],
        ]
        if self.csv_files:
            written.append(["CSV", f"{self.csv_files[0].parent}/", f"{len(self.csv_files)} files"])
        return [
            console.Table(
                self.summary.title, titles, self.summary.texts(), right=numeric_titles(self.summary)
            ),
            console.Table("", ["written", "path", ""], written, right=frozenset({""})),
        ]
