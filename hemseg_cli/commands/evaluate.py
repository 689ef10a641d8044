"""`hemseg evaluate`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from hemseg_cli import options
from hemseg_cli.core.errors import UsageError
from hemseg_cli.core.result import Result

_Bootstrap = Annotated[
    int | None,
    typer.Option("--bootstrap", metavar="N", help="Bootstrap resamples (default: 1000)."),
]
_Confidence = Annotated[
    float | None,
    typer.Option(
        "--confidence", metavar="SHARE", help="Confidence of the intervals (default: 0.95)."
    ),
]
_Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="native|paper",
        help="native: mm, patients resampled; paper: as the published table.",
    ),
]
_Predictions = Annotated[
    Path | None,
    typer.Option("--predictions", metavar="DIR", help="Masks of any tool, instead of a run's."),
]
_Labels = Annotated[
    Path | None,
    typer.Option(
        "--labels", metavar="DIR", help="Labels of the same names (default: the data set's split)."
    ),
]
_AllowMissing = Annotated[
    bool, typer.Option("--allow-missing", help="A scan without a mask counts as missed.")
]
_Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Folder of the results (default: beside the masks)."),
]
_NATIVE_ONLY = ("bootstrap", "confidence", "seed", "method")
"""Settings of the intervals, which the paper's protocol has of its own."""


@options.common
def evaluate(
    common: options.Common,
    *,
    runs: options.Runs = None,
    split: options.Split = None,
    dataset: options.DataSet = None,
    bootstrap: _Bootstrap = None,
    confidence: _Confidence = None,
    protocol: _Protocol = None,
    predictions: _Predictions = None,
    labels: _Labels = None,
    allow_missing: _AllowMissing = False,
    out: _Out = None,
    workers: options.Workers = None,
    scheduler: options.Scheduler = None,
) -> Result:
    """Score masks against labels.

    Metrics with confidence intervals, and the comparison of several runs.
    """
    config = common.config(
        {
            "evaluate.split": split,
            "data.dataset": dataset,
            "evaluate.bootstrap": bootstrap,
            "evaluate.confidence": confidence,
            "evaluate.protocol": protocol,
            "compute.workers": workers,
            "compute.scheduler": scheduler,
        }
    )
    if config.evaluate.protocol == "paper":
        _refuse_native_settings(
            {"--bootstrap": bootstrap, "--confidence": confidence}, common.assignments
        )

    # Brings numpy, which --help does without.
    from hemseg_cli.evaluation.evaluate import evaluate as evaluate_runs

    return evaluate_runs(
        config,
        runs=runs,
        predictions=predictions,
        labels=labels,
        allow_missing=allow_missing,
        out=out,
    )


def _refuse_native_settings(given: Mapping[str, object], assignments: Sequence[str]) -> None:
    """UsageError where a setting is given that the paper's protocol would pass over."""
    stated = [option for option, value in given.items() if value is not None]
    stated += [
        f"--set {text}"
        for text in assignments
        if text.partition("=")[0].strip() in {f"evaluate.{name}" for name in _NATIVE_ONLY}
    ]
    if stated:
        raise UsageError(
            f"{stated[0]} has no effect with --protocol paper, whose intervals are the published "
            "ones (5000 resamples, 95 %)",
            hint="leave it out, or score with --protocol native",
        )
