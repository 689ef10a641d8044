"""The page in a real Chromium, opened from file://."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hemseg_cli.reporting.report import report
from tests.reporting.workplace import Workplace

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
HOSTILE = '<img src=x onerror="document.title=1">'

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)"
    ),
]


class Opened:
    """A page with what it said and asked for."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.set_default_timeout(20_000)
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")

    def wait_until(self, holds: Callable[[], bool]) -> None:
        # Not page.wait_for_function: the page's policy forbids the eval behind it.
        for _ in range(100):
            if holds():
                return
            self.page.wait_for_timeout(100)
        raise AssertionError("waited ten seconds in vain")

    def column(self, table: str, title: str) -> list[str]:
        script = """([table, title]) => {
            const found = document.getElementById(table);
            const heads = [...found.tHead.rows[0].cells];
            const place = heads.findIndex((cell) => cell.textContent === title);
            const rows = [...found.tBodies[0].rows];
            const shown = rows.filter((row) => !row.classList.contains("hidden"));
            return shown.map((row) => row.cells[place].textContent);
        }"""
        return list(self.page.evaluate(script, [table, title]))

    def picture(self) -> str:
        return str(self.page.evaluate("document.getElementById('viewer-canvas').toDataURL()"))

    def pixels(self, red: int, green: int, blue: int, canvas: str = "viewer-canvas") -> int:
        """How many pixels of the viewer have that colour."""
        script = """([r, g, b, id]) => {
            const canvas = document.getElementById(id);
            const context = canvas.getContext("2d");
            const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
            let found = 0;
            for (let n = 0; n < data.length; n += 4)
                found += data[n] === r && data[n + 1] === g && data[n + 2] === b;
            return found;
        }"""
        return int(self.page.evaluate(script, [red, green, blue, canvas]))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def place(make_shared_workplace: Callable[..., Workplace]) -> Workplace:
    scans = ("0a1b2c3d4e", "1b2c3d4e5f", "2c3d4e5f60", "3d4e5f6071", "4e5f607182")
    return make_shared_workplace(scans=scans, runs=("a", "b"))


@pytest.fixture(scope="module")
def opened(browser: Any, place: Workplace) -> Iterator[Opened]:
    result = report(place.config, runs=["a", "b"])
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield Opened(context.new_page(), result.html)
    context.close()


def test_opens_from_a_file_without_a_word_on_the_console_or_a_request(opened: Opened) -> None:
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in opened.asked if url.startswith("file:")]) == 1


def test_every_chart_is_drawn_once(opened: Opened) -> None:
    charts = opened.page.locator(".chart")
    assert charts.count() >= 8
    # Of its two widths each shows one.
    assert opened.page.locator(".chart svg:visible").count() == charts.count()


def test_a_mark_of_a_chart_says_what_it_is_and_opens_its_scan(opened: Opened) -> None:
    mark = opened.page.locator("#chart-dice .wide [data-scan-id='2c3d4e5f60']").first
    mark.scroll_into_view_if_needed()
    mark.hover()
    assert str(opened.page.text_content(".tip")).startswith("2c3d4e5f60\nDice 0.")
    mark.click()
    shown = opened.page.text_content(".viewer-tabs [aria-pressed='true'] .scan")
    assert shown == "2c3d4e5f60"


def test_the_legend_shows_and_hides_a_run(opened: Opened) -> None:
    chart = opened.page.locator("#chart-bland_altman")
    marks = [chart.locator(f".wide g[data-run='{run}'] [data-scan-id]") for run in (0, 1)]
    assert (marks[0].first.is_visible(), marks[1].first.is_visible()) == (True, False)
    keys = chart.locator(".key")
    keys.nth(0).click()
    keys.nth(1).click()
    assert (marks[0].first.is_visible(), marks[1].first.is_visible()) == (False, True)
    keys.nth(0).click()
    keys.nth(1).click()


def test_the_viewer_starts_with_the_median_scan_where_its_truth_is_largest(opened: Opened) -> None:
    opened.page.click("[data-scan='1']")
    opened.page.wait_for_selector("#viewer[data-ready='1']")
    assert opened.page.get_attribute("[data-scan='1']", "aria-pressed") == "true"
    # The bleed is drawn around slice index 4 of 8.
    assert opened.page.text_content("#viewer-status").startswith("Slice 5 of 8: truth ")


