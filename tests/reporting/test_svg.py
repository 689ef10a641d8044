"""The charts' SVG: what the page's policy forbids is not in it, hostile names are text."""

from xml.etree import ElementTree

import pytest

from hemseg_cli.reporting.chart import draw_chart
from hemseg_cli.reporting.svg import Plot, draw_svg, run_colour, tips_of

HOSTILE = '<b>&"$x^2$\n漢字\u202e'


def _draw(plot: Plot) -> None:
    plot.points(0, [1, 2], [3, 4], ["one", HOSTILE], scans=["a", HOSTILE])
    plot.points(9, [1], [1], ["ninth"])
    plot.name_rows(["a", HOSTILE])
    plot.axes.set_xlabel("$unit")


def test_no_style_and_no_colour_of_its_own_is_left() -> None:
    svg = draw_svg(_draw, width=400, height=200, salt="a", label=HOSTILE)
    assert "style" not in svg
    assert "#000" not in svg
    assert "var(--run-0)" in svg
    # The ninth run takes the colour of the second.
    assert run_colour(9) == run_colour(1)
    root = ElementTree.fromstring(svg)
    assert root.attrib["viewBox"] == "0 0 400 200"
    assert root.attrib["aria-label"] == HOSTILE
    texts = [one.text for one in root.iter() if one.tag.endswith("text")]
    assert "$unit" in texts


def test_marks_keep_their_tips_and_scans_in_order() -> None:
    svg = draw_svg(_draw, width=400, height=200, salt="a", label="")
    assert tips_of(svg) == {"0": ["one", HOSTILE], "9": ["ninth"]}
    scans = [one.attrib.get("data-scan-id") for one in ElementTree.fromstring(svg).iter()]
    assert [scan for scan in scans if scan] == ["a", HOSTILE]


@pytest.mark.parametrize("key", ["dice", "loss"])
def test_no_two_drawings_share_an_id(key: str) -> None:
    chart, other = (draw_chart(name, "", "", _draw) for name in (key, "other"))
    ids = [
        one.attrib["id"]
        for svg in (chart.wide, chart.narrow, other.wide)
        for one in ElementTree.fromstring(svg).iter()
        if "id" in one.attrib
    ]
    assert len(ids) == len(set(ids)) > 6
