"""`hemseg convert`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.result import Result

_Dicom = Annotated[
    str | None,
    typer.Option("--dicom", metavar="SOURCE", help="DICOM folder, zip, https://...zip, or kaggle."),
]
_Layout = Annotated[
    str | None,
    typer.Option(
        "--layout", metavar="rsna|series", help="Slices per manifest, or any tree of series."
    ),
]
_Scan = Annotated[
    list[str] | None,
    typer.Option("--scan", metavar="ID", help="Only this scan of the manifest; repeatable."),
]
_Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Output folder of layout series.")
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what is needed, present and missing.")
]
_Force = Annotated[bool, typer.Option("--force", help="Convert again what is converted.")]
_Uneven = Annotated[
    str | None,
    typer.Option("--uneven", metavar="refuse|resample", help="What becomes of uneven slice steps."),
]
_Geometry = Annotated[
    str | None,
    typer.Option(
        "--geometry",
        metavar="label|true",
        help="The label's grid, or tilted scans resampled upright.",
    ),
]


@options.common
def convert(
    common: options.Common,
    *,
    dicom: _Dicom = None,
    layout: _Layout = None,
    scan: _Scan = None,
    out: _Out = None,
    workers: options.Workers = None,
    scheduler: options.Scheduler = None,
    dry_run: _DryRun = False,
    force: _Force = False,
    uneven: _Uneven = None,
    geometry: _Geometry = None,
) -> Result:
    """Convert DICOM slices to one NIfTI per scan, on the label's grid.

    What is converted already is left alone.
    """
    chosen = {
        "convert.dicom": dicom,
        "convert.layout": layout,
        "convert.out": out,
        "convert.uneven": uneven,
        "convert.geometry": geometry,
        "compute.workers": workers,
        "compute.scheduler": scheduler,
    }
    config = common.config(chosen)

    # numpy and pydicom come with it: --help does without them.
    from hemseg_cli.dataset.conversion.convert import convert as convert_scans

    return convert_scans(config, scans=scan, dry_run=dry_run, force=force)
