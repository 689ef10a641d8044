"""Agreement of volumes, worked out by hand."""

import math

import pytest

from hemseg_cli.evaluation.agreement import volume_agreement


def test_bias_limits_and_concordance_of_three_volumes() -> None:
    # Differences 1, 2, 3: mean 2, standard deviation 1.
    found = volume_agreement([10.0, 20.0, 30.0], [11.0, 22.0, 33.0])
    assert found.bias_ml == pytest.approx(2.0)
    assert found.sd_ml == pytest.approx(1.0)
    assert (found.loa_low_ml, found.loa_high_ml) == pytest.approx((0.04, 3.96))
    # s_xy = (10 * 11 + 10 * 11) / 3, s_x2 = 200 / 3, s_y2 = 242 / 3
    assert found.ccc == pytest.approx(2 * (220 / 3) / (200 / 3 + 242 / 3 + 4))


def test_perfect_agreement() -> None:
    found = volume_agreement([1.0, 5.0, 9.0], [1.0, 5.0, 9.0])
    assert (found.bias_ml, found.loa_low_ml, found.loa_high_ml) == (0.0, 0.0, 0.0)
    assert found.ccc == pytest.approx(1.0)


def test_opposite_volumes_have_negative_concordance() -> None:
    assert volume_agreement([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]).ccc == pytest.approx(-1.0)


def test_too_few_or_constant_is_undefined() -> None:
    assert math.isnan(volume_agreement([], []).bias_ml)
    one = volume_agreement([2.0], [3.0])
    assert (one.n, one.bias_ml) == (1, 1.0)
    assert math.isnan(one.sd_ml)
    assert math.isnan(one.ccc)
    assert math.isnan(volume_agreement([2.0, 2.0], [2.0, 2.0]).ccc)
