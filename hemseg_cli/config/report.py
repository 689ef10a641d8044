"""`[report]`: the HTML page."""

from typing import Literal

from pydantic import Field

from hemseg_cli.config.section import Section


class ReportConfig(Section):
    """`[report]`."""

    title: str = Field("Intracerebral hemorrhage segmentation", description="title of the page")
    split: Literal["train", "val", "test"] | None = Field(
        None, description="split whose evaluation is shown; none: test, else the one split that every run was evaluated on"
    )
    viewer_cases: int = Field(3, ge=0, le=45, description="scans in the slice viewer, from worst to best Dice; about 1 MB each")
    viewer_matrix: int = Field(256, ge=64, le=512, description="largest width and height of a slice in the viewer, pixels")
