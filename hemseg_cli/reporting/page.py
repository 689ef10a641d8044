"""The page: one HTML file that needs nothing else.

Autoescaped, with a Content-Security-Policy that names its own parts by hash.
"""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hemseg_cli import __version__
from hemseg_cli.core.cases import VOLUME_STRATA
from hemseg_cli.reporting.chart import Chart
from hemseg_cli.reporting.content import confidence_text, metric_columns, shows_published
from hemseg_cli.reporting.packing import HU_HIGH, HU_LOW
from hemseg_cli.reporting.published import Estimate
from hemseg_cli.reporting.results import RunResults
from hemseg_cli.reporting.tables import Column, ReportTable, cell_text, sort_value, to_csv
from hemseg_cli.reporting.viewer import Viewer

MOST_TABS = 6  # scans of the viewer that all have a tab
_TILES = ("volume_error_ml", "lesion_sensitivity")


@dataclass(frozen=True)
class Page:
    """Everything the page shows."""

    title: str
    split: str
    runs: Sequence[RunResults]
    tables: Sequence[ReportTable]
    charts: Sequence[Chart]
    viewer: Viewer
    matrix: int
    warnings: Sequence[str]
    made: datetime
    notice: str


@dataclass(frozen=True)
class Tile:
    """One number at the top of the page."""

    name: str
    value: str
    range: str


def render(page: Page) -> str:
    """The HTML text."""
    charts = {chart.key: chart for chart in page.charts}
    tables = {table.key: table for table in page.tables}
    return fill_template(
        "page.html",
        _scripts(),
        page=page,
        names=[run.name for run in page.runs],
        tiles=tiles(page.runs[0]),
        glance=_glance(page.runs),
        tables=tables,
        viewer=page.viewer,
        viewer_classes=page.viewer.classes,
        has_truth=True,
        most_tabs=MOST_TABS,
        matrix=page.matrix,
        hu_low=HU_LOW,
        hu_high=HU_HIGH,
        sizes=VOLUME_STRATA,
        skipped={"run"} if len(page.runs) == 1 else set(),
        sections=list(_sections(tables, charts)),
        beside_published=shows_published(page.runs),
        sort_value=sort_value,
        flat=flat,
        data=_data(page),
        **_places(charts, tables, several=len(page.runs) > 1),
    )


def render_worklist(**values: Any) -> str:
    """Return the HTML text of a worklist: `worklist.html` with the viewer, without charts."""
    return fill_template("worklist.html", _scripts(), **values)


