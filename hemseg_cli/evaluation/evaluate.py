"""`evaluate`: scores the cases in parallel, writes table and summary, compares runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.executor import map_cases
from hemseg_cli.core.files import remove_leftovers, write_json
from hemseg_cli.evaluation.case_table import case_table, write_case_table
from hemseg_cli.evaluation.display import evaluation_tables
from hemseg_cli.evaluation.inputs import (
    EvaluationInputs,
    folder_inputs,
    refuse_different_splits,
    run_inputs,
)
from hemseg_cli.evaluation.metric_table import metric_rows
from hemseg_cli.evaluation.run_comparison import Comparison, EvaluatedRun, compare_runs
from hemseg_cli.evaluation.scoring import CaseScore, score_case
from hemseg_cli.evaluation.summary import Scored, Summary, summarise

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class RunEvaluation:
    """One run (or folder of masks).

    The table of its cases, its summary, the files written, and scan -> reason of the cases that
    could not be scored.
    """

    name: str
    table: "DataFrame"
    summary: Summary
    cases_file: Path
    summary_file: Path
    failures: dict[str, str]


@dataclass(frozen=True)
class EvaluationResult:
    """What `evaluate` found."""

    runs: tuple[RunEvaluation, ...]
    comparison: Comparison | None = None

    @property
    def failures(self) -> dict[str, str]:
        """Scan -> reason, of every case that could not be scored."""
        return {scan: reason for run in self.runs for scan, reason in run.failures.items()}

    @property
    def failed(self) -> bool:
        """Whether some case could not be scored."""
        return bool(self.failures)

    def payload(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        runs = [
            {
                "name": run.name,
                "cases_file": str(run.cases_file),
                "summary_file": str(run.summary_file),
                "failed": run.failures,
                "summary": run.summary.to_dict(),
            }
            for run in self.runs
        ]
        comparison = None if self.comparison is None else self.comparison.to_dict()
        return {"runs": runs, "comparison": comparison}

    def tables(self) -> tuple[console.Table, ...]:
        """Return the result as a person sees it."""
        return evaluation_tables([(run.name, run.summary) for run in self.runs], self.comparison)


def evaluate(
    config: Config,
    *,
    runs: Sequence[str] | None = None,
    predictions: Path | None = None,
    labels: Path | None = None,
    allow_missing: bool = False,
    out: Path | None = None,
) -> EvaluationResult:
    """Score runs (default: the newest), or a folder of masks against a folder of labels.

    `labels` None: those of the data set's split.
    A case that cannot be scored is named and the others go on. `allow_missing`: a scan without a
    mask counts as missed, else it is an error. `out`: the folder to write into (of several runs
    each its own in it) instead of the run's or the masks'. HemsegError: nothing to score, a missing
    mask, runs that do not compare.
    """
    inputs = _inputs(config, runs, predictions, labels, allow_missing=allow_missing)
    if out is not None:
        inputs = [one.written_to(out if len(inputs) == 1 else out / one.name) for one in inputs]
    refuse_different_splits(inputs)

    # Every run is scored by itself, then all of them are compared from their tables.
    evaluated = tuple(_evaluate_inputs(config, one) for one in inputs)
    if len(evaluated) == 1:
        return EvaluationResult(evaluated)

    compared = [EvaluatedRun(run.name, run.summary, run.table) for run in evaluated]
    return EvaluationResult(evaluated, compare_runs(compared))


def _inputs(
    config: Config,
    runs: Sequence[str] | None,
    predictions: Path | None,
    labels: Path | None,
    *,
    allow_missing: bool,
) -> list[EvaluationInputs]:
    if predictions is None and labels is not None:
        raise UsageError("--labels without --predictions", hint="--predictions DIR --labels DIR")
    if predictions is not None:
        if runs:
            raise UsageError(
                "--run and --predictions exclude each other", hint="--predictions DIR --labels DIR"
            )
        return [folder_inputs(config, predictions, labels, allow_missing=allow_missing)]

    wanted: list[str | None] = [*dict.fromkeys(runs or ())] or [None]
    inputs = [run_inputs(config, name, allow_missing=allow_missing) for name in wanted]

    # `latest` may name a run twice.
    return list({one.summary_file: one for one in inputs}.values())


def _evaluate_inputs(config: Config, inputs: EvaluationInputs) -> RunEvaluation:
    scores, failures, hint = _scores(config, inputs)
    if not scores:
        reason = next(iter(failures.values()))
        raise HemsegError(f"no case of {inputs.name} could be scored: {reason}", hint=hint)
    if hint:
        console.say(f"what helps: {hint}")

    not_scored = [f"scan {scan} was not scored: {reason}" for scan, reason in failures.items()]
    settings = config.evaluate

    # The table first: every number of the summary comes from it, as a reader could derive it.
    table = case_table(scores, metric_rows(settings.protocol, settings.nsd_tolerances_mm))
    resampled = sum(score.resampled for score in scores)
    summary = summarise(
        table,
        settings,
        Scored(inputs.split, inputs.dataset, inputs.trained_on, resampled, inputs.label_classes),
        warnings=[
            *inputs.warnings,
            *not_scored,
            *(score.warning for score in scores if score.warning),
        ],
    )
    for warning in summary.warnings:
        if warning not in not_scored:  # said already, as it happened
            console.warn(warning)

    remove_leftovers(inputs.cases_file.parent)  # of evaluations that were killed
    write_case_table(inputs.cases_file, table)
    write_json(inputs.summary_file, summary.to_dict())
    return RunEvaluation(
        inputs.name, table, summary, inputs.cases_file, inputs.summary_file, failures
    )


def _scores(
    config: Config, inputs: EvaluationInputs
) -> tuple[list[CaseScore], dict[str, str], str]:
    """Score the cases in parallel.

    Returns the scores by scan id, scan -> reason of the others, and what helps against these.
    """
    cases = [case.absolute() for case in inputs.cases]  # a worker may stand in another folder
    outcomes = map_cases(
        score_case, cases, workers=config.compute.workers, scheduler=config.compute.scheduler
    )
    scores, failures = [], {}
    hints: dict[str, None] = {}
    for outcome in console.progress(
        outcomes, label=f"evaluating {inputs.name}", total=len(inputs.cases)
    ):
        if outcome.value is not None:
            scores.append(outcome.value)
        else:
            failures[outcome.item.scan] = outcome.error or "unknown"
            hints |= {outcome.hint: None} if outcome.hint else {}
            console.warn(f"scan {outcome.item.scan} was not scored: {outcome.error}")
    return (
        sorted(scores, key=lambda score: score.scan),
        dict(sorted(failures.items())),
        "; ".join(hints),
    )
