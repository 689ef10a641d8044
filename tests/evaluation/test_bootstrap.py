"""Intervals against hand calculation and scipy.stats.bootstrap."""

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hemseg_cli.evaluation.bootstrap import (
    SIZE,
    Bootstrap,
    draw_counts,
    group_sums,
    resampled_sums,
)

DICE = np.random.default_rng(3).beta(5, 2, size=45)


def test_mean_of_cases() -> None:
    found = Bootstrap().mean([0.2, 0.4, 0.9])
    assert found.mean == pytest.approx(0.5)
    assert found.n == 3


@pytest.mark.parametrize("patients", [2, 3, 4])
def test_fewer_than_five_patients_are_too_few_for_an_interval(patients: int) -> None:
    found = Bootstrap().mean(DICE[:patients])
    assert found.mean == pytest.approx(float(DICE[:patients].mean()))
    assert (found.to_dict()["ci_low"], found.to_dict()["ci_high"]) == (None, None)
    assert found.method == "too few"


def test_studentised_interval_against_resampling_written_out() -> None:
    data, samples, seed = DICE[:12], 400, 6
    (counts,) = draw_counts(12, samples, seed)
    t = []
    for row in counts:
        drawn = np.repeat(data, row.astype(int))
        t.append(abs(drawn.mean() - data.mean()) / (drawn.std(ddof=1) / math.sqrt(12)))
    # The p value counts the sample itself: of 401, 20 may lie beyond the interval.
    limit = sorted(t, reverse=True)[math.ceil(0.05 * 401 - 1) - 1]
    found = Bootstrap(samples=samples, seed=seed).mean(data)
    assert found.ci_high - found.mean == pytest.approx(limit * data.std(ddof=1) / math.sqrt(12))
    assert found.mean - found.ci_low == pytest.approx(limit * data.std(ddof=1) / math.sqrt(12))


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_every_method_is_studentised_below_twenty_patients(method: Any) -> None:
    assert Bootstrap(method=method).mean(DICE[:19]) == Bootstrap().mean(DICE[:19])
    assert Bootstrap(method=method).mean(DICE[:20]).method == method


def test_interval_ends_at_the_metrics_limits() -> None:
    found = Bootstrap().mean([0.5, 1.0, 1.0, 0.9, 0.8, 1.0], bounds=(0.0, 1.0))
    assert found.ci_high == 1.0


def test_a_mean_at_its_limit_is_no_surer_than_a_rate() -> None:
    # 8 of 8: (0.025)^(1/8)
    found = Bootstrap().mean([1.0] * 8, bounds=(0.0, 1.0))
    assert (found.ci_low, found.ci_high) == pytest.approx((0.025 ** (1 / 8), 1.0))
    assert found.method == "exact"


@pytest.mark.parametrize(("hits", "count"), [(8, 8), (0, 5), (3, 10), (19, 20)])
def test_rate_of_independent_lesions_is_clopper_pearsons(hits: int, count: int) -> None:
    detected = [1.0] * hits + [0.0] * (count - hits)
    found = Bootstrap().rate(detected, [1.0] * count)
    exact = stats.binomtest(hits, count).proportion_ci(0.95, method="exact")
    # One lesion a patient: the patients spread as the binomial says, but for n - 1 in place of n.
    assert found.mean == hits / count
    assert (found.ci_low, found.ci_high) == pytest.approx((exact.low, exact.high), abs=0.02)


def test_lesions_of_few_patients_are_worth_fewer_counts() -> None:
    alone = Bootstrap().rate([1] * 24, [1] * 24)
    of_three = Bootstrap().rate([8, 8, 8], [8, 8, 8])
    alike = Bootstrap().rate([8, 0, 8, 0, 8, 0], [8] * 6)
    unlike = Bootstrap().rate([4, 4, 4, 4, 4, 4], [8] * 6)
    assert of_three.ci_low < alone.ci_low - 0.2
    assert alike.ci_high - alike.ci_low > 2 * (unlike.ci_high - unlike.ci_low)


def test_rate_without_lesions_or_of_one_patient_has_no_interval() -> None:
    assert Bootstrap().rate([0, 0], [0, 0]).to_dict()["mean"] is None
    one = Bootstrap().rate([2, 1], [2, 2], ["a", "a"])
    assert (one.mean, one.method) == (0.75, "too few")


