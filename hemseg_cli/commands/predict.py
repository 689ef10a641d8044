"""`hemseg predict`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.result import Result


@options.common
def predict(
    common: options.Common,
    *,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="INPUT",
            help="NIfTI files, DICOM folders, or folders of either (default: the run's split).",
        ),
    ] = None,
    runs: options.Runs = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="best|last", help="Checkpoint of the run.")
    ] = None,
    split: options.Split = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            "--overlap", help="Share of a window that overlaps the next one, 0 to below 1."
        ),
    ] = None,
    tta: Annotated[
        bool | None, typer.Option("--tta/--no-tta", help="Average over test-time augmentation.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Output folder (default: the run, or ./predictions for INPUT)."
        ),
    ] = None,
    output_format: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT,...", help="Formats of the masks: nifti, dicom-seg."
        ),
    ] = None,
    save_probabilities: Annotated[
        bool | None, typer.Option("--save-probabilities", help="Also write the probabilities.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--part", metavar="K/N", help="Only every N-th scan from the K-th on (job arrays)."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=0, help="Worker processes (default: none beside this one)."),
    ] = None,
    scheduler: options.Scheduler = None,
    device: options.Device = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also predict what is done already.")
    ] = False,
) -> Result:
    """Predict masks, volumes in mL and previews for a run's split or for scans of your own.

    Several --run are an ensemble: the mean of their probabilities. A second call does only what is
    missing.
    """
    config = common.config(
        {
            "predict.checkpoint": checkpoint,
            "predict.split": split,
            "predict.overlap": overlap,
            "predict.tta": tta,
            "predict.format": output_format,
            "predict.save_probabilities": save_probabilities,
            "compute.workers": workers,
            "compute.scheduler": scheduler,
            "compute.device": device,
        }
    )
    from hemseg_cli.inference.predict import predict as run_predict

    return run_predict(config, runs=runs, inputs=inputs or (), out=out, part=part, force=force)
