"""The page: one HTML file that needs nothing else. Autoescaped, with a Content-Security-Policy that names its own parts by hash."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from hemseg_cli.reporting.results import RunResults
from hemseg_cli.reporting.tables import ReportTable


@dataclass(frozen=True)
class Page:
    """Everything the page shows."""

    title: str
    split: str
    runs: Sequence[RunResults]
    tables: Sequence[ReportTable]
    warnings: Sequence[str]
    made: datetime
    notice: str


def render(page: Page) -> str:
    """The HTML text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hemseg_cli.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(page=page)
