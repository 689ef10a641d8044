"""The class switch of the slice viewer, in a real Chromium."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hemseg_cli.core.classes import LabelClass, write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.reporting.report import report
from tests.evaluation.class_toy import VOXEL_ML, add_run, label_map, make_place
from tests.reporting.test_page_in_browser import CHROMIUM, FLAGS, Opened, sync_api

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)"
    ),
]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """A report whose run calls every SDH an IPH."""
    place = make_place(tmp_path_factory.mktemp("classes"))
    add_run(place, "a", [np.where(label_map(n) == 2, 1, label_map(n)) for n in range(6)])
    evaluate(place.config())
    result = report(place.config(), runs=["a"])
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield Opened(browser.new_page(viewport={"width": 1280, "height": 800}), result.html)
        browser.close()


def status(opened: Opened) -> str:
    return str(opened.page.text_content("#viewer-status"))


def numbers(opened: Opened) -> str:
    return str(opened.page.text_content("#viewer-numbers"))


def test_a_class_is_shown_by_itself_with_its_own_numbers(opened: Opened) -> None:
    page = opened.page
    page.click("[data-scan] >> text=scan5")
    opened.wait_until(lambda: "Dice1.000" in numbers(opened))  # of all classes together
    together = opened.picture()

    page.select_option("#viewer-class", label="SDH")
    opened.wait_until(lambda: "Dice0.000" in numbers(opened))
    assert opened.picture() != together
    slice_ml = 18 * 3 * VOXEL_ML
    assert f"truth {slice_ml:.2f} mL, prediction 0.00 mL" in status(opened)
    assert f"Truth{4 * slice_ml:.2f} mL" in numbers(opened)

    page.select_option("#viewer-class", label="all together")
    opened.wait_until(lambda: "Dice1.000" in numbers(opened))
    assert opened.said == []


def test_a_key_goes_through_the_classes(opened: Opened) -> None:
    page = opened.page
    page.focus("#viewer-canvas")
    shown = []
    for _ in range(4):
        page.keyboard.press("c")
        shown.append(page.evaluate("document.querySelector('#viewer-class').value"))
    assert shown == ["1", "2", "3", "0"]


def test_the_switch_lists_what_runs_and_labels_both_know(opened: Opened) -> None:
    options = opened.page.locator("#viewer-class option").all_text_contents()
    assert options == ["all together", "IPH", "SDH", "SAH"]


def test_edema_is_not_part_of_all_classes_together(tmp_path: Path) -> None:
    classes = (LabelClass(1, "IPH"), LabelClass(2, "edema"), LabelClass(3, "SAH"))
    place = make_place(tmp_path, truth=classes)
    run = add_run(place, "a", [label_map(n) for n in range(6)])
    write_classes(DataDirectory(run.predictions("test")), classes)
    for n in range(6):
        (place.root / "data/toy/test/label" / f"scan{n}.nii.gz").replace(
            run.prediction_file("test", f"scan{n}")
        )
    place = make_place(tmp_path, truth=classes)
    evaluate(place.config())

    result = report(place.config(), runs=["a"])
    row = result.summary.rows[0]
    assert result.viewer_left_out == {}
    assert row[2].mean == 1.0  # type: ignore[union-attr]
    cases = (run.path / "report_csv" / "cases.csv").read_text()
    bleed_ml = int(np.isin(label_map(5), (1, 3)).sum()) * VOXEL_ML
    assert f"{bleed_ml:g}"[:5] in cases
