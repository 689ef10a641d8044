"""Intervals of means and rates over cases, by resampling patients.

A mean is a ratio of two sums over cases (sum of values over number of cases). A resample draws
patients with replacement; its ratio needs nothing but each patient's two sums and how often the
patient was drawn, so that all resamples are one matrix product (Davison and Hinkley 1997, chapter
2). Three kinds of interval are read from them:

* studentised (the default, and always below `STUDENTISED_BELOW` patients): the mean -+ the
  confidence quantile of |t| over the resamples, t being a resample's distance from the mean in its
  own standard errors (Davison and Hinkley 1997, section 5.2). The p value of `comparison` comes
  from the same t: the interval excludes 0 exactly where p < 1 - confidence.
* log-studentised, in its place for sizes (distances, absolute errors: from 0 to any number): the
  same on the logarithm of the mean (Davison and Hinkley 1997, section 5.2.2). Such numbers are
  skewed to the right, and an interval symmetric about their mean ends too low: with 8 and 10
  patients it holds the true mean in 90 %, this one in 92 % (`benchmarks/coverage.py`);
* percentile, and BCa (Efron 1987), on request.

Rates of counts take the exact interval of Clopper and Pearson at the effective number of lesions,
for lesions of one patient are alike (Korn and Graubard 1998, Survey Methodology 24:193-201). Below
`LEAST_PATIENTS` patients a mean has no interval: none that was simulated covers what it promises
(`benchmarks/coverage.py`).
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

Method = Literal["studentised", "percentile", "bca"]
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A number that JSON holds as null where it is undefined."""
Floats = NDArray[np.float64]

LEAST_PATIENTS = 5
"""With fewer patients the interval of a mean is "too few"."""

STUDENTISED_BELOW = 20
"""With fewer patients every interval of a mean is studentised, whatever method is asked for."""

SIZE = (0.0, math.inf)
"""The bounds of a distance or of an absolute error."""

_DRAWN_AT_ONCE = 1 << 20  # numbers held at once
_TIE = 1e-12
# The least standard error of a resample, of that of all patients. Where most patients are equal (an
# HD95 of one pixel, a surface Dice of 1) some resamples hold no other, and their t is infinite: 12
# real scans had an HD95 of 3.1 mm without interval. Coverage is the same with and without it where
# values differ (`benchmarks/coverage.py`).
_LEAST_ERROR = 0.25


@dataclass(frozen=True)
class Interval:
    """A mean or rate over `n` cases and its interval; NaN where undefined.

    `method`: how the interval was made: studentised, log-studentised, percentile, bca, exact,
    published; "too few" where there are not enough patients; "" where there is no value at all.
    """

    mean: Number
    ci_low: Number
    ci_high: Number
    n: int
    method: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what is undefined is None."""
        return plain(asdict(self))


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are made. `samples`: number of resamples; `confidence`: 0..1."""

    samples: int = 1000
    confidence: float = 0.95
    seed: int = 47
    method: Method = "studentised"

    def mean(
        self,
        values: Sequence[float] | Floats,
        groups: Sequence[Hashable] | None = None,
        *,
        bounds: tuple[float, float] | None = None,
    ) -> Interval:
        """Return the mean of `values` [n] and its interval.

        Cases of the same group (patient) are drawn together. NaN values are left out (and out of
        `n`). `bounds`: the least and the largest value that the metric can take; from 0 to infinity
        for a size.
        """
        column = np.asarray(values, dtype=np.float64)
        columns = np.stack([column, np.ones(len(column))], axis=1)
        sums, count = _known_sums(columns, groups)
        if not count:
            return Interval(math.nan, math.nan, math.nan, 0)

        total = sums.sum(axis=0)
        estimate = float(total[0] / total[1])
        if len(sums) < LEAST_PATIENTS:
            return Interval(estimate, math.nan, math.nan, count, "too few")

        # Where every case stands at the metric's limit, resamples have no spread at all. A mean of
        # numbers between two limits is no surer than a rate of yes and no.
        finite = bounds is not None and math.isfinite(bounds[1] - bounds[0])
        if bounds is not None and finite and _spread(sums) == 0 and estimate in bounds:
            rate = (estimate - bounds[0]) / (bounds[1] - bounds[0])
            low, high = clopper_pearson(rate * len(sums), len(sums), self.confidence)
            width = bounds[1] - bounds[0]
            return Interval(
                estimate, bounds[0] + low * width, bounds[0] + high * width, count, "exact"
            )

        method: Method = "studentised" if len(sums) < STUDENTISED_BELOW else self.method
        if method == "studentised" and bounds == SIZE and estimate > 0:
            low, high = _log_studentised(sums, self)
            return Interval(estimate, low, high, count, "log-studentised")

        if method == "studentised":
            half_width = studentised(sums, self).half_width
            low, high = estimate - half_width, estimate + half_width
        else:
            resampled = ratios(resampled_sums(sums, self.samples, self.seed))
            low, high = interval(
                resampled, estimate, sums, confidence=self.confidence, method=method
            )
        if bounds is not None:
            low, high = max(low, bounds[0]), min(high, bounds[1])
        return Interval(estimate, float(low), float(high), count, method)

    def rate(
        self,
        numerators: Sequence[float] | Floats,
        denominators: Sequence[float] | Floats,
        groups: Sequence[Hashable] | None = None,
    ) -> Interval:
        """Return the sum of `numerators` over the sum of `denominators`, both counts [n].

        Cases where either is NaN are left out. The interval is Clopper and Pearson's at the number
        of independent counts that would spread as the patients do (Korn and Graubard 1998).
        """
        columns = np.stack(
            [
                np.asarray(numerators, dtype=np.float64),
                np.asarray(denominators, dtype=np.float64),
            ],
            axis=1,
        )
        sums, cases = _known_sums(columns, groups)
        sums = sums[sums[:, 1] > 0]
        if not len(sums):
            return Interval(math.nan, math.nan, math.nan, cases)

        hits, count = sums.sum(axis=0)
        share = float(hits / count)
        if len(sums) < 2:
            return Interval(share, math.nan, math.nan, cases, "too few")

        from scipy.stats import t as student  # slow to import

        # Patients who differ more than chance would have it are worth fewer counts; few patients
        # tell that difference badly, for which the ratio of the two t quantiles stands.
        spread = _spread(sums)
        effective = count if spread == 0 else min(count, share * (1 - share) / spread)
        upper = (1 + self.confidence) / 2
        few = student.ppf(upper, max(count - 1, 1)) / student.ppf(upper, len(sums) - 1)
        effective = min(count, effective * few**2)

        low, high = clopper_pearson(share * effective, effective, self.confidence)
        return Interval(share, low, high, cases, "exact")


