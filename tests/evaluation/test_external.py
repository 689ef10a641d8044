"""A run on a data set that it was not trained on: results of its own, and a section of the page."""

from pathlib import Path

import pytest

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.reporting.external_table import external_table
from hemseg_cli.reporting.report import report
from hemseg_cli.reporting.results import read_run
from tests.evaluation.class_toy import (
    AFFINE,
    SCANS,
    add_run,
    label_map,
    make_place,
    perturbed,
)
from tests.evaluation.toy import Workplace


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """Run `a` of data set `toy`, with masks of `other`, whose scans have the same ids."""
    place = make_place(tmp_path)
    run = add_run(place, "a", [perturbed(n, seed=8) for n in range(6)])
    (tmp_path / "data" / "other").mkdir()
    for file in (tmp_path / "data" / "toy").rglob("*"):
        if file.is_file():
            copy = tmp_path / "data" / "other" / file.relative_to(tmp_path / "data" / "toy")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    other = run.on("other")
    for n, scan in enumerate(SCANS):
        mask = (label_map(n) > 0).astype("uint8")
        write_volume(other.prediction_file("test", scan), Volume(mask, AFFINE))
    write_classes(DataDirectory(other.predictions("test")), HEMORRHAGE_ONLY)
    return place


def elsewhere(place: Workplace, name: str = "other") -> dict[str, object]:
    return {"data__dataset": name}


def test_results_on_another_data_set_lie_apart(place: Workplace) -> None:
    own = evaluate(place.config()).runs[0]
    other = evaluate(place.config(**elsewhere(place))).runs[0]
    assert own.summary_file != other.summary_file
    assert other.summary_file.parts[-4:] == ("external", "other", "test", "summary.json")
    assert other.summary.metrics["dice"].mean == 1.0
    assert own.summary.metrics["dice"].mean < 1.0
    # The second did not touch what the first wrote.
    again = read_run(RunDirectory(place.root / "runs" / "a"), "test")
    assert again.summary.to_dict() == own.summary.to_dict()
    assert [(one.dataset, one.trained_on) for one in again.external] == [("other", "toy")]


def test_the_report_has_a_section_of_external_validation(place: Workplace) -> None:
    evaluate(place.config())
    evaluate(place.config(**elsewhere(place)))
    result = report(place.config(), runs=["a"])
    assert "external.csv" in {path.name for path in result.csv_files}
    assert '<a href="#external">External</a>' in result.html.read_text()
    assert any("a on other: the run was trained on data set toy" in w for w in result.warnings)

    table = external_table([read_run(RunDirectory(place.root / "runs" / "a"), "test")])
    assert table is not None
    keys = [column.key for column in table.columns]
    rows = [dict(zip(keys, row, strict=True)) for row in table.texts()]
    assert [(row["dataset"], row["class"]) for row in rows] == [
        *(("toy", key) for key in ("union", "IPH", "SDH", "SAH")),
        ("other", ""),
    ]
    assert rows[-1]["dice"].startswith("1.0000")


def test_a_run_that_was_scored_elsewhere_alone_has_a_report_of_that(place: Workplace) -> None:
    config = place.config(**elsewhere(place))
    evaluate(config)
    result = report(config, runs=["a"])
    assert result.viewer_left_out == {}
    assert result.summary.rows[0][2].mean == 1.0  # type: ignore[union-attr]
    assert "external.csv" not in {path.name for path in result.csv_files}


def test_masks_that_are_missing_are_asked_for_by_data_set(place: Workplace) -> None:
    other = place.root / "runs" / "a" / "predictions" / "external" / "other"
    other.rename(other.with_name("gone"))
    with pytest.raises(HemsegError) as caught:
        evaluate(place.config(**elsewhere(place)))
    assert caught.value.hint is not None
    run = place.root / "runs" / "a"
    assert f"hemseg predict --run {run} --split test --dataset other" in caught.value.hint
