"""How often the paired tests of `hemseg evaluate` reject where there is no difference.

Should be 5 % at p < 0.05.

Two runs of equal mean Dice are drawn on the same patients (some with two scans), as skewed as real
Dice is: python benchmarks/type_one_error.py
"""

import argparse
import json

import numpy as np

from hemseg_cli.evaluation.bootstrap import Bootstrap
from hemseg_cli.evaluation.comparison import paired_test

LEVEL = 0.05


def simulate(patients: int, trials: int, samples: int, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    rejected = np.zeros(2)
    contradictions = 0
    for trial in range(trials):
        scans = 1 + (random.random(patients) < 0.15)
        groups = np.repeat(np.arange(patients), scans)
        # Difficulty is shared by both runs, a patient's own effect by both scans; the runs' errors
        # have one skewed distribution.
        difficulty = random.beta(4, 1.5, patients)[groups]
        own = random.normal(0, 0.05, (2, patients))[:, groups]
        noise = random.exponential(0.08, (2, groups.size))
        a, b = np.clip(difficulty + own - noise, 0, 1)
        gap, *p_values = paired_test(a - b, groups.tolist(), Bootstrap(samples=samples, seed=trial))
        rejected += np.array(p_values) < LEVEL
        # Interval and p come from one procedure: they must never contradict each other.
        excludes_zero = gap.ci_low > 0 or gap.ci_high < 0
        contradictions += excludes_zero != (p_values[0] < LEVEL)
    bootstrap, wilcoxon = rejected / trials
    standard_error = float(np.sqrt(LEVEL * (1 - LEVEL) / trials))
    return {
        "patients": patients,
        "trials": trials,
        "bootstrap_rejects": float(bootstrap),
        "wilcoxon_rejects": float(wilcoxon),
        "interval_contradicts_p": contradictions,
        "level": LEVEL,
        "standard_error": standard_error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--patients", type=int, nargs="*", default=[5, 8, 20, 45])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [
        simulate(count, options.trials, options.samples, options.seed) for count in options.patients
    ]
    print(json.dumps({"type_one_error": rows}, indent=2))


if __name__ == "__main__":
    main()