@pytest.mark.parametrize(
    ("key", "slice_number"),
    [("ArrowUp", 6), ("ArrowDown", 4), ("End", 8), ("Home", 1), ("PageUp", 8)],
)
def test_keys_move_through_the_slices(opened: Opened, key: str, slice_number: int) -> None:
    opened.page.locator("#viewer-slice").fill("4")
    before = opened.picture()
    opened.page.focus("#viewer-canvas")
    opened.page.keyboard.press(key)
    assert opened.page.text_content("#viewer-status").startswith(f"Slice {slice_number} of 8")
    assert opened.page.input_value("#viewer-slice") == str(slice_number - 1)
    assert opened.picture() != before


def test_the_wheel_moves_through_the_slices_and_at_the_end_the_page(opened: Opened) -> None:
    opened.page.locator("#viewer-slice").fill("4")
    opened.page.evaluate("window.scrollTo(0, 0)")
    opened.page.hover("#viewer-canvas")
    start = opened.page.evaluate("window.scrollY")
    opened.page.mouse.wheel(0, 40)
    opened.wait_until(lambda: opened.page.input_value("#viewer-slice") == "3")
    assert opened.page.evaluate("window.scrollY") == start
    opened.page.locator("#viewer-slice").fill("0")
    opened.page.hover("#viewer-canvas")
    opened.page.mouse.wheel(0, 120)
    opened.wait_until(lambda: opened.page.evaluate("window.scrollY") > start)
    assert opened.page.input_value("#viewer-slice") == "0"


@pytest.mark.parametrize("turned", [53, 100, 240])
def test_one_notch_of_the_wheel_is_one_slice(opened: Opened, turned: int) -> None:
    opened.page.locator("#viewer-slice").fill("6")
    opened.page.hover("#viewer-canvas")
    for left in ("5", "4"):
        opened.page.mouse.wheel(0, turned)
        opened.wait_until(lambda left=left: opened.page.input_value("#viewer-slice") == left)
        opened.page.wait_for_timeout(50)
    assert opened.page.input_value("#viewer-slice") == "4"


def test_the_slice_zooms_moves_and_comes_back(opened: Opened) -> None:
    opened.page.locator("#viewer-slice").fill("4")
    whole, seen = opened.picture(), opened.pixels(255, 154, 60)
    opened.page.focus("#viewer-canvas")
    for _ in range(4):
        opened.page.keyboard.press("+")
    near = opened.picture()
    # The bleed is larger on the canvas, and its outline with it.
    assert opened.pixels(255, 154, 60) > 1.4 * seen

    box = opened.page.locator("#viewer-canvas").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] / 2 + 30, box["y"] + box["height"] / 2)
    opened.page.mouse.up()
    assert opened.picture() not in (near, whole)

    opened.page.keyboard.press("0")
    assert opened.picture() == whole


def test_a_distance_is_measured_in_mm(opened: Opened) -> None:
    script = "JSON.parse(document.getElementById('viewer-scan-1').textContent).width_mm"
    width_mm = float(opened.page.evaluate(script))
    # The scan is 64 pixels of 1.5 mm wide, cropped to its head of 0.85 of that and a margin.
    assert 0.85 * 96 <= width_mm <= 96
    opened.page.click("[data-scan='1']")
    opened.page.wait_for_selector("#viewer[data-ready='1']")
    opened.page.check("#viewer-measure")
    box = opened.page.locator("#viewer-canvas").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    opened.page.mouse.up()
    shown = opened.page.text_content("#viewer-distance")
    assert float(shown.removesuffix(" mm")) == pytest.approx(width_mm / 2, rel=0.02)
    opened.page.uncheck("#viewer-measure")
    assert opened.page.text_content("#viewer-distance") == ""


def test_two_fingers_zoom_and_one_still_scrolls(browser: Any, place: Workplace) -> None:
    result = report(place.config, runs=["b"])
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    opened = Opened(context.new_page(), result.html)
    opened.page.wait_for_selector("#viewer[data-ready]")
    canvas = opened.page.locator("#viewer-canvas")
    canvas.scroll_into_view_if_needed()
    assert canvas.evaluate("canvas => canvas.style.touchAction") == "pan-y"
    whole, box = opened.picture(), canvas.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    touch = context.new_cdp_session(opened.page)
    for kind, apart in (("Start", 20), ("Move", 30), ("Move", 45), ("Move", 60)):
        points = [{"x": middle[0] + way * apart, "y": middle[1], "id": way} for way in (0, 1)]
        points[0]["x"] = middle[0] - apart
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    opened.wait_until(lambda: opened.picture() != whole)
    assert canvas.evaluate("canvas => canvas.style.touchAction") == "none"
    assert opened.said == []
    context.close()


