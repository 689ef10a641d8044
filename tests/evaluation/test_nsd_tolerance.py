import math
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.evaluation.case_table import read_case_table
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.evaluation.metrics import nsd
from hemseg_cli.evaluation.nsd_tolerance import (
    slice_distance_mm,
    tolerance_at,
    tolerance_name,
    tolerance_settings,
    tolerance_text,
)
from hemseg_cli.evaluation.run_comparison import EvaluatedRun, refuse_different_protocols
from tests.evaluation.toy import SPACING_MM, block, make_workplace, truth

STRATA = ((0.0, 2.0), (4.0, 5.0))


def test_tolerance_goes_by_the_slice_distance() -> None:
    assert [tolerance_at(STRATA, mm) for mm in (0.6, 3.98, 3.995, 4.0, 7.0)] == [2, 2, 5, 5, 5]
    assert tolerance_at(3, 7.0) == 3.0
    assert (tolerance_name(STRATA), tolerance_name(2.0)) == ("2-5", "2")
    assert tolerance_text(STRATA) == "2 mm (5 mm where slices lie 4 mm apart or more)"
    assert tolerance_settings(STRATA) == (
        "--set evaluate.nsd_tolerance_mm=2 --set 'evaluate.nsd_tolerance_by_slice_mm=[[4,5]]'"
    )


def test_slice_distance_is_along_the_normal_whatever_the_tilt_and_the_order_of_axes() -> None:
    tilt = math.radians(25)
    # Slices 5 mm apart along the normal, the gantry tilted: their origins lie 5 / cos apart.
    steps = np.array(
        [[-0.5, 0, 0], [0, -0.5 * math.cos(tilt), 0], [0, 0.5 * math.sin(tilt), 5 / math.cos(tilt)]]
    )
    assert slice_distance_mm(steps) == pytest.approx(5.0)
    assert slice_distance_mm(steps[:, [2, 0, 1]]) == pytest.approx(5.0)


def test_surfaces_one_slice_off_are_judged_by_the_strata(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    place.run("a", lambda n: np.roll(truth(n), 1, axis=2))
    options = {"evaluate__nsd_tolerance_mm": 2.0, "evaluate__nsd_tolerance_by_slice_mm": [[4, 5]]}
    strict = evaluate(place.config()).runs[0].summary.metrics["nsd_2mm"]
    found = evaluate(place.config(**options)).runs[0]
    assert found.summary.metrics["nsd_2-5mm"].mean == 1.0 > strict.mean
    expected = [
        nsd(np.roll(truth(n), 1, axis=2), truth(n), spacing_mm=SPACING_MM, tolerance_mm=2.0)
        for n in range(4)
    ]
    assert strict.mean == pytest.approx(np.mean(expected), abs=1e-6)

    # Each scan's tolerance stands in its row, and the table is read back by its summary.
    table = read_case_table(found.cases_file, found.summary.rows)
    assert table["nsd_tolerance_mm"].tolist() == [5.0] * 4
    assert "5 mm where slices lie 4 mm apart" in found.summary.definitions["nsd_2-5mm"]


def test_runs_of_other_tolerances_do_not_compare(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    runs = []
    for name, strata in (("a", [[4, 5]]), ("b", [])):
        place.run(name, lambda n: block(4 + n))
        config = place.config(evaluate__nsd_tolerance_by_slice_mm=strata)
        found = evaluate(config, runs=[name]).runs[0]
        runs.append(EvaluatedRun(name, found.summary, found.table))
    with pytest.raises(HemsegError, match=r"tolerance of 2 mm \(5 mm .*b at 2 mm") as error:
        refuse_different_protocols(runs)
    assert error.value.hint.endswith("--set 'evaluate.nsd_tolerance_by_slice_mm=[[4,5]]'")


@pytest.mark.parametrize("strata", [[[4, 5], [4, 6]], [[6, 7], [4, 5]], [[0, 5]], [[4, -1]], [[4]]])
def test_strata_that_make_no_sense_are_refused(tmp_path: Path, strata: object) -> None:
    with pytest.raises(UsageError, match=r"evaluate\.nsd_tolerance_by_slice_mm"):
        make_workplace(tmp_path).config(evaluate__nsd_tolerance_by_slice_mm=strata)
