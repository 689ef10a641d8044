"""How often the intervals of `hemseg evaluate` hold the true value: should be 95 %.

Means of four kinds of numbers as this field has them (Dice with missed scans, Dice without, HD95,
absolute volume errors), and the pooled sensitivity of lesions that are alike within a patient, by
number of patients; beside them the plain percentile interval: python benchmarks/coverage.py
"""

import argparse
import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.evaluation.bootstrap import (
    SIZE,
    Bootstrap,
    Interval,
    group_sums,
    ratios,
    resampled_sums,
)

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]


def dice_with_misses(random: np.random.Generator, count: int) -> Floats:
    return np.where(random.random(count) < 0.06, 0.0, random.beta(4, 1.5, count))


def dice(random: np.random.Generator, count: int) -> Floats:
    return random.beta(5, 2, count)


def hd95_mm(random: np.random.Generator, count: int) -> Floats:
    return random.lognormal(1.8, 0.8, count)


def abs_volume_error_ml(random: np.random.Generator, count: int) -> Floats:
    return np.abs(random.normal(0, 1, count)) * random.lognormal(0, 0.6, count)


def difference_of_dice(random: np.random.Generator, count: int) -> Floats:
    return random.exponential(0.08, count) - random.exponential(0.08, count)


def hd95_of_a_pixel_mm(random: np.random.Generator, count: int) -> Floats:
    """Most scans as near as a pixel, as good masks are."""
    return np.where(random.random(count) < 0.75, 1.95, 1.95 + random.lognormal(1.5, 0.7, count))


DRAWS: dict[str, tuple[Draw, tuple[float, float] | None]] = {
    "dice_with_misses": (dice_with_misses, (0.0, 1.0)),
    "dice": (dice, (0.0, 1.0)),
    "hd95_mm": (hd95_mm, SIZE),
    "hd95_of_a_pixel_mm": (hd95_of_a_pixel_mm, SIZE),
    "abs_volume_error_ml": (abs_volume_error_ml, SIZE),
    "difference_of_dice": (difference_of_dice, None),
}
SENSITIVITY = 0.85


def percentile(values: Floats, bootstrap: Bootstrap) -> Interval:
    """The plain percentile interval, whatever the number of patients."""
    sums = group_sums(np.stack([values, np.ones(len(values))], axis=1), range(len(values)))
    means = ratios(resampled_sums(sums, bootstrap.samples, bootstrap.seed))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), len(values))


def covers(found: Interval, truth: float) -> bool:
    return found.ci_low <= truth <= found.ci_high


def lesions(random: np.random.Generator, patients: int) -> tuple[Floats, Floats]:
    """Detected and true lesions of each patient: one to six, whose chance varies by patient."""
    count = 1 + random.poisson(1.0, patients)
    chance = random.beta(SENSITIVITY * 8, (1 - SENSITIVITY) * 8, patients)
    return random.binomial(count, chance).astype(float), count.astype(float)


def simulate(patients: int, trials: int, samples: int, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    rows: dict[str, float] = {"patients": patients, "trials": trials}
    for name, (draw, bounds) in DRAWS.items():
        truth = float(draw(np.random.default_rng(0), 4_000_000).mean())
        ours = plain = 0
        for trial in range(trials):
            values = draw(random, patients)
            bootstrap = Bootstrap(samples=samples, seed=trial)
            ours += covers(bootstrap.mean(values, bounds=bounds), truth)
            plain += covers(percentile(values, bootstrap), truth)
        rows |= {name: ours / trials, f"{name}, percentile": plain / trials}

    held = sum(
        covers(Bootstrap().rate(*lesions(random, patients)), SENSITIVITY) for _ in range(trials)
    )
    return rows | {"lesion_sensitivity": held / trials}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--patients", type=int, nargs="*", default=[5, 8, 10, 20, 45])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = [
        simulate(count, options.trials, options.samples, options.seed) for count in options.patients
    ]
    print(json.dumps({"coverage_of_95_percent": rows}, indent=2))


if __name__ == "__main__":
    main()