def fill_template(name: str, scripts: Sequence[str], **values: Any) -> str:
    """Fill a template with values, the page's styles, and scripts that its policy names."""
    environment = Environment(
        loader=PackageLoader("hemseg_cli.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = _asset("page.css")
    # The policy names what stands in the page, so that scripts are hashed as they are written.
    inline = [_inline_script(text) for text in scripts]
    return environment.get_template(name).render(
        version=__version__,
        policy=content_security_policy(inline, [css]),
        css=Markup(css),
        scripts=[Markup(script) for script in inline],
        **values,
    )


def content_security_policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    """Nothing but the given inline scripts and styles, by SHA-256, and pictures made on the page.

    No style attribute either: what the scripts set by property is not one. CSP level 3, section 6.
    """
    return "; ".join(
        [
            "default-src 'none'",
            "script-src " + " ".join(_hash_source(text) for text in scripts),
            "style-src-elem " + " ".join(_hash_source(text) for text in styles),
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def tiles(run: RunResults) -> list[Tile]:
    """The run's key numbers with their intervals."""
    # Every metric of segmentation, of the others the two that a reader asks for first.
    made = []
    others = metric_columns([run], ("volumes", "lesions"))
    for column in (*metric_columns([run]), *(c for c in others if c.key in _TILES)):
        estimate = run.estimate(column.key)
        if estimate is not None and estimate.mean is not None:
            shown = Column(column.key, column.title, min(3, column.digits or 0))
            text = cell_text(Estimate(estimate.mean), shown)
            interval = cell_text(estimate, shown).partition(" ")[2]
            made.append(
                Tile(
                    column.title,
                    text,
                    f"{confidence_text(run)} {interval}" if interval else "no interval",
                )
            )
    return made


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, text) of every value of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield (
                f"{prefix}{key}",
                ", ".join(map(str, value)) if isinstance(value, list) else str(value),
            )


def _glance(runs: Sequence[RunResults]) -> ReportTable:
    # Three digits at a glance; the tables below have all. IoU follows from Dice.
    metrics = [
        Column(c.key, c.title, min(3, c.digits or 0))
        for c in (*metric_columns(runs), *metric_columns(runs, ("volumes",)))
        if c.key != "iou" and (c.key in _TILES or c in metric_columns(runs))
    ]
    columns = (Column("run", "Run"), *metrics, Column("n", "Scans", 0), Column("model", "Model"))
    rows = tuple(
        (run.name, *(run.estimate(column.key) for column in metrics), run.n_cases, run.model)
        for run in runs
    )
    return ReportTable("glance", "Runs at a glance", columns, rows).without_empty_columns()


def _places(
    charts: Mapping[str, Chart], tables: Mapping[str, ReportTable], *, several: bool
) -> dict[str, Any]:
    """Which charts stand where."""
    # Beside the viewer stands what is asked first: how runs compare, or how the scans spread.
    hero = ["forest", "dice"] if several else ["dice", "dice_volume"]
    # Every other chart is the distribution of a metric.
    known = {"forest", "dice_volume", "bland_altman", "strata", "classes"}
    known |= {"loss", "val_dice", *hero}
    chosen = {
        "hero": hero,
        "beside": [] if several else ["forest"],
        "distributions": [key for key in charts if key not in known],
        "volumes": [key for key in ("bland_altman", "dice_volume") if key not in hero],
        "strata": ["strata"],
        "classes": ["classes"],
        "training": ["loss", "val_dice"],
    }
    places: dict[str, Any] = {
        name: [charts[key] for key in keys if key in charts] for name, keys in chosen.items()
    }
    return places | {
        "comparisons": [table for key, table in tables.items() if key.startswith("comparison")]
    }


def _sections(
    tables: Mapping[str, ReportTable], charts: Mapping[str, Chart]
) -> Iterator[tuple[str, str]]:
    yield "overview", "Overview"
    yield "summary", "Summary"
    yield from ((key, "Comparison") for key in list(tables) if key == "comparison")
    yield "distributions", "Distributions"
    if "volumes_lesions" in tables or "bland_altman" in charts:
        yield "volumes", "Volumes"
    if "strata" in tables:
        yield "strata", "Strata"
    if "classes" in tables:
        yield "classes", "Classes"
    if "external" in tables:
        yield "external", "External"
    yield "scans", "Scans"
    if "loss" in charts or "val_dice" in charts:
        yield "training", "Training"
    yield "provenance", "Provenance"


def _data(page: Page) -> dict[str, Any]:
    """What the page's scripts read."""
    return {
        "csv": {table.key: to_csv(table) for table in page.tables},
        "viewer": {
            "hu": [HU_LOW, HU_HIGH],
            "colours": [],
            "scans": [{"scan": scan.scan} for scan in page.viewer.scans],
        },
    }


def _scripts() -> list[str]:
    """The page's scripts, each of which may use those before it."""
    return [_asset(name) for name in ("reformats.js", "viewer.js", "page.js")]


def _asset(name: str) -> str:
    return (resources.files("hemseg_cli.reporting") / "templates" / name).read_text(
        encoding="utf-8"
    )


def _inline_script(text: str) -> str:
    """A script that can stand inside a script element.

    It must not seem to end it, and browsers hash it with newlines as LF.
    """
    return text.replace("\r\n", "\n").replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
