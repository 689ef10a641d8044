import math

import pytest

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.quantities import BOUNDS, check_quantity


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_bounds_belong_to_the_range_and_nothing_beyond(name: str) -> None:
    low, high = BOUNDS[name].low, BOUNDS[name].high
    assert check_quantity(name, low, place="t") == low
    assert check_quantity(name, high, place="t") == high
    for value in (math.nextafter(low, -math.inf), math.nextafter(high, math.inf)):
        with pytest.raises(FileFormatError, match=rf"t, line 2: {name} = .* cannot be"):
            check_quantity(name, value, place="t, line 2")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_quantity(value: float) -> None:
    for name in ("voxel_volume_mm3", "something_else"):
        with pytest.raises(FileFormatError, match=f"{name} = .* is not a number"):
            check_quantity(name, value, place="t")
