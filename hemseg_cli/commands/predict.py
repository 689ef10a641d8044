"""`hemseg predict`."""

from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.errors import UsageError
from hemseg_cli.core.result import Result

_Inputs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="INPUT",
        help="Scans: files, folders and zips (default: the run's split).",
    ),
]
_Checkpoint = Annotated[
    str | None, typer.Option("--checkpoint", metavar="best|last", help="Checkpoint of the run.")
]
_Overlap = Annotated[
    float | None,
    typer.Option("--overlap", help="Share of a window that overlaps the next one, 0 to below 1."),
]
_Tta = Annotated[
    bool | None, typer.Option("--tta/--no-tta", help="Average over test-time augmentation.")
]
_Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="Output folder (default: the run, or ./predictions for INPUT)."
    ),
]
_OutputFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT,...",
        help="Formats: nifti, nifti-per-class, dicom-seg, dicom-sr, dicom-pdf.",
    ),
]
_KeepIdentity = Annotated[
    bool | None,
    typer.Option("--keep-identity", help="DICOM output and volumes.csv say who the patient is."),
]
_NameBy = Annotated[
    str | None,
    typer.Option(
        "--name-by", metavar="RULE", help="Name DICOM by folder, patient, accession or series."
    ),
]
_SaveProbabilities = Annotated[
    bool | None, typer.Option("--save-probabilities", help="Also write the probabilities.")
]
_Upright = Annotated[
    bool | None,
    typer.Option("--upright", help="Also write scan and mask upright: true mL in every viewer."),
]
_Part = Annotated[
    str | None,
    typer.Option(
        "--part", metavar="K/N", help="Only every N-th scan from the K-th on (job arrays)."
    ),
]
_Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=0, help="Worker processes (default: none beside this one)."
    ),
]
_Watch = Annotated[
    bool, typer.Option("--watch", help="Take new studies of the INPUT folders until Ctrl-C.")
]
_Force = Annotated[bool, typer.Option("--force", help="Also predict what is done already.")]


@options.common
def predict(
    common: options.Common,
    *,
    inputs: _Inputs = None,
    runs: options.Runs = None,
    checkpoint: _Checkpoint = None,
    split: options.Split = None,
    dataset: options.DataSet = None,
    overlap: _Overlap = None,
    tta: _Tta = None,
    out: _Out = None,
    output_format: _OutputFormat = None,
    keep_identity: _KeepIdentity = None,
    name_by: _NameBy = None,
    save_probabilities: _SaveProbabilities = None,
    upright: _Upright = None,
    part: _Part = None,
    workers: _Workers = None,
    scheduler: options.Scheduler = None,
    device: options.Device = None,
    watch: _Watch = False,
    force: _Force = False,
) -> Result:
    """Predict masks, volumes in mL and previews for a run's split or for scans of your own.

    Several --run are an ensemble. A second call does only what is missing.
    """
    config = common.config(
        {
            "predict.checkpoint": checkpoint,
            "predict.split": split,
            "data.dataset": dataset,
            "predict.overlap": overlap,
            "predict.tta": tta,
            "predict.format": output_format,
            "predict.keep_identity": keep_identity,
            "predict.name_by": name_by,
            "predict.save_probabilities": save_probabilities,
            "predict.upright": upright,
            "compute.workers": workers,
            "compute.scheduler": scheduler,
            "compute.device": device,
        }
    )
    if watch and part is not None:
        raise UsageError(
            "--watch and --part: new studies have no number", hint="leave one of them out"
        )

    from hemseg_cli.inference.predict import predict as run_predict
    from hemseg_cli.inference.predict import predict_arriving

    if watch:
        return predict_arriving(config, runs=runs, inputs=inputs or (), out=out, force=force)
    return run_predict(config, runs=runs, inputs=inputs or (), out=out, part=part, force=force)
