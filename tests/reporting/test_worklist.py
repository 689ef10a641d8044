"""The worklist of a folder that `predict --out` wrote, in a real Chromium."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.config import Config
from hemseg_cli.core.classes import PREDEFINED, write_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import UsageError
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
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

    def test_forty_scans_and_a_hostile_name(self, browser: Any, tmp_path: Path) -> None:
        folder = tmp_path / "many"
        for number in range(39):
            write_volume(folder / f"s{number:02d}.nii.gz", scan(seed=number))
        hostile = "<img src=x onerror=alert(1)> $x^2$ & co"
        write_volume(folder / f"{hostile}.nii.gz", scan(seed=39))
        predict(config_in(tmp_path), inputs=[folder], out=tmp_path / "forty")
        result = report(config_in(tmp_path), runs=["forty"])
        assert len(result.viewer_scans) == 40

        context = browser.new_context(color_scheme="dark")
        opened = Opened(context.new_page(), result.html.absolute())
        buttons = opened.page.locator("#table-cases button.open")
        assert buttons.count() == 40
        for row in (0, 21, 39):
            buttons.nth(row).click()
            opened.page.wait_for_selector(f"#viewer[data-ready='{row}']")
            shown = opened.page.locator(".viewer-tabs [aria-pressed='true'] .scan")
            assert shown.text_content() == buttons.nth(row).text_content()
        assert sum(name == hostile for name in buttons.all_text_contents()) <= 1
        assert opened.page.locator("img[src='x']").count() == 0
        opened.page.fill("#filter-text", "onerror")
        assert opened.page.locator("#table-cases tbody tr:visible").count() <= 1
        assert opened.said == []
        assert [url for url in opened.asked if not url.startswith(("file:", "data:"))] == []
        context.close()

    def test_classes_have_their_own_colours(self, browser: Any, config: Config) -> None:
        """The left half of every mask is made another class."""
        for path in Path("out").glob("*_mask.nii.gz"):
            mask = read_volume(path)
            halves = np.where(np.arange(mask.array.shape[0]) < mask.array.shape[0] // 2, 1, 2)
            labels = (mask.array * halves[:, None, None]).astype(np.uint8)
            write_volume(path, Volume(labels, mask.affine))
        classes = tuple(one for one in PREDEFINED if one.key in ("IPH", "IVH"))
        classes = tuple(replace(one, value=n) for n, one in enumerate(classes, start=1))
        write_classes(DataDirectory(Path("out")), classes)
        result = report(config, runs=["out"])

        context = browser.new_context()
        opened = Opened(context.new_page(), result.html.absolute())
        opened.page.wait_for_selector("#viewer[data-ready]")
        assert opened.page.locator("#viewer-legend span").all_text_contents() == ["IPH", "IVH"]
        seen = [opened.pixels(*one.colour, canvas="viewer-coronal") for one in classes]
        assert min(seen) > 10
        opened.page.select_option("#viewer-class", label="IVH")
        seen = [opened.pixels(*one.colour, canvas="viewer-coronal") for one in classes]
        assert seen[0] == 0
        assert seen[1] > 10
        # Reading pixels back makes Chromium give advice.
        assert [text for text in opened.said if "getImageData" not in text] == []
        context.close()

    def test_every_scan_opens_and_its_lesions_jump(self, browser: Any, config: Config) -> None:
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
