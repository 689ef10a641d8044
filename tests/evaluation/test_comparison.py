"""Comparison of runs: scipy, hand calculation, and simulated truth."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hemseg_cli.evaluation.bootstrap import Bootstrap
from hemseg_cli.evaluation.comparison import compare_pairs, holm, paired_test, rank_runs

RANDOM = np.random.default_rng(8)
BASE = RANDOM.beta(5, 2, size=40)
SCANS = [str(n) for n in range(40)]


def test_difference_and_its_interval_are_those_of_the_differences() -> None:
    a, b = BASE, BASE - RANDOM.normal(0.05, 0.05, size=40)
    (pair,) = compare_pairs("dice", {"a": a.tolist(), "b": b.tolist()}, SCANS, Bootstrap())
    expected, _, _ = paired_test(a - b, SCANS, Bootstrap())
    assert (pair.difference, pair.ci_low, pair.ci_high, pair.n) == (
        expected.mean,
        expected.ci_low,
        expected.ci_high,
        40,
    )
    assert pair.difference == pytest.approx(float((a - b).mean()))
    assert pair.p_bootstrap < 0.01
    assert pair.p_wilcoxon == pytest.approx(stats.wilcoxon(a - b, zero_method="pratt").pvalue)


def test_bootstrap_p_is_near_the_t_test_on_normal_differences() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1.0, size=40)
    _, p_bootstrap, _ = paired_test(differences, SCANS, Bootstrap(samples=20000))
    assert p_bootstrap == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_equal_runs_do_not_differ() -> None:
    (pair,) = compare_pairs("dice", {"a": BASE.tolist(), "b": BASE.tolist()}, SCANS, Bootstrap())
    assert (pair.difference, pair.ci_low, pair.ci_high, pair.p_bootstrap, pair.p_wilcoxon) == (
        0.0,
        0.0,
        0.0,
        1.0,
        1.0,
    )


def test_two_scans_of_a_patient_are_one_witness() -> None:
    differences = np.repeat([0.2, -0.1, 0.15, 0.05, 0.3, 0.1], 4)
    patients = np.repeat(list("abcdef"), 4).tolist()
    together = paired_test(differences, patients, Bootstrap(samples=5000))
    alone = paired_test(differences, [str(n) for n in range(24)], Bootstrap(samples=5000))
    assert (
        together[1:]
        == paired_test([0.2, -0.1, 0.15, 0.05, 0.3, 0.1], list("abcdef"), Bootstrap(samples=5000))[
            1:
        ]
    )
    assert all(ours > theirs for ours, theirs in zip(together[1:], alone[1:], strict=True))


@pytest.mark.parametrize("patients", [1, 2, 4])
def test_few_patients_give_neither_interval_nor_p_value(patients: int) -> None:
    names = [str(n % patients) for n in range(8)]
    gap, p, p_wilcoxon = paired_test(BASE[:8], names, Bootstrap())
    assert gap.method == "too few"
    assert all(math.isnan(value) for value in (gap.ci_low, gap.ci_high, p, p_wilcoxon))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(5, 45), st.integers(0, 10_000), st.floats(0, 0.6), st.sampled_from([0.5, 0.9, 0.95])
)
def test_interval_excludes_zero_exactly_where_p_says_so(
    patients: int, seed: int, mean: float, confidence: float
) -> None:
    differences = np.random.default_rng(seed).standard_gamma(0.7, patients) - 0.7 + mean
    bootstrap = Bootstrap(samples=100 + seed % 300, confidence=confidence, seed=seed)
    gap, p, _ = paired_test(differences, [str(n) for n in range(patients)], bootstrap)
    excludes = gap.ci_low > 0 or gap.ci_high < 0  # False where the interval is unbounded
    assert excludes == (p < 1 - confidence - 1e-12)


def test_type_one_error_is_near_the_level() -> None:
    random = np.random.default_rng(2)
    trials = 400
    rejected = np.zeros(2)
    for trial in range(trials):
        differences = random.exponential(0.1, (2, 30))
        rejected += (
            np.array(
                paired_test(
                    differences[0] - differences[1], SCANS[:30], Bootstrap(samples=200, seed=trial)
                )[1:]
            )
            < 0.05
        )
    assert (rejected / trials < 0.085).all()
    assert (rejected / trials > 0.02).all()


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        (
            [0.01, 0.04, 0.03],
            [0.03, 0.06, 0.06],
        ),  # 3 * 0.01, then 2 * 0.03, then the running maximum
        ([0.6, 0.5], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_by_hand(raw: list[float], adjusted: list[float]) -> None:
    assert holm(raw) == pytest.approx(adjusted)


def test_holm_leaves_the_undefined_out() -> None:
    found = holm([0.01, math.nan, 0.04])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.04)


def test_ranking_of_runs_that_always_keep_their_order() -> None:
    runs = {"worse": (BASE - 0.2).tolist(), "best": BASE.tolist(), "middle": (BASE - 0.1).tolist()}
    ranks = rank_runs(runs, SCANS, Bootstrap())
    assert [
        (rank.run, rank.rank, rank.rank_low, rank.rank_high, rank.p_best) for rank in ranks
    ] == [
        ("best", 1, 1, 1, 1),
        ("middle", 2, 2, 2, 0),
        ("worse", 3, 3, 3, 0),
    ]
    assert ranks[0].mean == pytest.approx(BASE.mean())


def test_smaller_distances_rank_first_and_ties_share() -> None:
    ranks = rank_runs(
        {"far": [9.0, 9.0], "near": [3.0, 3.0], "same": [3.0, 3.0]},
        ["a", "b"],
        Bootstrap(),
        lower_is_better=True,
    )
    assert [(rank.run, rank.rank, rank.p_best) for rank in ranks] == [
        ("near", 1.5, 0.5),
        ("same", 1.5, 0.5),
        ("far", 3.0, 0.0),
    ]


def test_runs_that_trade_places_are_uncertain() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, size=(2, 40))
    ranks = rank_runs(
        {"a": (BASE + noise[0]).tolist(), "b": (BASE + noise[1]).tolist()},
        SCANS,
        Bootstrap(),
    )
    assert sum(rank.p_best for rank in ranks) == pytest.approx(1.0)
    assert all(0.0 < rank.p_best < 1.0 for rank in ranks)
    assert all((rank.rank_low, rank.rank_high) == (1, 2) for rank in ranks)


def test_scans_undefined_in_one_run_are_left_out_of_all() -> None:
    (pair,) = compare_pairs(
        "dice", {"a": [0.5, math.nan, 0.7], "b": [0.4, 0.1, 0.6]}, ["x", "y", "z"], Bootstrap()
    )
    assert pair.n == 2
    assert pair.difference == pytest.approx(0.1)
