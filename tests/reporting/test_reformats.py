"""Coronal and sagittal reformats: true distances of tilted and uneven slices, linked cross-hair."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hemseg_cli.imaging.geometry import header_voxel_volume_mm3
from hemseg_cli.inference.predict import predict
from hemseg_cli.reporting.packing import slice_places
from hemseg_cli.reporting.report import report
from tests.inference.small_model import config_in, make_run
from tests.inference.test_uneven_series import RADIUS_MM, TWO_PART_MM, draw_series
from tests.reporting.test_page_in_browser import CHROMIUM, FLAGS, Opened, sync_api

STEP_MM = 5.0  # of the table between two slices
VIEWS = ("coronal", "sagittal")


def tilted_affine(tilt_deg: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The affine of slices tilted by a gantry as ITK reads it, and the true one, canonical axes."""
    tilt = math.radians(tilt_deg)
    steps = np.eye(4)
    steps[:3, 1] = (0, math.cos(tilt), -math.sin(tilt))
    steps[:3, 2] = STEP_MM * np.array([0, math.sin(tilt), math.cos(tilt)])
    true = steps.copy()
    true[:3, 2] = (0, 0, STEP_MM)
    return steps, true


@pytest.mark.parametrize("tilt_deg", [18.5, -25.0])
@pytest.mark.parametrize("sheared_header", [False, True])
def test_slices_of_a_tilted_gantry_are_sheared_right(tilt_deg: float, sheared_header: bool) -> None:
    lost, true = tilted_affine(tilt_deg)
    volume_mm3 = float(np.linalg.det(true[:3, :3]))
    places = slice_places(true if sheared_header else lost, 4, volume_mm3)
    # By hand: the table's step along the normal, and along the slice towards posterior (down).
    tilt, number = math.radians(tilt_deg), np.arange(4)
    np.testing.assert_allclose(places[0], number * STEP_MM * math.cos(tilt), atol=1e-9)
    np.testing.assert_allclose(places[1], 0, atol=1e-9)
    np.testing.assert_allclose(places[2], number * STEP_MM * math.sin(tilt), atol=1e-9)


@pytest.mark.parametrize("known", [True, False])
def test_an_oblique_grid_that_is_what_it_says_is_not_sheared(known: bool) -> None:
    affine, _ = tilted_affine(20.0)
    volume_mm3 = header_voxel_volume_mm3(affine) if known else None
    places = slice_places(affine, 3, volume_mm3)
    np.testing.assert_allclose(places, [[0, 5, 10], [0, 0, 0], [0, 0, 0]], atol=1e-9)


def test_uneven_slices_lie_where_they_were_taken() -> None:
    lost, true = tilted_affine(18.5)
    positions = np.array([0.0, 4.0, 8.0, 9.0, 16.0])
    places = slice_places(lost, 5, float(np.linalg.det(true[:3, :3])), positions)
    np.testing.assert_allclose(places[0], positions, atol=1e-9)
    np.testing.assert_allclose(places[2], positions * math.tan(math.radians(18.5)), atol=1e-9)


needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)"
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::UserWarning:pydicom"),
]
THE_SCAN = """() => {
    window.theScan = () => {
        const tab = document.querySelector(".viewer-tabs [aria-pressed='true']");
        return JSON.parse(document.getElementById(`viewer-scan-${tab.dataset.scan}`).textContent);
    };
}"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Three series of a ball: upright, tilted, and tilted in two parts."""
    folder = tmp_path_factory.mktemp("series")
    make_run(folder)
    series = {"upright": (np.arange(25) * 4.0, 0.0), "tilted": (np.arange(25) * 4.0, 18.5)}
    series["two-part"] = (TWO_PART_MM, -20.0)
    for name, (places, tilt_deg) in series.items():
        draw_series(folder / "in" / name, places, centre_mm=48.0, tilt_deg=tilt_deg)
    config = config_in(folder)
    predict(config, inputs=[folder / "in" / name for name in series], out=folder / "out")
    result = report(config, runs=[str(folder / "out")])
    assert result.viewer_left_out == {}

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        opened = Opened(page, Path(result.html))
        page.evaluate(THE_SCAN)
        yield opened
        browser.close()


def show(opened: Opened, name: str) -> None:
    opened.page.click(f"#table-cases button.open >> text={name}")
    shown = opened.page.locator(".viewer-tabs [aria-pressed='true']")
    place = shown.get_attribute("data-scan")
    opened.page.wait_for_selector(f"#viewer[data-ready='{place}']")
    assert shown.locator(".scan").text_content() == name