def test_toggles_draw_and_hide_truth_and_prediction(opened: Opened) -> None:
    truth, prediction = (46, 196, 255), (255, 154, 60)
    opened.page.locator("#viewer-slice").fill("4")
    assert opened.pixels(*prediction) > 20
    both = opened.pixels(*truth)
    opened.page.uncheck("#viewer-prediction")
    assert opened.pixels(*prediction) == 0
    assert opened.pixels(*truth) >= both
    opened.page.focus("#viewer-canvas")
    opened.page.keyboard.press("t")
    assert not opened.page.is_checked("#viewer-truth")
    assert opened.pixels(*truth) == 0
    outlined = opened.picture()
    opened.page.check("#viewer-truth")
    opened.page.keyboard.press("f")
    assert opened.picture() != outlined
    opened.page.uncheck("#viewer-fill")
    opened.page.check("#viewer-prediction")


def test_the_window_maps_hu_to_grey(opened: Opened) -> None:
    for toggle in ("#viewer-truth", "#viewer-prediction"):
        opened.page.uncheck(toggle)
    opened.page.click("text=Brain")
    narrow = opened.pixels(255, 255, 255)
    opened.page.locator("#viewer-level").fill("150")
    opened.page.locator("#viewer-width").fill("20")
    # Only what is above 160 HU is white: bone, not the bleed of 65 HU.
    assert 0 < opened.pixels(255, 255, 255) < narrow or opened.pixels(255, 255, 255) == narrow > 0
    opened.page.locator("#viewer-level").fill("30")
    # Brain of 35 and bleed of 65 HU lie around and above a window of 20..40.
    assert opened.pixels(255, 255, 255) > narrow
    opened.page.click("text=Brain")
    for toggle in ("#viewer-truth", "#viewer-prediction"):
        opened.page.check(toggle)


def test_the_probe_reads_hu(opened: Opened) -> None:
    opened.page.locator("#viewer-slice").fill("0")
    box = opened.page.locator("#viewer-canvas").bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.6)
    shown = opened.page.text_content("#viewer-probe")
    # Brain was drawn at 35 HU with noise of 6.
    assert 10 <= int(shown.removesuffix(" HU")) <= 60
    opened.page.mouse.move(box["x"] + 2, box["y"] + 2)
    assert opened.page.text_content("#viewer-probe") == "\u2264 -100 HU"


def test_the_other_run_has_its_own_mask(opened: Opened) -> None:
    opened.page.locator("#viewer-slice").fill("4")
    before = opened.picture()
    opened.page.select_option("#viewer-run", "1")
    assert opened.picture() != before
    opened.page.select_option("#viewer-run", "0")


def test_the_table_sorts_both_ways(opened: Opened) -> None:
    header = opened.page.locator("#table-cases th", has_text="Dice")
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    upward = [float(text) for text in opened.column("table-cases", "Dice")]
    assert upward == sorted(upward)
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in opened.column("table-cases", "Dice")] == sorted(
        upward, reverse=True
    )


def test_the_table_filters_by_text_run_and_dice(opened: Opened) -> None:
    opened.page.fill("#filter-text", "2C3D4E5F60")
    assert opened.column("table-cases", "Scan") == ["2c3d4e5f60", "2c3d4e5f60"]
    opened.page.select_option("#filter-run", "b")
    assert opened.column("table-cases", "Run") == ["b"]
    assert opened.page.text_content("#filter-count") == "1 of 10 rows"
    opened.page.fill("#filter-text", "")
    opened.page.fill("#filter-dice", "0.5")
    assert all(float(text) <= 0.5 for text in opened.column("table-cases", "Dice"))
    opened.page.fill("#filter-dice", "")
    opened.page.select_option("#filter-run", "")


def test_a_scan_of_the_table_opens_in_the_viewer(opened: Opened) -> None:
    opened.page.click("#table-cases button.open >> nth=0")
    shown = opened.page.text_content(".viewer-tabs [aria-pressed='true'] .scan")
    assert shown == opened.page.text_content("#table-cases button.open >> nth=0")


