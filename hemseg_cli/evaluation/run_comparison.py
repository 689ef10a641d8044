"""The comparison of evaluated runs, for `evaluate` and `report` alike.

Every pair of runs in every metric, and the ranking, on all scans: a scan that a run has no mask of
counts as missed. The same on the scans that every run has a mask of stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hemseg_cli.core.classes import UNION
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.names import first_few
from hemseg_cli.evaluation.bootstrap import Bootstrap, Method, plain
from hemseg_cli.evaluation.case_table import (
    FOUND,
    numbers_of,
    patients_of,
    tables_by_class,
    union_of,
)
from hemseg_cli.evaluation.comparison import (
    PairedDifference,
    Rank,
    compare_pairs,
    compare_pairs_by_class,
    rank_runs,
)
from hemseg_cli.evaluation.metric_table import Metric
from hemseg_cli.evaluation.nsd_tolerance import tolerance_settings, tolerance_text
from hemseg_cli.evaluation.summary import Summary

if TYPE_CHECKING:
    from pandas import DataFrame

RANKED_BY = "dice"


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's summary and the table of its cases."""

    name: str
    summary: Summary
    table: "DataFrame"


@dataclass(frozen=True)
class Comparison:
    """The runs on the same scans.

    `left_out`: scans that were not scored in every run. `without_mask`: scans that a run has no
    mask of; they count as missed, and `complete_case` holds the pairs without them. `by_class`: the
    tests of each class that every run was scored in.
    """

    n_scans: int
    n_patients: int
    confidence: float
    samples: int
    rows: tuple[Metric, ...]
    pairs: tuple[PairedDifference, ...]
    ranking: tuple[Rank, ...]
    left_out: tuple[str, ...]
    without_mask: tuple[str, ...]
    complete_case: tuple[PairedDifference, ...]
    by_class: tuple[PairedDifference, ...] = ()

    @property
    def ranked_by(self) -> str:
        """The metric by whose mean the runs are ranked."""
        return RANKED_BY

    def heading(self, metric: str) -> str:
        """Return the title, with its unit, of a metric."""
        return self.row(metric).heading

    def row(self, metric: str) -> Metric:
        """Return a metric's row of the table."""
        return next(row for row in self.rows if row.key == metric)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "n_scans": self.n_scans,
            "n_patients": self.n_patients,
            "left_out": list(self.left_out),
            "without_mask": list(self.without_mask),
            "confidence": self.confidence,
            "pairs": [pair.to_dict() for pair in self.pairs],
            "complete_case": [pair.to_dict() for pair in self.complete_case],
            "by_class": [pair.to_dict() for pair in self.by_class],
            "ranked_by": self.ranked_by,
            "ranking": [plain(asdict(rank)) for rank in self.ranking],
        }


def compare_runs(runs: Sequence[EvaluatedRun]) -> Comparison:
    """Compare two runs or more by the settings that the first was evaluated with.

    HemsegError where protocols or labels differ, or no scan is common.
    """
    refuse_different_protocols(runs)
    unions = {run.name: union_of(run.table) for run in runs}

    # Runs are compared on the scans that all of them were scored on.
    scans = [set(table["scan"]) for table in unions.values()]
    common = sorted(set.intersection(*scans))
    if not common:
        raise HemsegError(
            "the runs have no scan in common", hint="evaluate all of them on one split"
        )
    _refuse_different_labels(runs)

    # Merged on the scan id: row n of every table is the same scan.
    tables = {name: _in_order(table, common) for name, table in unions.items()}
    first = tables[runs[0].name]
    patients = patients_of(first)
    bootstrap = _bootstrap(runs[0].summary)
    rows = [row for row in runs[0].summary.rows if row.compared]

    # What a run has no mask of counts as missed; beside that stand the scans that all have one of.
    has_mask = [
        all(table.loc[scan, "mask"] == FOUND for table in tables.values()) for scan in common
    ]
    without_mask = [scan for scan, whole in zip(common, has_mask, strict=True) if not whole]
    complete = {name: table[has_mask] for name, table in tables.items()}

    return Comparison(
        n_scans=len(common),
        n_patients=len(set(patients)),
        confidence=bootstrap.confidence,
        samples=bootstrap.samples,
        rows=tuple(rows),
        pairs=_pairs(rows, tables, bootstrap),
        ranking=tuple(rank_runs(_columns(RANKED_BY, tables), patients, bootstrap)),
        left_out=tuple(sorted(set.union(*scans) - set(common))),
        without_mask=tuple(without_mask),
        complete_case=_pairs(rows, complete, bootstrap) if without_mask else (),
        by_class=_pairs_by_class(rows, runs, common, bootstrap),
    )


