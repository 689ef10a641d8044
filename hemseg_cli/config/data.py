"""`[data]`, `[fetch]` and `[convert]`: where the data lie and how they come in."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hemseg_cli.config.section import Section


class DataConfig(Section):
    """`[data]`."""

    root: Path = Field(Path("data"), description="folder that holds the data sets")
    dataset: str = Field(
        "hemseg-200",
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="hemseg-200, hemseg-500, or the name of a data set of your own below data.root",
    )

    @property
    def folder(self) -> Path:
        """`<root>/<dataset>`."""
        return self.root / self.dataset

    @property
    def cases_file(self) -> Path:
        """The case table."""
        return self.folder / "cases.csv"


class FetchConfig(Section):
    """`[fetch]`."""

    source: str | None = Field(None, description="mirror URL, archive file or folder; none: the published files, by their commit")
    splits: Literal["official", "patient"] = Field(
        "official", description="the published splits, or the same repaired so that no patient stands in two"
    )
    timeout_s: float = Field(30.0, gt=0, description="seconds without a byte after which a connection is given up")
    retries: int = Field(5, ge=0, description="how often a broken download is taken up again")
    backoff_s: float = Field(1.0, ge=0, description="seconds before the first retry, doubled before each further one")
    redirect_hosts: tuple[str, ...] = Field(
        (), description="hosts to which a download may be redirected, besides its own, GitHub's, Kaggle's and Google storage"
    )


class ConvertConfig(Section):
    """`[convert]`."""

    dicom: str | None = Field(None, description="DICOM folder, zip file, https://...zip, or kaggle")
    layout: Literal["rsna", "series"] = Field(
        "rsna", description="rsna: slices by id, per manifest; series: any tree of DICOM files, one NIfTI per series"
    )
    out: Path | None = Field(None, description="output folder of layout series; none: <data.root>/<data.dataset>")
    uneven: Literal["refuse", "resample"] = Field("refuse", description="uneven slice steps; resample needs layout series or geometry true")
    geometry: Literal["label", "true"] = Field(
        "label",
        description="label: the label's grid; true: tilted scans resampled upright, with their labels into a data set <dataset>-true",
    )
    kaggle_url: str = Field("https://www.kaggle.com", description="base URL of the Kaggle API")
    connections: int = Field(4, ge=1, le=16, description="connections to a remote zip")