def test_every_row_opens_its_scan(
    browser: Any, make_shared_workplace: Callable[..., Workplace]
) -> None:
    scans = tuple(f"{n:010x}" for n in range(40))
    place = make_shared_workplace(scans=scans, shape=(40, 40, 4))
    result = report(place.config)
    assert set(result.viewer_scans) == set(scans)
    context = browser.new_context()
    opened = Opened(context.new_page(), result.html)
    buttons = opened.page.locator("#table-cases button.open")
    assert buttons.count() == 40
    # Of so many scans only worst, median and best have a tab, and the one that is shown.
    assert opened.page.locator(".viewer-tabs button:visible").count() == 3
    for row in (1, 7, 33):
        buttons.nth(row).click()
        pressed = opened.page.locator(".viewer-tabs [aria-pressed='true']")
        place_of_scan = pressed.get_attribute("data-scan")
        opened.page.wait_for_selector(f"#viewer[data-ready='{place_of_scan}']")
        assert pressed.locator(".scan").text_content() == buttons.nth(row).text_content()
        assert str(opened.page.text_content("#viewer-status")).startswith("Slice ")
    assert opened.said == []
    context.close()


def test_a_lesion_of_the_list_is_jumped_to(opened: Opened) -> None:
    opened.page.click("[data-scan='1']")
    opened.page.wait_for_selector("#viewer[data-ready='1']")
    opened.page.locator("#viewer-slice").fill("0")
    lesion = opened.page.locator("#viewer-lesions button").first
    assert str(lesion.text_content()).endswith(" mL, found")
    lesion.click()
    # The bleed is drawn around slice index 4 of 8.
    assert opened.page.input_value("#viewer-slice") in {"3", "4"}
    # HU of the prediction as bars, of the truth as a line.
    assert opened.page.locator("#viewer-histogram rect").count() == 35
    assert opened.page.locator("#viewer-histogram polyline").count() == 1


def test_csv_is_saved_from_the_page(opened: Opened) -> None:
    with opened.page.expect_download() as waiting:
        opened.page.click("[data-csv='cases']")
    saved = Path(waiting.value.path()).read_text()
    assert saved.startswith("run,scan,patient,")
    assert len(saved.splitlines()) == 11


def test_print_shows_everything_on_white(opened: Opened) -> None:
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert (
        opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert not opened.page.is_visible("nav")
    assert len(opened.page.pdf()) > 10_000
    opened.page.emulate_media(media="screen", color_scheme="light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_in_light_and_dark(browser: Any, place: Workplace, scheme: str) -> None:
    result = report(place.config, runs=["b"])
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True
    )
    opened = Opened(context.new_page(), result.html)
    opened.page.wait_for_selector("#viewer[data-ready]")
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    widest = "Math.max(...[...document.querySelectorAll('.chart')].map((one) => one.scrollWidth))"
    assert opened.page.evaluate(widest) <= 358
    assert opened.page.locator(".chart .wide:visible").count() == 0
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    assert opened.page.evaluate("document.querySelector('#table-summary td').offsetHeight") < 60
    background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    keep = os.environ.get("HEMSEG_TEST_SCREENSHOTS")
    if keep:
        opened.page.screenshot(path=f"{keep}/phone-{scheme}.png", full_page=True)
    assert opened.said == []
    context.close()


def test_hostile_names_show_as_text(
    browser: Any, make_shared_workplace: Callable[..., Workplace]
) -> None:
    place = make_shared_workplace(scans=("good", HOSTILE, "fine"), runs=("<img src=y>",))
    result = report(place.config)
    context = browser.new_context()
    opened = Opened(context.new_page(), result.html)
    assert "<img" in str(opened.page.get_attribute("#chart-forest .narrow [data-tip]", "data-tip"))
    assert HOSTILE in opened.column("table-cases", "Scan")
    # No case table holds such an id: the scan is named among those without pictures.
    assert HOSTILE in str(opened.page.text_content("body"))
    assert opened.page.text_content(".facts strong") == "<img src=y>"
    assert opened.page.locator("img").count() == 0
    assert opened.page.title().startswith("Intracerebral hemorrhage segmentation")
    assert opened.said == []
    context.close()
