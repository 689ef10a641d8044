"""Tests of runs against each other on the same scans, and their ranking.

Paired bootstrap, Wilcoxon's signed ranks, Holm's correction, ranks with their uncertainty.
Everything here works on plain numbers, patient by patient: two scans of one patient are not two
independent witnesses.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.evaluation.bootstrap import (
    LEAST_PATIENTS,
    Bootstrap,
    Interval,
    group_sums,
    plain,
    resampled_sums,
    studentised,
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PairedDifference:
    """`a` minus `b` in one metric over `n` scans.

    `label_class`: the key of the class, "" for all together. `p_*_holm`: adjusted for all pairs of
    runs, and all classes where they are tested one by one, in this metric; NaN where undefined.
    """

    metric: str
    a: str
    b: str
    n: int
    difference: float
    ci_low: float
    ci_high: float
    p_bootstrap: float
    p_bootstrap_holm: float
    p_wilcoxon: float
    p_wilcoxon_holm: float
    label_class: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what is undefined is None."""
        return plain(asdict(self))


@dataclass(frozen=True)
class Rank:
    """A run's place by its mean of one metric, 1 the best.

    `rank_low`, `rank_high`: interval of its rank over resamples; `p_best`: share of the resamples
    in which it is first.
    """

    run: str
    mean: float
    rank: float
    rank_low: float
    rank_high: float
    p_best: float


def compare_pairs(
    metric: str,
    values: Mapping[str, Sequence[float]],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> list[PairedDifference]:
    """Test every pair of runs in one metric.

    `values`: run -> [n], one element per scan in the same order as `patients`.

    Scans in which a run has no value (NaN) are left out for all of them.
    """
    return _adjusted(_pairs(metric, "", values, patients, bootstrap))


def compare_pairs_by_class(
    metric: str,
    values: Mapping[str, Mapping[str, Sequence[float]]],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> list[PairedDifference]:
    """Test every pair of runs in one metric, class by class.

    `values`: class key -> run -> [n]. Holm's correction is over all pairs in all classes.
    """
    return _adjusted(
        [
            pair
            for key, of_class in values.items()
            for pair in _pairs(metric, key, of_class, patients, bootstrap)
        ]
    )


def _pairs(
    metric: str,
    label_class: str,
    values: Mapping[str, Sequence[float]],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> list[PairedDifference]:
    """Test every pair of runs; the adjusted p values are left NaN."""
    names, table, groups = _complete(values, patients)
    found = []
    for a, b in itertools.combinations(range(len(names)), 2):
        gap, p, rank_p = paired_test(table[:, a] - table[:, b], groups, bootstrap)
        found.append(
            PairedDifference(
                metric,
                names[a],
                names[b],
                gap.n,
                gap.mean,
                gap.ci_low,
                gap.ci_high,
                p,
                math.nan,
                rank_p,
                math.nan,
                label_class,
            )
        )
    return found


def _adjusted(pairs: Sequence[PairedDifference]) -> list[PairedDifference]:
    """Return the tests with their p values adjusted for all of them."""
    p_bootstrap = holm([pair.p_bootstrap for pair in pairs])
    p_wilcoxon = holm([pair.p_wilcoxon for pair in pairs])
    return [
        replace(pair, p_bootstrap_holm=p, p_wilcoxon_holm=rank_p)
        for pair, p, rank_p in zip(pairs, p_bootstrap, p_wilcoxon, strict=True)
    ]


def paired_test(
    differences: Sequence[float] | Floats, patients: Sequence[Hashable], bootstrap: Bootstrap
) -> tuple[Interval, float, float]:
    """Return the mean difference with its interval, and two-sided p values of a mean of zero.

    Interval and first p by one symmetric bootstrap-t over patients: the interval excludes 0 exactly
    where p < 1 - confidence. Second p by Wilcoxon's signed ranks. Both NaN below `LEAST_PATIENTS`.
    """
    # Scans of one patient are drawn together: their differences are summed first.
    apart = np.asarray(differences, dtype=np.float64)
    sums = group_sums(np.stack([apart, np.ones(apart.size)], axis=1), patients)
    if len(sums) < LEAST_PATIENTS:
        return Bootstrap().mean(apart, patients), math.nan, math.nan

    found = studentised(sums, bootstrap)
    gap = Interval(
        found.mean,
        found.mean - found.half_width,
        found.mean + found.half_width,
        apart.size,
        "studentised",
    )
    return gap, found.p, _wilcoxon_p(sums[:, 0] / sums[:, 1])


def _wilcoxon_p(differences: Floats) -> float:
    from scipy.stats import wilcoxon  # slow to import

    if not differences.any():
        return 1.0

    # Pratt keeps the ties (both runs missed the case, say) in the ranking.
    return float(wilcoxon(differences, zero_method="pratt").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values by Holm's step-down procedure (1979): family-wise error over these tests.

    NaN stays NaN and is no test.
    """
    # From the smallest p on: the k-th is multiplied by how many are left, and none falls below the
    # one before it.
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = highest
    return adjusted


def rank_runs(
    values: Mapping[str, Sequence[float]],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
    *,
    lower_is_better: bool = False,
) -> list[Rank]:
    """Rank the runs by their mean, best first, and say how sure that order is.

    Ranks over resamples of patients. Equal means share a rank.
    """
    names, table, groups = _complete(values, patients)
    if not len(table):
        return []

    # Ranks of the means themselves, and of the means of every resample of patients.
    sign = 1.0 if lower_is_better else -1.0
    sums = group_sums(np.column_stack([table, np.ones(len(table))]), groups)
    total = sums.sum(axis=0)
    means = total[:-1] / total[-1]
    drawn = resampled_sums(sums, bootstrap.samples, bootstrap.seed)
    ranks = _ranks(sign * drawn[:, :-1] / drawn[:, -1:])
    own = _ranks(sign * means[None, :])[0]

    # The interval of a rank, over the resamples.
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(ranks, [tail, 1 - tail], axis=0)

    # Runs that tie for the first place share it.
    first = ranks == ranks.min(axis=1, keepdims=True)
    p_best = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)

    rows = [
        Rank(name, float(means[n]), float(own[n]), float(low[n]), float(high[n]), float(p_best[n]))
        for n, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: row.rank)


def _ranks(scores: Floats) -> Floats:
    """Rank along the last axis, 1 the smallest, ties at their mean rank."""
    from scipy.stats import rankdata  # slow to import

    return np.asarray(rankdata(np.round(scores, 12), axis=1), dtype=np.float64)


def _complete(
    values: Mapping[str, Sequence[float]], patients: Sequence[Hashable]
) -> tuple[list[str], Floats, list[Hashable]]:
    """Return names, values [scans, runs] and patients of the scans that every run has."""
    names = list(values)
    table = np.array([values[name] for name in names], dtype=np.float64).T

    # A paired test needs every run's value of a scan.
    whole = np.asarray(~np.isnan(table).any(axis=1))
    return (
        names,
        table[whole],
        [patient for patient, keep in zip(patients, whole, strict=True) if keep],
    )
