"""`evaluate`: scores the cases in parallel, writes `cases.csv` and `summary.json`, compares runs."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import write_text
from hemseg_cli.evaluation.display import evaluation_tables
from hemseg_cli.evaluation.inputs import Source, folder_source, run_source
from hemseg_cli.evaluation.run_comparison import compare_runs, refuse_different_splits
from hemseg_cli.evaluation.scoring import CaseScore, score_case
from hemseg_cli.evaluation.summary import case_values, nsd_name, summarise


@dataclass(frozen=True)
class RunEvaluation:
    """One run (or folder of masks).

    Its scores by scan id, its summary, the files written, and the cases that could not be scored.
    """

    name: str
    scores: tuple[CaseScore, ...]
    summary: dict[str, Any]
    cases_file: Path
    summary_file: Path
    failed: dict[str, str]


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` found."""

    runs: tuple[RunEvaluation, ...]
    comparison: dict[str, Any] | None = None

    @property
    def failed(self) -> dict[str, str]:
        """Scan -> reason, of every case that could not be scored."""
        return {scan: reason for run in self.runs for scan, reason in run.failed.items()}

    def payload(self) -> dict[str, Any]:
        """The result as `--json` prints it."""
        runs = [
            {
                "name": run.name,
                "cases_file": str(run.cases_file),
                "summary_file": str(run.summary_file),
                "failed": run.failed,
                "summary": run.summary,
            }
            for run in self.runs
        ]
        return {"runs": runs, "comparison": self.comparison}

    def tables(self) -> tuple[console.Table, ...]:
        """The result as a person sees it."""
        return evaluation_tables([(run.name, run.summary) for run in self.runs], self.comparison)


def evaluate(
    config: Config,
    *,
    runs: Sequence[str] | None = None,
    predictions: Path | None = None,
    labels: Path | None = None,
    allow_missing: bool = False,
) -> EvaluationResult:
    """Score runs (default: the newest), or a folder of masks against a folder of labels.

    A case that cannot be scored is named and the others go on. `allow_missing`: a scan without a
    mask counts as missed, else it is an error. HemsegError: nothing to score, a missing mask, runs
    that do not compare.
    """
    if (predictions is None) != (labels is None):
        raise UsageError(
            "--predictions and --labels belong together", hint="--predictions DIR --labels DIR"
        )
    if predictions is not None and labels is not None:
        if runs:
            raise UsageError(
                "--run and --predictions exclude each other", hint="--predictions DIR --labels DIR"
            )
        sources = [folder_source(config, predictions, labels, allow_missing=allow_missing)]
    else:
        wanted: list[str | None] = [*dict.fromkeys(runs or ())] or [None]
        sources = [run_source(config, name, allow_missing=allow_missing) for name in wanted]
        sources = list(
            {source.summary_file: source for source in sources}.values()
        )  # `latest` may name a run twice
    refuse_different_splits(sources)
    evaluated = tuple(_evaluate_source(config, source) for source in sources)
    if len(evaluated) == 1:
        return EvaluationResult(evaluated)
    return EvaluationResult(
        evaluated, compare_runs({run.name: run.scores for run in evaluated}, config.evaluate)
    )


def _evaluate_source(config: Config, source: Source) -> RunEvaluation:
    cases = [case.absolute() for case in source.cases]  # a worker may stand in another folder
    outcomes = map_cases(
        score_case, cases, workers=config.compute.workers, scheduler=config.compute.scheduler
    )
    scores, failed = [], {}
    for outcome in console.progress(
        outcomes, label=f"evaluating {source.name}", total=len(source.cases)
    ):
        if outcome.value is not None:
            scores.append(outcome.value)
        else:
            failed[outcome.item.scan] = outcome.error or "unknown"
            console.warn(f"scan {outcome.item.scan} was not scored: {outcome.error}")
    if not scores:
        raise HemsegError(
            f"no case of {source.name} could be scored: {next(iter(failed.values()))}"
        )
    scores.sort(key=lambda score: score.scan)
    not_scored = [
        f"scan {scan} was not scored: {reason}" for scan, reason in sorted(failed.items())
    ]
    summary = summarise(
        scores, config.evaluate, split=source.split, warnings=[*source.warnings, *not_scored]
    )
    for warning in summary["warnings"]:
        if warning not in not_scored:  # said already, as it happened
            console.warn(warning)
    write_text(source.cases_file, cases_csv(scores, config))
    write_text(source.summary_file, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    return RunEvaluation(
        source.name,
        tuple(scores),
        summary,
        source.cases_file,
        source.summary_file,
        dict(sorted(failed.items())),
    )


def cases_csv(scores: Sequence[CaseScore], config: Config) -> str:
    """`cases.csv`: one row per scan; an undefined number is an empty cell."""
    paper = config.evaluate.protocol == "paper"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [
        "scan",
        "patient",
        "split",
        "dice",
        "iou",
        "hd95_mm",
        nsd_name(config.evaluate),
        "truth_ml",
        "predicted_ml",
        "volume_error_ml",
    ]
    names += [
        "lesions_truth",
        "lesions_predicted",
        "lesions_detected",
        *(["hd95_voxel"] if paper else []),
    ]
    writer.writerow(names)
    for score in scores:
        m, values = score.metrics, case_values(score, config.evaluate)
        overlap = [values["dice"], values["iou"]] if paper else [m.dice, m.iou]
        numbers = [*overlap, m.hd95_mm, m.nsd, m.truth_ml, m.predicted_ml, m.volume_error_ml]
        counts = [m.lesions.truth, m.lesions.predicted, m.lesions.detected]
        last = [_number(values["hd95_voxel"])] if paper else []
        writer.writerow(
            [
                score.scan,
                score.files.patient,
                score.files.split,
                *map(_number, numbers),
                *counts,
                *last,
            ]
        )
    return text.getvalue()


def _number(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else ""