@dataclass(frozen=True)
class Studentised:
    """A mean's interval (`mean` -+ `half_width`) and the p value of a mean of 0, from one t."""

    mean: float
    half_width: float
    p: float


def studentised(sums: Floats, bootstrap: Bootstrap) -> Studentised:
    """Return the symmetric bootstrap-t interval and test of the mean of patient sums [n, 2].

    The standard error is that of a ratio of patient sums (residuals of each patient's sum,
    squared). Where no patient differs from another the half-width is 0.
    """
    mean = float(sums[:, 0].sum() / sums[:, 1].sum())
    error = math.sqrt(_spread(sums))
    if error == 0:
        return Studentised(mean, 0.0, 1.0 if mean == 0 else 1 / (bootstrap.samples + 1))

    # Each resample's distance from the mean in units of its own standard error, squared.
    drawn = resampled_sums(_moments(sums), bootstrap.samples, bootstrap.seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = np.maximum(_squared_error(*drawn.T), (_LEAST_ERROR * error) ** 2)
        resampled = (drawn[:, 0] / drawn[:, 1] - mean) ** 2 / squared

    # A resample in which nothing could be rated is as far away as can be.
    resampled[np.isnan(resampled)] = math.inf
    observed = (mean / error) ** 2 * (1 - _TIE)
    p = float((np.count_nonzero(resampled >= observed) + 1) / (len(resampled) + 1))

    half_width = error * math.sqrt(_largest_allowed(resampled, bootstrap) / (1 - _TIE))
    return Studentised(mean, half_width if math.isfinite(half_width) else math.nan, p)


def _log_studentised(sums: Floats, bootstrap: Bootstrap) -> tuple[float, float]:
    """Return the bootstrap-t interval of a positive mean of patient sums [n, 2], on its logarithm.

    By the delta method the standard error of the logarithm is the mean's over the mean.
    """
    mean = float(sums[:, 0].sum() / sums[:, 1].sum())
    error = math.sqrt(_spread(sums)) / mean
    if error == 0:
        return mean, mean

    drawn = resampled_sums(_moments(sums), bootstrap.samples, bootstrap.seed)
    means, squared = drawn[:, 0] / drawn[:, 1], _squared_error(*drawn.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.maximum(squared / means**2, (_LEAST_ERROR * error) ** 2)
        resampled = np.log(means / mean) ** 2 / relative

    # A resample of zeros alone is as far away as can be.
    resampled[np.isnan(resampled)] = math.inf
    reach = error * math.sqrt(_largest_allowed(resampled, bootstrap))
    if not math.isfinite(reach):
        return math.nan, math.nan
    return mean * math.exp(-reach), mean * math.exp(reach)


def _largest_allowed(squared_t: Floats, bootstrap: Bootstrap) -> float:
    """Return the largest squared t that leaves p at 1 - confidence or above."""
    allowed = math.ceil((1 - bootstrap.confidence) * (len(squared_t) + 1) - 1 - _TIE) - 1
    return float(np.sort(squared_t)[::-1][max(0, allowed)])


def clopper_pearson(hits: float, count: float, confidence: float) -> tuple[float, float]:
    """Return the exact bounds of a rate (Clopper and Pearson 1934) of `hits` in `count`.

    Numbers between whole ones are taken as the beta distribution takes them.
    """
    from scipy.stats import beta  # slow to import

    tail = (1 - confidence) / 2
    low = 0.0 if hits <= 0 else float(beta.ppf(tail, hits, count - hits + 1))
    high = 1.0 if hits >= count else float(beta.ppf(1 - tail, hits + 1, count - hits))
    return low, high


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return the same with None for each number that is undefined, as JSON wants it."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in values.items()
    }


def _known_sums(columns: Floats, groups: Sequence[Hashable] | None) -> tuple[Floats, int]:
    """Sum two columns [n, 2] by group without the rows that hold a NaN, which are counted."""
    known = np.asarray(~np.isnan(columns).any(axis=1))
    chosen = range(len(columns)) if groups is None else groups
    kept = [group for group, keep in zip(chosen, known, strict=True) if keep]
    return group_sums(columns[known], kept), int(known.sum())


def _spread(sums: Floats) -> float:
    """Return the squared standard error of the ratio of patient sums [n, 2]."""
    return float(_squared_error(*_moments(sums).sum(axis=0)))


def _moments(sums: Floats) -> Floats:
    total, count = sums.T
    ones = np.ones(len(sums))
    return np.stack([total, count, total**2, total * count, count**2, ones], axis=1)


def _squared_error(
    total: Any, count: Any, total2: Any, cross: Any, count2: Any, patients: Any
) -> Any:
    """Return the squared standard error of total / count from its moments, 0 below rounding."""
    mean = total / count
    squares = total2 - 2 * mean * cross + mean**2 * count2
    squares = np.where(squares > _TIE * np.maximum(total2, 1e-300), squares, 0.0)
    return squares / count**2 * patients / np.maximum(patients - 1, 1)


def group_sums(columns: Floats, groups: Sequence[Hashable] | NDArray[np.int64]) -> Floats:
    """Sum the rows of `columns` [n, m] by group: [number of groups, m].

    In the order in which the groups first appear.
    """
    rank: dict[Hashable, int] = {}
    place = np.array([rank.setdefault(group, len(rank)) for group in groups], dtype=np.intp)
    sums = np.zeros((len(rank), columns.shape[1]))
    np.add.at(sums, place, columns)
    return sums


def draw_counts(groups: int, samples: int, seed: int) -> "list[NDArray[np.float32]]":
    """Draw how often each group stands in each resample: blocks [samples of the block, groups].

    Deterministic from the seed.
    """
    random = np.random.default_rng(seed)
    rows = max(1, _DRAWN_AT_ONCE // groups)
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
    """Return the column sums of each resample, [samples, m], from group sums [groups, m]."""
    return np.concatenate(
        [counts.astype(np.float64) @ sums for counts in draw_counts(len(sums), samples, seed)]
    )


def ratios(sums: Floats) -> Floats:
    """Divide the first by the second column, [n].

    Rows whose second is 0 are left out (a resample in which nothing could be rated).
    """
    rated = sums[sums[:, 1] != 0]
    return np.asarray(rated[:, 0] / rated[:, 1], dtype=np.float64)


def interval(
    resampled: Floats, estimate: float, sums: Floats, *, confidence: float, method: Method
) -> tuple[float, float]:
    """Return both bounds from resampled ratios; `sums` [groups, 2] give BCa its jackknife."""
    tail = (1 - confidence) / 2
    shares = (tail, 1 - tail)
    if method == "bca":
        shares = _bca_shares(resampled, estimate, sums, tail)
    low, high = np.quantile(resampled, shares)
    return float(low), float(high)


def _bca_shares(
    resampled: Floats, estimate: float, sums: Floats, tail: float
) -> tuple[float, float]:
    """Return the shares of the resampled distribution at which BCa reads its bounds.

    Efron 1987, eq. 2.3 and 6.6.
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