def test_percentile_interval_against_resampling_written_out() -> None:
    samples, seed = 500, 11
    (counts,) = draw_counts(len(DICE), samples, seed)
    means = [
        sum(float(times) * value for times, value in zip(row, DICE, strict=True)) / len(DICE)
        for row in counts
    ]
    found = Bootstrap(samples=samples, seed=seed, confidence=0.9, method="percentile").mean(DICE)
    assert found.ci_low == pytest.approx(np.percentile(means, 5))
    assert found.ci_high == pytest.approx(np.percentile(means, 95))


def test_every_resample_draws_as_many_patients_as_there_are() -> None:
    blocks = draw_counts(7, 1000, 0)
    counts = np.concatenate(blocks)
    assert counts.shape == (1000, 7)
    assert (counts.sum(axis=1) == 7).all()
    assert counts.mean(axis=0) == pytest.approx(1.0, abs=0.1)


def test_blocks_do_not_change_the_number_of_resamples() -> None:
    assert resampled_sums(np.ones((3000, 2)), 1000, 5).shape == (1000, 2)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_agrees_with_scipy(method: Any) -> None:
    scipy_method = {"percentile": "percentile", "bca": "BCa"}[method]
    theirs = stats.bootstrap(
        (DICE,), np.mean, n_resamples=20000, method=scipy_method, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = Bootstrap(samples=20000, method=method).mean(DICE)
    assert ours.ci_low == pytest.approx(theirs.low, abs=0.002)
    assert ours.ci_high == pytest.approx(theirs.high, abs=0.002)


def test_bca_against_its_formula() -> None:
    samples, seed = 2000, 4
    found = Bootstrap(samples=samples, seed=seed, method="bca").mean(DICE)
    means = resampled_sums(DICE[:, None] / len(DICE), samples, seed)[:, 0]
    normal = NormalDist()
    bias = normal.inv_cdf(float(np.mean(means < DICE.mean())))
    jackknife = np.array([np.delete(DICE, n).mean() for n in range(len(DICE))])
    apart = jackknife.mean() - jackknife
    acceleration = (apart**3).sum() / (6 * (apart**2).sum() ** 1.5)
    for share, bound in ((0.025, found.ci_low), (0.975, found.ci_high)):
        z = bias + normal.inv_cdf(share)
        assert bound == pytest.approx(
            np.quantile(means, normal.cdf(bias + z / (1 - acceleration * z)))
        )


def test_scans_of_one_patient_are_drawn_together() -> None:
    each = [0.0, 1.0, 0.5, 0.9, 0.7]
    values, patients = np.repeat(each, 5), np.repeat(["a", "b", "c", "d", "e"], 5)
    together = Bootstrap(samples=4000).mean(values, patients.tolist())
    of_patients = Bootstrap(samples=4000).mean(each)
    alone = Bootstrap(samples=4000).mean(values)
    assert together.n == 25
    assert (together.mean, together.ci_low, together.ci_high) == pytest.approx(
        (of_patients.mean, of_patients.ci_low, of_patients.ci_high)
    )
    assert together.ci_high - together.ci_low > 1.5 * (alone.ci_high - alone.ci_low)


def test_a_patient_with_more_scans_weighs_more_in_the_mean() -> None:
    assert Bootstrap().mean([1.0, 1.0, 0.0], ["a", "a", "b"]).mean == pytest.approx(2 / 3)


def test_rate_is_a_ratio_of_sums() -> None:
    found = Bootstrap().rate([3, 0, 1], [4, 0, 1])
    assert found.mean == pytest.approx(0.8)
    assert found.n == 3
    assert found.ci_low <= 0.8 <= found.ci_high


def test_undefined_values_are_left_out_and_counted() -> None:
    found = Bootstrap().mean([0.5, math.nan, 0.7])
    assert found.mean == pytest.approx(0.6)
    assert found.n == 2


def test_one_patient_has_a_mean_and_no_interval() -> None:
    found = Bootstrap().mean([0.4, 0.6], ["a", "a"])
    assert found.to_dict() == {
        "mean": 0.5,
        "ci_low": None,
        "ci_high": None,
        "n": 2,
        "method": "too few",
    }


def test_no_case_has_nothing() -> None:
    assert Bootstrap().mean([]).to_dict() == {
        "mean": None,
        "ci_low": None,
        "ci_high": None,
        "n": 0,
        "method": "",
    }


@pytest.mark.parametrize("method", ["studentised", "percentile", "bca"])
def test_constant_metric_has_an_interval_of_no_width(method: Any) -> None:
    found = Bootstrap(method=method).mean([0.1] * 24)
    assert (found.mean, found.ci_low, found.ci_high) == pytest.approx((0.1, 0.1, 0.1))


def test_same_seed_same_interval() -> None:
    assert Bootstrap(seed=1).mean(DICE) == Bootstrap(seed=1).mean(DICE)
    assert Bootstrap(seed=1).mean(DICE) != Bootstrap(seed=2).mean(DICE)


def test_group_sums_keep_the_order_of_first_appearance() -> None:
    sums = group_sums(np.array([[1.0], [2.0], [4.0]]), ["b", "a", "b"])
    assert sums.tolist() == [[5.0], [2.0]]


def test_coverage_is_near_the_confidence() -> None:
    random = np.random.default_rng(0)
    inside = {5: 0, 8: 0, 60: 0}
    for trial in range(400):
        for patients in inside:
            found = Bootstrap(samples=300, seed=trial).mean(random.beta(5, 2, size=patients))
            inside[patients] += found.ci_low <= 5 / 7 <= found.ci_high
    assert all(0.92 <= count / 400 <= 0.99 for count in inside.values()), inside


def test_a_size_takes_its_interval_on_the_logarithm() -> None:
    values = np.array([0.4, 1.0, 1.5, 2.0, 9.0, 3.0])
    found = Bootstrap().mean(values, bounds=SIZE)
    assert found.method == "log-studentised"
    # In factors it reaches as far up as down, and it scales with the unit.
    assert found.mean / found.ci_low == pytest.approx(found.ci_high / found.mean)
    in_tenths = Bootstrap().mean(values * 10, bounds=SIZE)
    assert (in_tenths.ci_low, in_tenths.ci_high) == pytest.approx(
        (10 * found.ci_low, 10 * found.ci_high)
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0] * 6, (0.0, 0.0)),
        ([2.5] * 6, (2.5, 2.5)),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 3.0], (math.nan, math.nan)),  # a third of resamples is all 0
    ],
)
def test_sizes_without_spread_have_the_interval_that_is_known(
    values: list[float], expected: tuple[float, float]
) -> None:
    found = Bootstrap().mean(values, bounds=SIZE)
    assert (found.ci_low, found.ci_high) == pytest.approx(expected, nan_ok=True)


