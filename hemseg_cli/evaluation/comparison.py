"""Runs against each other on the same scans.

Paired bootstrap, Wilcoxon signed-rank, Holm, and a ranking with its uncertainty.

Everything here works on plain numbers, patient by patient: two scans of one patient are not two
independent witnesses.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.evaluation.bootstrap import Bootstrap, group_sums, resampled_sums

Floats = NDArray[np.float64]
LOWER_IS_BETTER = ("hd95_mm", "hd95_voxel", "abs_volume_error_ml")


@dataclass(frozen=True)
class PairedDifference:
    """`a` minus `b` in one metric over `n` scans.

    `p_*_holm`: adjusted for all pairs of runs in this metric; NaN where undefined.
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

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is undefined is None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


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
    """Every pair of runs in one metric.

    `values`: run -> [n], one element per scan in the same order as `patients`.

    Scans in which a run has no value (NaN) are left out for all of them.
    """
    names, table, groups = _complete(values, patients)
    found = []
    for a, b in itertools.combinations(range(len(names)), 2):
        apart = table[:, a] - table[:, b]
        found.append(
            (
                names[a],
                names[b],
                bootstrap.mean(apart, groups),
                *paired_p_values(apart, groups, bootstrap),
            )
        )
    by_bootstrap, by_wilcoxon = holm([row[3] for row in found]), holm([row[4] for row in found])
    return [
        PairedDifference(
            metric,
            a,
            b,
            gap.n,
            gap.mean,
            gap.ci_low,
            gap.ci_high,
            p_boot,
            boot_holm,
            p_rank,
            rank_holm,
        )
        for (a, b, gap, p_boot, p_rank), boot_holm, rank_holm in zip(
            found, by_bootstrap, by_wilcoxon, strict=True
        )
    ]


def paired_p_values(
    differences: Sequence[float] | Floats, patients: Sequence[Hashable], bootstrap: Bootstrap
) -> tuple[float, float]:
    """Two-sided p of a mean difference of zero.

    By paired bootstrap, and by Wilcoxon's signed ranks. NaN with fewer than two patients.
    """
    apart = np.asarray(differences, dtype=np.float64)
    sums = group_sums(np.stack([apart, np.ones(apart.size)], axis=1), patients)
    if len(sums) < 2:
        return math.nan, math.nan
    return _bootstrap_p(sums, bootstrap), _wilcoxon_p(sums[:, 0] / sums[:, 1])


def _bootstrap_p(sums: Floats, bootstrap: Bootstrap) -> float:
    """Symmetric bootstrap-t: how often a resample's mean, in units of its own standard error, is as far from the mean as that from zero.

    Studentised because the plain percentile test rejects too often with few patients (Davison and
    Hinkley 1997, section 4.4). The standard error is that of a ratio of patient sums: residuals of
    each patient's sum, squared.
    """
    total, count = sums[:, 0], sums[:, 1]
    mean = float(total.sum() / count.sum())
    observed = _squared_t(mean, *_moments(sums).sum(axis=0))
    drawn = resampled_sums(_moments(sums), bootstrap.samples, bootstrap.seed)
    means = drawn[:, 0] / drawn[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = _squared_t(means - mean, *drawn.T)
    if not math.isfinite(observed):
        return 1.0 if mean == 0 else math.nan
    # A resample of equal patients has no spread: its t is infinite, which is as far as can be.
    extreme = np.isnan(resampled) | (resampled >= observed * (1 - 1e-12))
    return float((extreme.sum() + 1) / (len(resampled) + 1))


def _moments(sums: Floats) -> Floats:
    total, count = sums.T
    return np.stack([total, count, total**2, total * count, count**2], axis=1)


def _squared_t(gap: Any, total: Any, count: Any, total2: Any, cross: Any, count2: Any) -> Any:
    """(gap / standard error of total / count)2.

    Infinite or NaN where the patients do not spread.
    """
    mean = total / count
    squares = total2 - 2 * mean * cross + mean**2 * count2
    squares = np.where(squares > 1e-12 * np.maximum(total2, 1e-300), squares, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(gap**2 * count**2 / squares)


def _wilcoxon_p(differences: Floats) -> float:
    from scipy.stats import wilcoxon  # slow to import

    if not differences.any():
        return 1.0
    # Pratt keeps the ties (both runs missed the case, say) in the ranking.
    return float(wilcoxon(differences, zero_method="pratt").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): family-wise error over these tests.

    NaN stays NaN and is no test.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = highest
    return adjusted


def rank_runs(
    metric: str,
    values: Mapping[str, Sequence[float]],
    patients: Sequence[Hashable],
    bootstrap: Bootstrap,
) -> list[Rank]:
    """The runs by their mean, best first, and how sure that order is.

    Ranks over resamples of patients. Equal means share a rank.
    """
    names, table, groups = _complete(values, patients)
    if not len(table):
        return []
    sign = 1.0 if metric in LOWER_IS_BETTER else -1.0
    sums = group_sums(np.column_stack([table, np.ones(len(table))]), groups)
    total = sums.sum(axis=0)
    means = total[:-1] / total[-1]
    drawn = resampled_sums(sums, bootstrap.samples, bootstrap.seed)
    ranks = _ranks(sign * drawn[:, :-1] / drawn[:, -1:])
    own = _ranks(sign * means[None, :])[0]
    tail = (1 - bootstrap.confidence) / 2
    low, high = np.quantile(ranks, [tail, 1 - tail], axis=0)
    first = ranks == ranks.min(axis=1, keepdims=True)
    p_best = (first / first.sum(axis=1, keepdims=True)).mean(axis=0)
    rows = [
        Rank(name, float(means[n]), float(own[n]), float(low[n]), float(high[n]), float(p_best[n]))
        for n, name in enumerate(names)
    ]
    return sorted(rows, key=lambda row: row.rank)


def _ranks(scores: Floats) -> Floats:
    """Ranks along the last axis, 1 the smallest, ties at their mean rank."""
    from scipy.stats import rankdata  # slow to import

    return np.asarray(rankdata(np.round(scores, 12), axis=1), dtype=np.float64)


def _complete(
    values: Mapping[str, Sequence[float]], patients: Sequence[Hashable]
) -> tuple[list[str], Floats, list[Hashable]]:
    """Names, values [scans, runs] and patients of the scans in which every run has a value."""
    names = list(values)
    table = np.array([values[name] for name in names], dtype=np.float64).T
    whole = np.asarray(~np.isnan(table).any(axis=1))
    return (
        names,
        table[whole],
        [patient for patient, keep in zip(patients, whole, strict=True) if keep],
    )
