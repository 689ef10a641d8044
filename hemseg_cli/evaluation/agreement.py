"""Agreement of predicted with true volumes: Bland and Altman 1986, Lin 1989."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LIMITS_Z = 1.96


@dataclass(frozen=True)
class Agreement:
    """`bias_ml`: mean of predicted minus true; `loa_*_ml`.

    Bias -+ 1.96 standard deviations of the differences; `ccc`: Lin's concordance.

    NaN where undefined: fewer than two cases, or (concordance) both series constant and equal.
    """

    n: int
    bias_ml: float
    sd_ml: float
    loa_low_ml: float
    loa_high_ml: float
    ccc: float

    def to_dict(self) -> dict[str, float | int | None]:
        """Plain values; what is undefined is None."""
        numbers = {
            name: getattr(self, name)
            for name in ("bias_ml", "sd_ml", "loa_low_ml", "loa_high_ml", "ccc")
        }
        return {"n": self.n} | {
            name: value if math.isfinite(value) else None for name, value in numbers.items()
        }


def volume_agreement(truth_ml: Sequence[float], predicted_ml: Sequence[float]) -> Agreement:
    """Bias, limits of agreement and concordance correlation of volumes [n] in mL.

    Concordance: 2 s_xy / (s_x2 + s_y2 + (mean difference)2) with 1/n moments, as Lin defines it.
    """
    x, y = np.asarray(truth_ml, dtype=np.float64), np.asarray(predicted_ml, dtype=np.float64)
    if x.size == 0:
        return Agreement(0, *[math.nan] * 5)
    apart = y - x
    bias = float(apart.mean())
    if x.size < 2:
        return Agreement(1, bias, math.nan, math.nan, math.nan, math.nan)
    sd = float(apart.std(ddof=1))
    spread = float(x.var() + y.var() + bias**2)
    ccc = float(2 * ((x - x.mean()) * (y - y.mean())).mean() / spread) if spread > 0 else math.nan
    return Agreement(int(x.size), bias, sd, bias - _LIMITS_Z * sd, bias + _LIMITS_Z * sd, ccc)
