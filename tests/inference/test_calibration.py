import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.nifti import write_volume
from hemseg_cli.inference.calibration import (
    Calibration,
    calibration_of,
    joint_calibration,
    volume_interval_ml,
)
from hemseg_cli.inference.predict import predict
from hemseg_cli.inference.settings import Settings
from hemseg_cli.models.archive import read_models, write_archive
from hemseg_cli.models.checkpoint import read_checkpoint, write_checkpoint
from tests.inference.small_model import config_in, make_run, scan


def log_ratios(pairs: list[tuple[float, float]]) -> list[float]:
    return sorted(math.log((true + 0.5) / (predicted + 0.5)) for predicted, true in pairs)


def test_interval_is_the_hand_counted_ranks_of_forty_scans() -> None:
    # 41 * 0.05 = 2.05 and 41 * 0.95 = 38.95: the ratios of rank 2 and 39, of 40.
    pairs = [(10.0 + n / 100, 10.0 + n / 100 + (n - 19.5) / 10) for n in range(40)]
    found = volume_interval_ml(10.2, pairs)
    assert found is not None
    ratios = log_ratios(pairs)
    assert found == pytest.approx(
        (10.7 * math.exp(ratios[1]) - 0.5, 10.7 * math.exp(ratios[38]) - 0.5)
    )


def test_twenty_scans_are_the_fewest_and_give_their_extremes() -> None:
    pairs = [(10.0, 9.0 + n / 10) for n in range(20)]
    assert volume_interval_ml(10.0, pairs) == pytest.approx((9.0, 10.9))
    assert volume_interval_ml(10.0, pairs[1:]) is None


def test_sizes_have_groups_of_their_own_where_there_are_enough() -> None:
    small = [(2.0, 1.0 + n / 10) for n in range(20)]  # 1 to 2.9 mL, where 2 were predicted
    large = [(40.0, 40.0) for _ in range(20)]
    assert volume_interval_ml(2.0, small + large) == pytest.approx((1.0, 2.9))
    assert volume_interval_ml(40.0, small + large) == pytest.approx((40.0, 40.0))
    # One fewer, and all are one group: rank 1 and 38 of 39 ratios.
    low, high = volume_interval_ml(40.0, small + large[1:]) or (0.0, 0.0)
    assert low == pytest.approx(40.5 * 1.5 / 2.5 - 0.5)
    assert high > 40.0


def test_nothing_predicted_is_a_group_of_its_own() -> None:
    found = [(10.0, 10.0)] * 20
    missed = [(0.0, n / 10) for n in range(20)]
    assert volume_interval_ml(0.0, found) is None
    # 21 * 0.9 = 18.9: the 19th of what was missed.
    assert volume_interval_ml(0.0, found + missed) == pytest.approx((0.0, 1.8))
    assert volume_interval_ml(10.0, found + missed) == pytest.approx((10.0, 10.0))


