"""From the table of the cases to the numbers of a split, `summary.json`.

Means and rates with intervals, strata, agreement of volumes, counts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from hemseg_cli.config.schema import EvaluateConfig
from hemseg_cli.core.cases import VOLUME_STRATA, volume_stratum
from hemseg_cli.core.classes import UNION, LabelClass
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.names import first_few
from hemseg_cli.evaluation.agreement import Agreement, volume_agreement
from hemseg_cli.evaluation.bootstrap import Bootstrap, Interval
from hemseg_cli.evaluation.case_table import (
    MISSING,
    numbers_of,
    patients_of,
    tables_by_class,
    taken_for_columns,
)
from hemseg_cli.evaluation.metric_table import Metric, Protocol, averaged, metric_rows
from hemseg_cli.evaluation.paper_protocol import (
    PAPER_CONFIDENCE,
    PAPER_SAMPLES,
    PAPER_SEED,
    paper_interval,
)
from hemseg_cli.imaging.geometry import TILTED_FROM_DEG

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FORMAT = 1
_HINT = "hemseg evaluate   writes it anew"
"""The form of `summary.json`; another one is refused."""


@dataclass(frozen=True)
class Stratum:
    """A part of the scans: how many, and the estimate of each metric."""

    n: int
    metrics: dict[str, Interval]


@dataclass(frozen=True)
class Resampling:
    """How the intervals were made. `unit`: what is drawn, patient or case."""

    samples: int
    confidence: float
    seed: int
    unit: str
    method: str


@dataclass(frozen=True)
class ClassSummary:
    """The numbers of one class over all scans.

    Where a scan does not have the class (`n_absent`), the metrics of its masks are undefined: means
    are over the scans that have it, one in which it was missed counts 0. What is predicted in the
    others (`n_false_positive`) counts in specificity, precision and volumes. `taken_for_ml`: the
    true volume of the class by the class that it was taken for ("none": for no class).
    """

    name: str
    colour: tuple[int, int, int]
    n_present: int
    n_absent: int
    n_missed: int
    n_false_positive: int
    metrics: dict[str, Interval]
    lesions: dict[str, int]
    agreement: Agreement
    taken_for_ml: dict[str, float]


@dataclass(frozen=True)
class Summary:
    """`summary.json`: the numbers of one split.

    `dataset`: the one that was scored; `trained_on`: that of the run ("" for masks of another
    tool). `n_missed`: hemorrhages of which nothing was predicted; `n_missing`: scans without a
    mask, which count as missed; `n_false_positive`: scans without hemorrhage (`n_empty_truth`) that
    have a prediction. `n_resampled`: under the paper's protocol, masks that came to the published
    grid by way of another one. With several classes everything is of their union, and `classes`
    holds each of them by key.
    """

    protocol: Protocol
    split: str
    dataset: str
    trained_on: str
    nsd_tolerance_mm: float | tuple[tuple[float, float], ...]
    n_cases: int
    n_missed: int
    n_false_positive: int
    n_empty_truth: int
    n_missing: int
    n_resampled: int
    metrics: dict[str, Interval]
    bootstrap: Resampling
    strata: dict[str, dict[str, Stratum]]
    lesions: dict[str, int]
    agreement: Agreement
    definitions: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    classes: dict[str, ClassSummary] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def rows(self) -> list[Metric]:
        """The rows of the metric table that these cases were scored by."""
        return metric_rows(self.protocol, self.nsd_tolerance_mm)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; what is undefined is None."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any, *, place: str, hint: str = _HINT) -> "Summary":
        """Read what `to_dict` wrote; FileFormatError names `place` and the key that is wrong."""
        try:
            found: Summary = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the whole"
            raise FileFormatError(
                f"{place} is not a summary of an evaluation: {key}: {first['msg']}", hint=hint
            ) from None
        if found.format != FORMAT:
            raise FileFormatError(
                f"{place} has form {found.format}, this version reads {FORMAT}", hint=hint
            )
        return found


@dataclass(frozen=True)
class Scored:
    """What was scored, as the summary names it."""

    split: str
    dataset: str = ""
    trained_on: str = ""
    n_resampled: int = 0
    classes: tuple[LabelClass, ...] = ()


def bootstrap_of(config: EvaluateConfig) -> Bootstrap:
    """Return the bootstrap that the configuration asks for."""
    return Bootstrap(
        samples=config.bootstrap,
        confidence=config.confidence,
        seed=config.seed,
        method=config.method,
    )


def estimates(
    table: "DataFrame", rows: Sequence[Metric], bootstrap: Bootstrap | None
) -> dict[str, Interval]:
    """Return mean or rate of every metric with its interval; `bootstrap` None: the paper's."""
    patients = patients_of(table)
    found = {}
    for row in averaged(rows):
        # A rate is a ratio of sums; a mean is over the scans that have a value.
        if row.rate is not None:
            numerators, denominators = (part.to_numpy(float) for part in row.rate(table))
            found[row.key] = (bootstrap or Bootstrap()).rate(numerators, denominators, patients)
        elif bootstrap is None:
            found[row.key] = paper_interval(numbers_of(table, row.key).tolist())
        else:
            found[row.key] = bootstrap.mean(numbers_of(table, row.key), patients, bounds=row.bounds)
        if row.optional and not found[row.key].n:
            del found[row.key]
    return found


