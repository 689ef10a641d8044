"""Agreement of predicted with true volumes: Bland and Altman 1986, Lin 1989."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemseg_cli.evaluation.bootstrap import Number

_LIMITS_Z = 1.96  # standard deviations from the bias to either limit of agreement


@dataclass(frozen=True)
class Agreement:
    """Agreement of the volumes of `n` scans; NaN where undefined.

    `bias_ml`: mean of predicted minus true; `loa_*_ml`: the limits of agreement, bias -+ 1.96
    standard deviations; `ccc`: Lin's concordance (undefined where both series are constant and
    equal). Fewer than two scans have the bias alone.
    """

    n: int
    bias_ml: Number
    sd_ml: Number
    loa_low_ml: Number
    loa_high_ml: Number
    ccc: Number


def volume_agreement(truth_ml: Sequence[float], predicted_ml: Sequence[float]) -> Agreement:
    """Return bias, limits of agreement and concordance correlation of volumes [n] in mL.

    Concordance: 2 s_xy / (s_x2 + s_y2 + (mean difference)2) with 1/n moments, as Lin defines it.
    """
    x, y = np.asarray(truth_ml, dtype=np.float64), np.asarray(predicted_ml, dtype=np.float64)
    if x.size == 0:
        return Agreement(0, *[math.nan] * 5)

    apart = y - x
    bias = float(apart.mean())
    if x.size < 2:
        return Agreement(1, bias, math.nan, math.nan, math.nan, math.nan)

    # The limits hold 95 % of the differences, were they normal.
    sd = float(apart.std(ddof=1))

    # Lin's denominator: both spreads and the bias, so that a shift lowers the concordance.
    spread = float(x.var() + y.var() + bias**2)
    ccc = float(2 * ((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else math.nan
    return Agreement(int(x.size), bias, sd, bias - _LIMITS_Z * sd, bias + _LIMITS_Z * sd, ccc)
