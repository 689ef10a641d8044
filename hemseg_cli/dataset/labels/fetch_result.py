"""What `fetch-labels` returns: as plain values and as tables."""

import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.core import console
from hemseg_cli.core.cases import SPLITS, Case, patients_across_splits
from hemseg_cli.core.data_directory import EXCLUDED
from hemseg_cli.imaging.geometry import TILTED_FROM_DEG


@dataclass(frozen=True)
class FetchResult:
    """The labels that are there now, and what this run did about them.

    `differing`: labels that are not the archive's and were kept.
    """

    dataset: str
    folder: Path
    origin: str
    cases: tuple[Case, ...]
    written: int
    restored: tuple[str, ...]
    differing: tuple[str, ...]
    failures: dict[str, str]
    warnings: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """Whether a label could not be laid out."""
        return bool(self.failures)

    def payload(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "dataset": self.dataset,
            "folder": str(self.folder),
            "source": self.origin,
            "labels": len(self.cases),
            "written": self.written,
            "restored": list(self.restored),
            "differing": list(self.differing),
            "failures": self.failures,
            "splits": self.split_counts(),
            "patients": len({case.patient for case in self.cases}),
            "patients_in_several_splits": self.shared(),
            "tilted": sum(abs(case.tilt_deg or 0.0) > TILTED_FROM_DEG for case in self.cases),
            "truth_ml_median": self.median_ml(),
            "warnings": list(self.warnings),
        }

    def split_counts(self) -> dict[str, int]:
        """Count the scans of each split; `excluded` where there are such."""
        counts = Counter(case.split or EXCLUDED for case in self.cases)
        return {
            split: counts[split]
            for split in (*SPLITS, EXCLUDED)
            if counts[split] or split in SPLITS
        }

    def shared(self) -> dict[str, list[str]]:
        """Return patient -> `split/scan` of each scan, for patients in more than one split."""
        several = patients_across_splits(case for case in self.cases if case.split)
        return {
            patient: [
                f"{case.split}/{case.scan}"
                for case in self.cases
                if case.patient == patient and case.split
            ]
            for patient in sorted(several)
        }

    def median_ml(self) -> float | None:
        """Return the median hemorrhage, mL."""
        volumes = [case.truth_ml for case in self.cases if case.truth_ml is not None]
        return round(statistics.median(volumes), 3) if volumes else None

    def tables(self) -> list[console.Table]:
        """Return the result for a person."""
        counts = self.split_counts()
        did = f"{self.written} written" + (
            f", {len(self.restored)} restored" if self.restored else ""
        )
        there = len(self.cases) - self.written - len(self.restored)
        rows = [
            ["folder", str(self.folder)],
            ["labels", f"{len(self.cases)} ({did}, {there} already there)"],
            ["splits", "  ".join(f"{split} {count}" for split, count in counts.items())],
            [
                "patients",
                f"{len({case.patient for case in self.cases})}, "
                f"{len(self.shared())} of them in more than one split",
            ],
            [
                "tilted gantry",
                f"{self.payload()['tilted']} scans by more than {TILTED_FROM_DEG} degrees",
            ],
            ["hemorrhage", f"median {self.median_ml()} mL"],
        ]
        tables = [console.Table(f"{self.dataset}", ["", ""], rows)]
        if self.shared():
            patients = [[patient, "  ".join(scans)] for patient, scans in self.shared().items()]
            tables.append(
                console.Table(
                    "Patients in more than one split",
                    ["patient", "scans"],
                    patients,
                    caption="hemseg fetch-labels --splits patient   moves them out of train, val",
                )
            )
        if self.failures:
            rows = [list(pair) for pair in self.failures.items()]
            tables.append(console.Table("Not laid out", ["scan", "reason"], rows))
        return tables
