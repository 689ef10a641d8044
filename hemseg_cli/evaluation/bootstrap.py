"""Bootstrap intervals of means and rates over cases, resampling patients.

Every number reported here is a ratio of two sums over cases: a mean (sum of values over number of
cases) or a rate (detected over true lesions). A resample draws patients with replacement; its ratio
needs nothing but each patient's two sums and how often the patient was drawn, so that all resamples
of all metrics are one matrix product (Davison and Hinkley 1997, chapter 2; Efron 1987 for BCa).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["percentile", "bca"]
Floats = NDArray[np.float64]
_BLOCK = 1 << 20  # drawn numbers held at once


@dataclass(frozen=True)
class Interval:
    """A mean or rate over `n` cases and its bootstrap interval.

    NaN where undefined (no case, or one patient only).
    """

    mean: float
    ci_low: float
    ci_high: float
    n: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain values; what is undefined is None."""
        return {
            "mean": _plain(self.mean),
            "ci_low": _plain(self.ci_low),
            "ci_high": _plain(self.ci_high),
            "n": self.n,
        }


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made. `samples`: number of resamples; `confidence`: 0..1."""

    samples: int = 1000
    confidence: float = 0.95
    seed: int = 47
    method: Method = "percentile"

    def mean(
        self, values: Sequence[float] | Floats, groups: Sequence[Hashable] | None = None
    ) -> Interval:
        """The mean of `values` [n]; cases of the same group (patient) are drawn together.

        NaN values are left out (and out of `n`).
        """
        return self.ratio(values, np.ones(len(values)), groups)

    def ratio(
        self,
        numerators: Sequence[float] | Floats,
        denominators: Sequence[float] | Floats,
        groups: Sequence[Hashable] | None = None,
    ) -> Interval:
        """Sum of `numerators` over sum of `denominators`, both [n].

        Cases where either is NaN are left out.
        """
        top, bottom = (
            np.asarray(numerators, dtype=np.float64),
            np.asarray(denominators, dtype=np.float64),
        )
        known = ~(np.isnan(top) | np.isnan(bottom))
        chosen = (
            np.arange(len(top))[known]
            if groups is None
            else [group for group, keep in zip(groups, known, strict=True) if keep]
        )
        count = int(known.sum())
        sums = group_sums(np.stack([top[known], bottom[known]], axis=1), chosen)
        total = sums.sum(axis=0)
        if total[1] == 0:
            return Interval(math.nan, math.nan, math.nan, count)
        estimate = float(total[0] / total[1])
        if len(sums) < 2:
            return Interval(estimate, math.nan, math.nan, count)
        drawn = resampled_sums(sums, self.samples, self.seed)
        low, high = interval(
            ratios(drawn), estimate, sums, confidence=self.confidence, method=self.method
        )
        return Interval(estimate, low, high, count)


def group_sums(columns: Floats, groups: Sequence[Hashable] | NDArray[np.int64]) -> Floats:
    """Sums of the rows of `columns` [n, m] by group.

    [number of groups, m], in the order in which the groups first appear.
    """
    rank: dict[Hashable, int] = {}
    place = np.array([rank.setdefault(group, len(rank)) for group in groups], dtype=np.intp)
    sums = np.zeros((len(rank), columns.shape[1]))
    np.add.at(sums, place, columns)
    return sums


def draw_counts(groups: int, samples: int, seed: int) -> "list[NDArray[np.float32]]":
    """How often each group is drawn in each resample: blocks [samples of the block, groups].

    Deterministic from the seed.
    """
    random = np.random.default_rng(seed)
    rows = max(1, _BLOCK // groups)
    blocks = []
    for start in range(0, samples, rows):
        count = min(rows, samples - start)
        drawn = random.integers(0, groups, size=(count, groups), dtype=np.int32)
        drawn += np.arange(count, dtype=np.int32)[:, None] * groups
        blocks.append(
            np.bincount(drawn.reshape(-1), minlength=count * groups)
            .reshape(count, groups)
            .astype(np.float32)
        )
    return blocks


def resampled_sums(sums: Floats, samples: int, seed: int) -> Floats:
    """The column sums of each resample: [samples, m], from group sums [groups, m]."""
    return np.concatenate(
        [counts.astype(np.float64) @ sums for counts in draw_counts(len(sums), samples, seed)]
    )


def ratios(sums: Floats) -> Floats:
    """First over second column, [n].

    Rows whose second is 0 are left out (a resample in which nothing could be rated).
    """
    rated = sums[sums[:, 1] != 0]
    return np.asarray(rated[:, 0] / rated[:, 1], dtype=np.float64)


def interval(
    resampled: Floats, estimate: float, sums: Floats, *, confidence: float, method: Method
) -> tuple[float, float]:
    """Lower and upper bound from resampled ratios; `sums` [groups, 2] give BCa its jackknife."""
    tail = (1 - confidence) / 2
    shares = (tail, 1 - tail)
    if method == "bca":
        shares = _bca_shares(resampled, estimate, sums, tail)
    low, high = np.quantile(resampled, shares)
    return float(low), float(high)


def _bca_shares(
    resampled: Floats, estimate: float, sums: Floats, tail: float
) -> tuple[float, float]:
    """The two shares of the resampled distribution at which BCa reads its bounds (Efron 1987, eq.

    2.3 and 6.6).
    """
    from scipy.special import ndtr, ndtri

    # Resamples that tie with the estimate count half; sums that differ in rounding alone are a tie.
    tie = 1e-12 * max(1.0, abs(estimate))
    below = (np.mean(resampled < estimate - tie) + np.mean(resampled <= estimate + tie)) / 2
    left_out = ratios(sums.sum(axis=0) - sums)
    apart = left_out.mean() - left_out
    spread = float((apart**2).sum())
    if spread <= tie**2 or below in (0.0, 1.0):
        return tail, 1 - tail
    bias = float(ndtri(below))
    acceleration = float((apart**3).sum()) / (6 * spread**1.5)

    def share(z: float) -> float:
        return float(ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))))

    return share(float(ndtri(tail))), share(float(ndtri(1 - tail)))


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