def refuse_different_protocols(runs: Sequence[EvaluatedRun]) -> None:
    """HemsegError where the runs were not scored by the same protocol and tolerance."""
    first = runs[0].summary
    for run in runs[1:]:
        theirs = run.summary
        if theirs.protocol != first.protocol:
            raise HemsegError(
                f"{runs[0].name} was scored by the {first.protocol} protocol, {run.name} by the "
                f"{theirs.protocol} protocol",
                hint=f"{_evaluate_again(run)} --protocol {first.protocol}",
            )
        if theirs.nsd_tolerance_mm != first.nsd_tolerance_mm:
            raise HemsegError(
                f"{runs[0].name} was scored at a tolerance of "
                f"{tolerance_text(first.nsd_tolerance_mm)}, {run.name} at "
                f"{tolerance_text(theirs.nsd_tolerance_mm)}",
                hint=f"{_evaluate_again(run)} {tolerance_settings(first.nsd_tolerance_mm)}",
            )


def _evaluate_again(*runs: EvaluatedRun) -> str:
    """Return what to type to score the runs anew, on the first one's split and data set."""
    first = runs[0].summary
    names = " ".join(f"--run {run.name}" for run in runs)
    split = f" --split {first.split}" if first.split else ""
    data = f" --dataset {first.dataset}" if first.dataset else ""
    return f"hemseg evaluate {names}{split}{data}"


def scans_with_other_labels(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Return the scans that two runs were scored against different labels of."""
    labels: dict[str, set[str]] = {}
    for run in runs:
        table = union_of(run.table)

        # A label that was edited between two evaluations has another digest.
        for scan, digest in zip(table["scan"], table["label_sha256"], strict=True):
            labels.setdefault(scan, set()).add(digest)
    return sorted(scan for scan, digests in labels.items() if len(digests) > 1)


def _refuse_different_labels(runs: Sequence[EvaluatedRun]) -> None:
    for other in runs[1:]:
        differ = scans_with_other_labels([runs[0], other])
        if differ:
            raise HemsegError(
                f"{runs[0].name} and {other.name} were scored against different labels of "
                f"{len(differ)} scans: {first_few(differ)}",
                hint=f"{_evaluate_again(runs[0], other)}   scores them on the labels as they are",
            )


def _bootstrap(summary: Summary) -> Bootstrap:
    how = summary.bootstrap
    # The paper's own interval is of one run's mean: its runs are compared as any others.
    methods: dict[str, Method] = {"percentile": "percentile", "bca": "bca"}
    method = methods.get(how.method, "studentised")
    return Bootstrap(how.samples, how.confidence, how.seed, method)


def _columns(metric: str, tables: Mapping[str, "DataFrame"]) -> dict[str, list[float]]:
    return {name: numbers_of(table, metric).tolist() for name, table in tables.items()}


def _in_order(table: "DataFrame", scans: Sequence[str]) -> "DataFrame":
    return table.set_index("scan", drop=False).loc[list(scans)]


def _pairs_by_class(
    rows: Sequence[Metric],
    runs: Sequence[EvaluatedRun],
    common: Sequence[str],
    bootstrap: Bootstrap,
) -> tuple[PairedDifference, ...]:
    """Compare the runs in each class that all of them were scored in."""
    divided = {run.name: tables_by_class(run.table) for run in runs}
    first = next(iter(divided.values()))

    # A class that one run does not know has no pair to be compared in.
    keys = [
        key for key in first if key != UNION and all(key in tables for tables in divided.values())
    ]
    if not keys:
        return ()

    tables = {
        key: {name: _in_order(parts[key], common) for name, parts in divided.items()}
        for key in keys
    }
    patients = patients_of(_in_order(first[UNION], common))
    return tuple(
        pair
        for row in rows
        for pair in compare_pairs_by_class(
            row.key,
            {key: _columns(row.key, of_class) for key, of_class in tables.items()},
            patients,
            bootstrap,
        )
    )


def _pairs(
    rows: Sequence[Metric], tables: Mapping[str, "DataFrame"], bootstrap: Bootstrap
) -> tuple[PairedDifference, ...]:
    patients = patients_of(next(iter(tables.values())))
    return tuple(
        pair
        for row in rows
        for pair in compare_pairs(row.key, _columns(row.key, tables), patients, bootstrap)
    )
