"""`hemseg import`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.result import Result


@options.common
def import_(
    common: options.Common,
    *,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the data set that is made.")
    ],
    source: Annotated[
        Path | None, typer.Argument(metavar="SOURCE", help="Folder of the labelled scans.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            "--layout",
            metavar="LAYOUT",
            help="nnunet, decathlon, bids, folders, case-folders, table, or a public set: bhsd, "
            "mbh-seg, instance22, ct-ich, hemorica, seg-cq500 (default: recognised).",
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder of the images.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="DIR", help="Folder of their labels.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", metavar="CSV", help="Columns image, label, patient, split."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes", metavar="KEY=VALUE,...", help="IPH=1,IVH=2, or hemorrhage=1-5 to merge."
        ),
    ] = None,
    patient_from: Annotated[
        str | None,
        typer.Option(
            "--patient-from", metavar="REGEX", help="Patient in a scan's name (first group)."
        ),
    ] = None,
    rater: Annotated[
        str | None,
        typer.Option(
            "--rater", metavar="NAME", help="Whose labels, or majority, where there are several."
        ),
    ] = None,
    copy: Annotated[
        bool, typer.Option("--copy/--link", help="Copy the images, or link them (default).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be taken, and why not the rest.")
    ] = False,
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
