"""`hemseg import`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.result import Result

_Name = Annotated[
    str, typer.Option("--name", metavar="NAME", help="Name of the data set that is made.")
]
_Source = Annotated[
    Path | None, typer.Argument(metavar="SOURCE", help="Folder of the labelled scans.")
]
_Layout = Annotated[
    str | None,
    typer.Option(
        "--layout",
        metavar="LAYOUT",
        help="nnunet, decathlon, bids, folders, case-folders, table, or a public set: bhsd, "
        "mbh-seg, instance22, ct-ich, hemorica, seg-cq500 (default: recognised).",
    ),
]
_Images = Annotated[
    Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images.")
]
_Labels = Annotated[
    Path | None, typer.Option("--labels", metavar="DIR", help="Folder of their labels.")
]
_Table = Annotated[
    Path | None,
    typer.Option("--table", metavar="CSV", help="Columns image, label, patient, split."),
]
_Classes = Annotated[
    str | None,
    typer.Option(
        "--classes", metavar="KEY=VALUE,...", help="IPH=1,IVH=2, or hemorrhage=1-5 to merge."
    ),
]
_PatientFrom = Annotated[
    str | None,
    typer.Option("--patient-from", metavar="REGEX", help="Patient in a scan's name (first group)."),
]
_Rater = Annotated[
    str | None,
    typer.Option(
        "--rater", metavar="NAME", help="Whose labels, or majority, where there are several."
    ),
]
_Copy = Annotated[
    bool, typer.Option("--copy/--link", help="Copy the images, or link them (default).")
]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be taken, and why not the rest.")
]


@options.common
def import_(
    common: options.Common,
    *,
    name: _Name,
    source: _Source = None,
    layout: _Layout = None,
    images: _Images = None,
    labels: _Labels = None,
    table: _Table = None,
    classes: _Classes = None,
    patient_from: _PatientFrom = None,
    rater: _Rater = None,
    copy: _Copy = False,
    dry_run: _DryRun = False,
    workers: options.Workers = None,
) -> Result:
    """Import labelled NIfTI scans of other layouts as a data set."""
    config = common.config({"compute.workers": workers})

    # numpy and nibabel are slow to import: --help does without them.
    from hemseg_cli.dataset.imports.import_dataset import import_dataset
    from hemseg_cli.dataset.imports.layout import ImportRequest

    request = ImportRequest(
        source=source,
        name=name,
        layout=layout,
        images=images,
        labels=labels,
        table=table,
        classes=classes,
        patient_from=patient_from,
        rater=rater,
        copy=copy,
        dry_run=dry_run,
    )
    return import_dataset(config, request)