def test_intervals_of_skewed_sizes_hold_their_mean_as_often_as_promised() -> None:
    random = np.random.default_rng(3)
    truth = math.exp(0.8**2 / 2)  # of a lognormal with sigma 0.8
    draws = [random.lognormal(0, 0.8, 8) for _ in range(300)]

    def coverage(bounds: tuple[float, float] | None) -> float:
        found = [Bootstrap(seed=n).mean(draw, bounds=bounds) for n, draw in enumerate(draws)]
        return float(np.mean([each.ci_low <= truth <= each.ci_high for each in found]))

    assert coverage(SIZE) > max(0.90, coverage(None))


def test_patients_that_are_mostly_equal_have_an_interval_of_a_sensible_width() -> None:
    # Of twelve real scans: HD95 and surface Dice of a good network, two scans apart.
    hd95_mm = [1.953125] * 10 + [7.564292, 10.18895]
    found = Bootstrap().mean(hd95_mm, bounds=SIZE)
    assert found.method == "log-studentised"
    assert 0 < found.ci_low < found.mean < found.ci_high < 30

    nsd = [1.0] * 5 + [0.9975, 0.9985, 0.9935, 0.9929, 0.9753, 0.5739, 0.6327]
    found = Bootstrap().mean(nsd, bounds=(0.0, 1.0))
    assert 0.5 < found.ci_low < found.mean < found.ci_high == 1.0
