"""Inline SVG drawn by matplotlib: follows the page's colours, needs no script, obeys its policy.

matplotlib writes styles as `style` attributes and elements, which the page's
Content-Security-Policy forbids, and colours as numbers, which cannot turn dark. Both are mended
here: styles become presentation attributes (SVG 1.1, section 6.1), and each colour of `COLOURS`
the CSS property of the page that it stands for.
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUN_COLOURS = 8  # how many colours the page has for runs
COLOURS = {
    **{f"run-{n}": f"#00010{n}" for n in range(RUN_COLOURS)},
    **{"text": "#000110", "grid": "#000111", "line": "#000112", "muted": "#000113"},
}
"""CSS property of the page -> the colour that stands for it while matplotlib draws."""

_PROPERTY = {value: f"var(--{name})" for name, value in COLOURS.items()}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_FONT_PX = 12
_LETTER_PX = 7.0  # width of a letter of a label, on the side of too much
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": _FONT_PX,
    "text.color": COLOURS["text"],
    "axes.labelcolor": COLOURS["text"],
    "axes.edgecolor": COLOURS["line"],
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": COLOURS["grid"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["text"],
    "ytick.labelcolor": COLOURS["text"],
    "xtick.labelsize": _FONT_PX - 1,
    "ytick.labelsize": _FONT_PX - 1,
}


@dataclass(frozen=True)
class Marks:
    """What is known of the marks of one artist, in the order in which they were drawn.

    `run`: the run that they belong to; `tips`: what to say of each mark where it is pointed at;
    `scans`: the scan that each opens in the viewer.
    """

    run: int
    tips: tuple[str, ...] = ()
    scans: tuple[str, ...] = ()


@dataclass
class Plot:
    """The axes of a chart that is being drawn, `width` pixels wide, and what its marks mean."""

    axes: "Axes"
    width: int
    marks: list[Marks] = field(default_factory=list)

    def mark(
        self, artist: Any, run: int, tips: Sequence[str] = (), scans: Sequence[str] = ()
    ) -> None:
        """Say what an artist (a matplotlib object that draws) shows."""
        artist.set_gid(f"marks-{len(self.marks)}")
        self.marks.append(Marks(run, tuple(tips), tuple(scans)))

    def points(
        self, run: int, x: Sequence[float], y: Sequence[float], tips: Sequence[str], **style: Any
    ) -> None:
        """Draw a point per scan; `scans` in `style` says which scan each opens."""
        scans = style.pop("scans", ())
        usual: dict[str, Any] = {"s": 42, "color": run_colour(run), "alpha": 0.75, "linewidths": 0}
        drawn = self.axes.scatter(x, y, **(usual | style))
        self.mark(drawn, run, tips, scans)

    def name_rows(self, names: Sequence[str]) -> None:
        """Write a name beside each row 0, 1 ... of a chart of rows, the first one on top."""
        self.axes.set_yticks(range(len(names)), labels=list(names))
        self.axes.set_ylim(len(names) - 0.5, -0.5)
        self.axes.grid(visible=False, axis="y")
        self.axes.tick_params(axis="y", length=0)


def run_colour(run: int) -> str:
    """Return the colour of the run at that place; the ninth takes the first's again."""
    return COLOURS[f"run-{run % RUN_COLOURS}"]


def draw_svg(
    draw: Callable[[Plot], None], *, width: int, height: int, salt: str, label: str
) -> str:
    """Return a chart as an SVG element of HTML, `width` by `height` pixels.

    `salt`: makes the ids in it differ from those of every other chart on the page; `label`: what
    it shows, in words.
    """
    import matplotlib  # half a second to import
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}), warnings.catch_warnings():
        # The page's font draws the text: what matplotlib's own has no letter for is no matter.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, frameon=False)
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.set_facecolor("none")
        plot = Plot(axes, width)
        draw(plot)
        figure.subplots_adjust(**_margins(axes, width, height))
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return _for_page(text.getvalue(), plot.marks, label)


def _margins(axes: "Axes", width: int, height: int) -> dict[str, float]:
    """Return matplotlib's shares of the sides that leave room for the labels at the axes."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    named = any(name.strip("\u2212-.0123456789") for name in names)
    beside = 18 + _LETTER_PX * max(map(len, names), default=0) if named else 34
    beside = min(beside + (20 if axes.get_ylabel() else 0), 0.45 * width)
    below = 42 if axes.get_xlabel() else 24
    return {
        "left": beside / width,
        "right": 1 - 14 / width,
        "top": 1 - 10 / height,
        "bottom": below / height,
    }


def _for_page(text: str, marks: Sequence[Marks], label: str) -> str:
    """Turn matplotlib's SVG file into an element that follows the page and obeys its policy."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(text)

    # Without metadata and style elements, of which the first stands for the attributes set here.
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("metadata", "style")):
                parent.remove(child)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": label, "stroke-linejoin": "round"}

    for element in root.iter():
        _unfold_style(element)
        gid = element.attrib.get("id", "")
        if gid.startswith("marks-"):
            _explain(element, marks[int(gid.removeprefix("marks-"))])
        # matplotlib names every group; only what is referred to keeps its name.
        if element.tag == f"{{{_SVG}}}g":
            element.attrib.pop("id", None)
    return re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode"))


def _unfold_style(element: ElementTree.Element) -> None:
    """Turn the style attribute into presentation attributes, and colours into the page's."""
    for declaration in element.attrib.pop("style", "").split(";"):
        name, _, value = declaration.strip().partition(": ")
        if name and name != "font-family":
            element.set(name, _PROPERTY.get(value, value))
    if "d" in element.attrib:
        element.set("d", " ".join(element.attrib["d"].split()))


def _explain(group: ElementTree.Element, marks: Marks) -> None:
    """Give each mark of a group its tip and its scan, and the group its run."""
    group.set("data-run", str(marks.run))
    drawn = [one for one in group.iter() if _is_mark(one)]
    for one, tip in zip(drawn, marks.tips, strict=False):
        one.set("data-tip", tip)
    for one, scan in zip(drawn, marks.scans, strict=False):
        one.set("data-scan-id", scan)


def _is_mark(element: ElementTree.Element) -> bool:
    """Whether an element draws a mark: a use of a marker, or a path that stands by itself."""
    return element.tag == f"{{{_SVG}}}use" or (
        element.tag == f"{{{_SVG}}}path" and "id" not in element.attrib
    )


def tips_of(svg: str) -> Mapping[str, list[str]]:
    """Return the tips of a chart by run, in the order in which they are drawn."""
    found: dict[str, list[str]] = {}
    for group in ElementTree.fromstring(svg).iter():
        if "data-run" in group.attrib:
            tips = [one.attrib["data-tip"] for one in group.iter() if "data-tip" in one.attrib]
            found.setdefault(group.attrib["data-run"], []).extend(tips)
    return found
