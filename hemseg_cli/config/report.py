"""`[report]`: the HTML page."""

from pydantic import Field

from hemseg_cli.config.section import Section


class ReportConfig(Section):
    """`[report]`."""

    title: str = Field("Intracerebral hemorrhage segmentation", description="title of the page")
    viewer_cases: int = Field(3, ge=0, le=45, description="scans in the slice viewer: worst, median and best first")