@given(st.integers(0, 2**32 - 1), st.integers(20, 70))
def test_interval_is_ordered_and_never_negative(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    predicted = random.lognormal(2, 1.5, count)
    true = predicted * random.lognormal(0, 0.5, count) * (random.random(count) > 0.1)
    pairs = list(zip(predicted.tolist(), true.tolist(), strict=True))
    low, high = volume_interval_ml(float(random.lognormal(2, 1.5)), pairs) or (0.0, 0.0)
    assert 0 <= low <= high


@pytest.mark.parametrize("count", [20, 24, 44, 90])
def test_intervals_of_exchangeable_scans_cover_nine_in_ten(count: int) -> None:
    random = np.random.default_rng(count)
    held = []
    for _ in range(1500):
        true = np.exp(random.uniform(np.log(0.5), np.log(60), count + 1))
        predicted = true * random.lognormal(-0.1, 0.3, count + 1) + random.exponential(
            0.1, count + 1
        )
        pairs = list(zip(predicted.tolist(), true.tolist(), strict=True))
        found = volume_interval_ml(*pairs[0][:1], pairs[1:])
        assert found is not None
        held.append(found[0] <= pairs[0][1] <= found[1])
    # Never below 0.9 but for chance; above it by the rounding of ranks and by small groups.
    assert 0.885 <= np.mean(held) <= 0.96


def calibration(count: int, *, first: int = 0, factor: float = 1.0) -> Calibration:
    pairs = {f"{first + n:016x}": (factor * (10.0 + n), 10.0 + n) for n in range(count)}
    return Calibration(count, {"union": pairs})


def test_ensemble_counts_each_scan_once_with_the_mean_of_its_volumes() -> None:
    same = joint_calibration([calibration(12, factor=0.8), calibration(12, factor=1.2)], ["a", "b"])
    for mark, pair in calibration(12).volumes["union"].items():
        assert same.volumes["union"][mark] == pytest.approx(pair)
    assert same.interval_ml("union", 10.0) is None
    assert "validated on 12 scans" in same.reason()

    folds = joint_calibration([calibration(12), calibration(12, first=12)], ["a", "b"])
    assert len(folds.volumes["union"]) == 24
    assert folds.interval_ml("union", 10.0) == pytest.approx((10.0, 10.0))

    without = joint_calibration(
        [calibration(24), Calibration(missing="it was not calibrated")], ["a", "b"]
    )
    assert without.interval_ml("union", 10.0) is None
    assert without.reason() == "b: it was not calibrated"


def test_calibration_holds_for_the_settings_that_it_was_made_with() -> None:
    checkpoint = {"calibration": calibration(24).to_dict(), "predict": {"threshold": 0.4}}
    assert calibration_of(checkpoint, Settings(threshold=0.4)).reason() == ""
    # How it is computed does not change the mask by more than its last voxels.
    assert calibration_of(checkpoint, Settings(threshold=0.4, window="patch")).reason() == ""
    for other in (Settings(), Settings(threshold=0.4, tta=True), Settings(0.5, threshold=0.4)):
        found = calibration_of(checkpoint, other)
        assert found.interval_ml("union", 10.0) is None
        assert "is not as it was calibrated" in found.reason()


def calibrated_run(folder: Path, name: str = "run") -> Path:
    path = make_run(folder, name)
    ratios = np.linspace(0.8, 1.25, 24)
    pairs = {f"{n:016x}": [10.0, 10.0 * float(ratio)] for n, ratio in enumerate(ratios)}
    stored = {"scans": 24, "volumes": {"union": pairs}, "look": None}
    write_checkpoint(path, {**read_checkpoint(path), "calibration": stored})
    return path


def test_predict_states_the_interval_everywhere_and_after_export(tmp_path: Path) -> None:
    config = config_in(tmp_path, predict=PredictConfig(previews=False))
    checkpoint = calibrated_run(tmp_path)
    write_volume(tmp_path / "a.nii.gz", scan())
    archive = tmp_path / "model.zip"
    write_archive(archive, read_models(checkpoint), files={})

    rows = []
    for number, run in enumerate(["run", str(archive)]):
        out = tmp_path / f"out{number}"
        result = predict(config, runs=[run], inputs=[tmp_path / "a.nii.gz"], out=out)
        row = result.payload()["predicted"][0]
        assert 0 < row["volume_low_ml"] < row["predicted_ml"] < row["volume_high_ml"]
        assert result.payload()["no_interval"] is None
        (table,) = result.tables()
        shown = f"{row['volume_low_ml']:.2f} to {row['volume_high_ml']:.2f}"
        assert table.rows[0][table.columns.index("90 %")] == shown
        header, line = (out / "volumes.csv").read_text().splitlines()
        cells = dict(zip(header.split(","), line.split(","), strict=True))
        assert float(cells["volume_low_ml"]) == pytest.approx(row["volume_low_ml"], abs=1e-6)
        rows.append((row["volume_low_ml"], row["volume_high_ml"]))
    assert rows[0] == rows[1]

    # Another threshold than the calibrated one: the mask is made, the interval is not.
    other = config_in(tmp_path, predict=PredictConfig(previews=False, threshold=0.3))
    result = predict(other, inputs=[tmp_path / "a.nii.gz"], out=tmp_path / "other")
    assert result.payload()["predicted"][0]["volume_low_ml"] is None
    assert "predict.threshold is not as it was calibrated" in result.tables()[0].caption


@pytest.mark.parametrize(
    "change",
    [
        {"scans": -1},
        {"volumes": {"union": {"a": [1.0]}}},
        {"volumes": {"union": {"a": [1.0, float("nan")]}}},
        {"volumes": {"union": {"a": [1.0, -2.0]}}},
        {"volumes": [1.0]},
        {"look": {"scans": 3, "ranges": {"soft_hu": [1.0, 2.0, 3.0]}}},
        {"look": {"scans": 3, "ranges": {"soft_hu": [1.0, 2.0, 3.0, float("inf")]}}},
        {"more": 1},
    ],
)
def test_calibration_from_anywhere_is_checked(tmp_path: Path, change: dict[str, object]) -> None:
    path = make_run(tmp_path)
    stored = {**calibration(3).to_dict(), **change}
    write_checkpoint(path, {**read_checkpoint(path), "calibration": stored})
    with pytest.raises(FileFormatError, match="calibration"):
        read_checkpoint(path)


def test_stored_form_is_read_back() -> None:
    found = calibration(3)
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
