"""The worklist of a folder that `predict --out` wrote, in a real Chromium."""

from pathlib import Path

import pytest

from hemseg_cli.config import Config
from hemseg_cli.core.errors import UsageError
from hemseg_cli.imaging.nifti import write_volume
from hemseg_cli.inference.predict import predict
from hemseg_cli.reporting.report import report
from tests.inference.small_model import config_in, make_run, scan
from tests.reporting.test_page_in_browser import Opened, browser, pytestmark

__all__ = ["browser"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_volume(tmp_path / "in" / f"s{number}.nii.gz", scan(seed=number))
    config = config_in(tmp_path)
    predict(config, inputs=[tmp_path / "in"], out=tmp_path / "out")
    return config


def test_rows_are_sorted_by_review_and_volume(config: Config) -> None:
    result = report(config, runs=["out"])
    rows = result.summary.rows
    keys = [(not row[1], -row[2]) for row in rows]
    assert keys == sorted(keys)
    assert sorted(str(row[0]) for row in rows) == ["s0", "s1", "s2"]
    assert set(result.viewer_scans) == {"s0", "s1", "s2"}
    assert result.csv_files[0].read_text().startswith("scan,review,predicted_ml")
    assert result.html == Path("out/report.html")


def test_a_folder_of_predictions_stands_alone(config: Config) -> None:
    with pytest.raises(UsageError, match="page of its own"):
        report(config, runs=["out", "out"])


def test_an_input_that_is_gone_is_named(config: Config) -> None:
    Path("in/s1.nii.gz").unlink()
    result = report(config, runs=["out"])
    assert set(result.viewer_scans) == {"s0", "s2"}
    assert "s1" in result.viewer_left_out


@pytest.mark.usefixtures("config")
class TestInBrowser:
    pytestmark = pytestmark

    def test_every_scan_opens_and_its_lesions_jump(self, browser, config: Config) -> None:
        result = report(config, runs=["out"])
        context = browser.new_context(viewport={"width": 390, "height": 844})
        opened = Opened(context.new_page(), result.html.absolute())
        opened.page.wait_for_selector("#viewer[data-ready]")
        buttons = opened.page.locator("#table-cases button.open")
        assert buttons.count() == 3
        buttons.nth(2).click()
        opened.page.wait_for_selector("#viewer[data-ready='2']")
        assert "truth" not in opened.page.text_content("#viewer-status")
        lesions = opened.page.locator("#viewer-lesions button")
        assert lesions.count() >= 1
        opened.page.locator("#viewer-slice").fill("0")
        lesions.first.click()
        # The scans have a bright box in the middle of their six slices.
        assert opened.page.input_value("#viewer-slice") in {"1", "2", "3", "4"}
        assert opened.page.locator("#viewer-histogram rect").count() == 35
        assert opened.page.locator("img.thumbnail").count() == 3
        assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith(("file:", "data:"))] == []
        context.close()