def summarise(
    table: "DataFrame", config: EvaluateConfig, scored: Scored, *, warnings: Iterable[str] = ()
) -> Summary:
    """Summarise the table of the cases (`case_table`)."""
    # The numbers of the split are those of all classes together.
    by_class = tables_by_class(table)
    table = by_class.pop(UNION)
    rows = metric_rows(config.protocol, config.nsd_tolerances_mm)
    bootstrap = None if config.protocol == "paper" else bootstrap_of(config)
    found = estimates(table, rows, bootstrap)

    # Presence in a scan is a voxel of it: counts are of scans, not of voxels.
    hemorrhage, predicted = table["truth_ml"] > 0, table["predicted_ml"] > 0
    known = {each.key: each for each in scored.classes}

    return Summary(
        protocol=config.protocol,
        split=scored.split,
        dataset=scored.dataset,
        trained_on=scored.trained_on,
        nsd_tolerance_mm=config.nsd_tolerances_mm,
        n_cases=len(table),
        n_missed=int((hemorrhage & ~predicted).sum()),
        n_false_positive=int((~hemorrhage & predicted).sum()),
        n_empty_truth=int((~hemorrhage).sum()),
        n_missing=int((table["mask"] == MISSING).sum()),
        n_resampled=scored.n_resampled,
        metrics=found,
        bootstrap=_resampling(table, config),
        strata={
            by: _strata(table, rows, bootstrap, groups, names)
            for by, groups, names in _groupings(table)
        },
        lesions=_lesions(table),
        agreement=_agreement(table),
        definitions={row.key: row.definition for row in averaged(rows) if row.key in found},
        warnings=[*warnings, *_own_warnings(table, rows, found)],
        classes={
            key: _class_summary(known.get(key) or LabelClass(1, key), part, rows, bootstrap)
            for key, part in by_class.items()
        },
    )


def _class_summary(
    label_class: LabelClass,
    table: "DataFrame",
    rows: Sequence[Metric],
    bootstrap: Bootstrap | None,
) -> ClassSummary:
    present, predicted = table["truth_ml"] > 0, table["predicted_ml"] > 0

    return ClassSummary(
        name=label_class.name,
        colour=label_class.colour,
        n_present=int(present.sum()),
        n_absent=int((~present).sum()),
        n_missed=int((present & ~predicted).sum()),
        n_false_positive=int((~present & predicted).sum()),
        metrics=estimates(table, rows, bootstrap),
        lesions=_lesions(table),
        agreement=_agreement(table),
        taken_for_ml={
            key: float(table[column].sum()) for key, column in taken_for_columns(table).items()
        },
    )


def _lesions(table: "DataFrame") -> dict[str, int]:
    return {name: int(table[f"lesions_{name}"].sum()) for name in _LESION_COUNTS}


def _agreement(table: "DataFrame") -> Agreement:
    return volume_agreement(table["truth_ml"].tolist(), table["predicted_ml"].tolist())


_LESION_COUNTS = ("truth", "predicted", "detected", "false")


def _resampling(table: "DataFrame", config: EvaluateConfig) -> Resampling:
    if config.protocol == "paper":
        return Resampling(PAPER_SAMPLES, PAPER_CONFIDENCE, PAPER_SEED, "case", "published")

    # Scans of one patient are drawn together; where none is known, each is its own.
    unit = "patient" if (table["patient"] != "").any() else "case"
    return Resampling(config.bootstrap, config.confidence, config.seed, unit, config.method)


def _groupings(table: "DataFrame") -> Iterable[tuple[str, "Series[str]", Sequence[str]]]:
    """Yield each way to divide the scans: its name, the stratum of each scan, their order."""
    # A scan without hemorrhage is in no stratum of volume.
    volume = table["truth_ml"].map(lambda ml: volume_stratum(ml) if ml > 0 else "")
    yield "volume", volume, VOLUME_STRATA

    tilted = table["tilt_deg"].abs() > TILTED_FROM_DEG
    yield "tilt", tilted.map({True: "tilted", False: "straight"}), ("straight", "tilted")

    yield "class", table["scan_class"], sorted(set(table["scan_class"]) - {""})


def _strata(
    table: "DataFrame",
    rows: Sequence[Metric],
    bootstrap: Bootstrap | None,
    groups: "Series[str]",
    names: Sequence[str],
) -> dict[str, Stratum]:
    parts = dict(iter(table.groupby(groups)))
    return {
        name: Stratum(
            len(parts[name]),
            estimates(parts[name], rows, bootstrap),
        )
        for name in names
        if name in parts
    }


def _own_warnings(
    table: "DataFrame", rows: Sequence[Metric], found: dict[str, Interval]
) -> Iterable[str]:
    missing = table.loc[table["mask"] == MISSING, "scan"].tolist()
    if missing:
        yield f"{len(missing)} scans have no mask and count as missed: {first_few(missing)}"

    if len(set(patients_of(table))) == 1:
        yield "one patient only: intervals are undefined"

    # Where a metric is undefined for a scan with hemorrhage, its mean hides that scan.
    hemorrhage = int((table["truth_ml"] > 0).sum())
    for row in averaged(rows):
        if row.averaged_over != "hemorrhage" or row.key not in found:
            continue
        left_out = hemorrhage - found[row.key].n
        if left_out > 0:
            yield (
                f"{left_out} of {hemorrhage} cases have no {row.key} and are left out of its mean"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