def outline_mm(opened: Opened, view: str) -> tuple[float, float]:
    """Width and height of the mask's outline in a reformat, mm."""
    script = """(view) => {
        const canvas = document.getElementById(`viewer-${view}`);
        const { width, height } = canvas;
        const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
        let [left, right, top, bottom] = [width, 0, height, 0];
        for (let n = 0; n < width * height; n++) {
            const [red, green, blue] = data.subarray(4 * n, 4 * n + 3);
            if (red !== 255 || green !== 154 || blue !== 60) continue;
            left = Math.min(left, n % width);
            right = Math.max(right, n % width);
            top = Math.min(top, Math.floor(n / width));
            bottom = Math.max(bottom, Math.floor(n / width));
        }
        return [right - left + 1, bottom - top + 1, canvas.width, canvas.height];
    }"""
    wide, tall, width, height = opened.page.evaluate(script, view)
    box = opened.page.evaluate("(view) => Reformats.extent(theScan(), view)", view)
    return wide / width * box["width"], tall / height * box["height"]


@pytest.mark.parametrize("name", ["upright", "tilted", "two-part"])
@needs_browser
def test_a_ball_is_round_in_every_view(opened: Opened, name: str) -> None:
    show(opened, name)
    opened.page.uncheck("#viewer-cross")
    opened.page.click("#viewer-lesions button >> nth=0")
    for view in VIEWS:
        wide, tall = outline_mm(opened, view)
        assert wide == pytest.approx(2 * RADIUS_MM, abs=2.5)
        # A slice at each end is half a slice thick or more.
        assert tall == pytest.approx(2 * RADIUS_MM, abs=7.5 if name == "two-part" else 4.5)
    opened.page.check("#viewer-cross")


@needs_browser
def test_a_click_in_a_reformat_shows_that_slice_and_column(opened: Opened) -> None:
    show(opened, "tilted")
    box = opened.page.locator("#viewer-sagittal").bounding_box()
    places = opened.page.evaluate("theScan().places")
    extent = opened.page.evaluate("Reformats.extent(theScan(), 'sagittal')")
    wanted = 18
    share = 1 - (places["up_mm"][wanted] - extent["bottom"]) / extent["height"]
    opened.page.mouse.click(
        box["x"] + box["width"] * 0.5, box["y"] + min(box["height"] * share, box["height"] - 1)
    )
    assert opened.page.input_value("#viewer-slice") == str(wanted)
    # The cross-hair of the slice follows: its line stands where the click was, sheared right.
    before = opened.picture()
    opened.page.mouse.click(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * share)
    assert opened.picture() != before


@needs_browser
def test_a_distance_in_a_reformat_is_in_true_mm(opened: Opened) -> None:
    show(opened, "two-part")
    opened.page.check("#viewer-measure")
    box = opened.page.locator("#viewer-coronal").bounding_box()
    x = box["x"] + box["width"] / 2
    opened.page.mouse.move(x, box["y"] + 1)
    opened.page.mouse.down()
    opened.page.mouse.move(x, box["y"] + box["height"] - 1)
    opened.page.mouse.up()
    shown = str(opened.page.text_content("#viewer-distance"))
    # From half a slice below the lowest to half a slice above the highest.
    whole = TWO_PART_MM[-1] + 4 / 2 + 7 / 2
    assert float(shown.removesuffix(" mm")) == pytest.approx(whole, abs=1.5)
    opened.page.uncheck("#viewer-measure")


@needs_browser
def test_the_wheel_goes_through_the_planes(opened: Opened) -> None:
    show(opened, "upright")
    script = "(view) => document.getElementById(`viewer-${view}`).toDataURL()"
    for view in VIEWS:
        opened.page.click("#viewer-lesions button >> nth=0")
        before: Any = opened.page.evaluate(script, view)
        opened.page.hover(f"#viewer-{view}")
        # Near its middle a ball looks the same in the next plane.
        for _ in range(12):
            opened.page.mouse.wheel(0, 100)
        opened.wait_until(
            lambda view=view, before=before: opened.page.evaluate(script, view) != before
        )


@needs_browser
def test_keys_are_listed_and_go_to_the_next_scan(opened: Opened) -> None:
    opened.page.click("#table-cases button.open >> nth=0")
    opened.page.wait_for_selector("#viewer[data-ready='0']")
    opened.page.click(".keys summary")
    listed = opened.page.locator(".keys dt kbd").all_text_contents()
    assert {"+", "0", "P", "F", "X", "D", "N", "B", "Home"} <= set(listed)
    scan = opened.page.locator(".viewer-tabs [aria-pressed='true'] .scan")
    first = scan.text_content()
    opened.page.focus("#viewer-canvas")
    opened.page.keyboard.press("n")
    assert scan.text_content() != first
    opened.page.keyboard.press("b")
    assert scan.text_content() == first
    # Reading pixels back, which these tests do, makes Chromium give advice.
    assert [text for text in opened.said if "getImageData" not in text] == []
