"""What a run directory holds for the report.

The evaluation of one split, the training history, config and environment.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hemseg_cli.core.cases import SPLITS
from hemseg_cli.core.classes import UNION
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.files import read_json, read_table, read_text
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.core.urls import without_secrets
from hemseg_cli.evaluation.bootstrap import Interval
from hemseg_cli.evaluation.case_table import read_case_table, tables_by_class
from hemseg_cli.evaluation.metric_table import Metric, averaged
from hemseg_cli.evaluation.run_comparison import EvaluatedRun
from hemseg_cli.evaluation.summary import Stratum, Summary
from hemseg_cli.reporting.published import Estimate

if TYPE_CHECKING:
    from pandas import DataFrame

_REWRITTEN = "the command that made it writes it anew"


@dataclass(frozen=True)
class CaseResult:
    """One scan of the evaluated split.

    `numbers`: column -> value, None where it is undefined (an empty cell).
    """

    scan: str
    patient: str
    numbers: Mapping[str, float | None]

    def number(self, column: str) -> float | None:
        """Return the value of a column; None where it is undefined or not there."""
        return self.numbers.get(column)


@dataclass(frozen=True)
class RunResults:
    """One run as the report shows it: the summary and the table of its cases, and its records.

    `external`: its summaries on other data sets than its own.
    """

    run: RunDirectory
    split: str
    table: "DataFrame"
    summary: Summary
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, float | None], ...] = ()
    external: tuple[Summary, ...] = ()

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def model(self) -> str:
        """The network, as the run's own config names it ("" for masks of another tool)."""
        return str(_at(self.config, "train", "model") or "")

    @property
    def recipe(self) -> str:
        """The training recipe."""
        return str(_at(self.config, "train", "recipe") or "")

    @property
    def dataset(self) -> str:
        """The data set that was scored, or (where that is not known) the run's own."""
        return self.summary.dataset or str(_at(self.config, "data", "dataset") or "")

    @property
    def protocol(self) -> str:
        """`native` or `paper`."""
        return self.summary.protocol

    @property
    def rows(self) -> list[Metric]:
        """The rows of the metric table that have a mean or rate in the summary."""
        return [row for row in averaged(self.summary.rows) if row.key in self.summary.metrics]

    @property
    def evaluated(self) -> EvaluatedRun:
        """The run as the comparison takes it."""
        return EvaluatedRun(self.name, self.summary, self.table)

    @property
    def cases(self) -> tuple[CaseResult, ...]:
        """The scans in the order of the table, all classes together."""
        return self.cases_by_class[UNION]

    @cached_property
    def cases_by_class(self) -> dict[str, tuple[CaseResult, ...]]:
        """Class key (`UNION` first) -> its scans in the order of the table."""
        return {key: _case_results(table) for key, table in tables_by_class(self.table).items()}

    def estimate(self, metric: str) -> Estimate | None:
        """Return mean and interval of a metric; None where the evaluation has no such metric."""
        return estimate_of(self.summary.metrics.get(metric))

    def strata(self, by: str) -> Mapping[str, Stratum]:
        """Return the strata of one grouping (`volume`, `tilt`, `class`)."""
        return self.summary.strata.get(by, {})

    @property
    def n_cases(self) -> int:
        """Scans evaluated."""
        return self.summary.n_cases


def _case_results(table: "DataFrame") -> tuple[CaseResult, ...]:
    numeric = table.select_dtypes("number").columns
    return tuple(
        CaseResult(
            row["scan"],
            row["patient"],
            {name: None if row[name] != row[name] else float(row[name]) for name in numeric},
        )
        for row in table.to_dict("records")
    )


def estimate_of(interval: Interval | None) -> Estimate | None:
    """Return an interval as a cell of a report's table."""
    if interval is None:
        return None

    found = interval.to_dict()
    return Estimate(found["mean"], found["ci_low"], found["ci_high"], interval.method)


def evaluated_splits(run: RunDirectory) -> list[str]:
    """Return the splits of which the run has an evaluation."""
    return [
        split
        for split in SPLITS
        if run.evaluation_cases_file(split).is_file()
        and run.evaluation_summary_file(split).is_file()
    ]


def choose_split(runs: Sequence[RunDirectory], wanted: str | None) -> str:
    """Choose `wanted`, else test, else the first split that every run was evaluated on.

    HemsegError says what to type where there is none.
    """
    for run in runs:
        if not evaluated_splits(run):
            raise HemsegError(f"run {run.path} has no evaluation", hint=_evaluate_hint(run, wanted))
    # Runs stand side by side on one split only.
    common = [split for split in SPLITS if all(split in evaluated_splits(run) for run in runs)]
    if wanted is None and common:
        return "test" if "test" in common else common[0]
    for run in runs:
        if wanted is not None and wanted not in evaluated_splits(run):
            there = ", ".join(evaluated_splits(run))
            raise HemsegError(
                f"run {run.path} has no evaluation of split {wanted} (only {there})",
                hint=_evaluate_hint(run, wanted),
            )
    if wanted is None:
        listed = "; ".join(f"{run.name}: {', '.join(evaluated_splits(run))}" for run in runs)
        raise HemsegError(
            f"the runs were evaluated on different splits ({listed})",
            hint=" && ".join(run.command("evaluate", "test") for run in runs),
        )
    return wanted


def read_run(run: RunDirectory, split: str) -> RunResults:
    """Read everything that the report shows of a run.

    FileFormatError names file, line and column of what cannot be read.
    """
    # The config is shown as it is, and may hold a signed URL.
    summary = _read_summary(run, split)
    config = without_secrets(read_text(run.config_file)) if run.config_file.is_file() else ""
    environment = _read_json(run.environment_file) if run.environment_file.is_file() else {}
    return RunResults(
        run=run,
        split=split,
        table=read_case_table(
            run.evaluation_cases_file(split), summary.rows, hint=_written_anew(run, split)
        ),
        summary=summary,
        config=_parsed_toml(run.config_file, config),
        config_text=config,
        environment=_stripped(environment),
        history=tuple(_read_history(run.history_file)) if run.history_file.is_file() else (),
        external=tuple(
            _read_summary(run.on(dataset), part)
            for dataset, part in run.external_evaluations()
            if dataset != run.external
        ),
    )


def _read_summary(run: RunDirectory, split: str) -> Summary:
    file = run.evaluation_summary_file(split)
    hint = _written_anew(run, split)
    return Summary.from_dict(_read_json(file, hint), place=str(file), hint=hint)


def _written_anew(run: RunDirectory, split: str) -> str:
    return f"{run.command('evaluate', split)}   writes it anew"


def _stripped(value: Any) -> Any:
    """Return nested plain values with their URLs cut."""
    if isinstance(value, Mapping):
        return {str(key): _stripped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_stripped(inner) for inner in value]
    return without_secrets(value) if isinstance(value, str) else value


def _read_history(path: Path) -> list[Mapping[str, float | None]]:
    """Read one row per epoch; an empty cell is undefined, true and false count as 1 and 0."""
    table = read_table(path, columns={"epoch": float}, hint=_REWRITTEN)
    others = [name for name in table.columns if name != "epoch"]
    # A flag (a new best epoch) becomes a number, so that every column can be drawn.
    truth = {"true": "1", "false": "0"}
    rows = [
        {
            "epoch": row["epoch"],
            **{name: truth.get(row[name].lower(), row[name]) for name in others},
        }
        for row in table.to_dict("records")
    ]
    return [{str(key): _number(value) for key, value in row.items()} for row in rows]


def _number(value: str | float) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _read_json(path: Path, hint: str = _REWRITTEN) -> Mapping[str, Any]:
    value = read_json(path, hint=hint)
    if not isinstance(value, dict):
        raise FileFormatError(f"{path} is not a JSON object", hint=hint)
    return value


def _parsed_toml(path: Path, text: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FileFormatError(f"{path} is not valid TOML: {error}") from None


def _evaluate_hint(run: RunDirectory, split: str | None) -> str:
    """Say how to get an evaluation: of the split that is wanted, else of one with masks."""
    predicted = [each for each in ("test", *SPLITS) if run.predictions(each).is_dir()]
    chosen = split or next(iter(predicted), "test")
    steps = [] if chosen in predicted else [run.command("predict", chosen)]
    return " && ".join([*steps, run.command("evaluate", chosen)])


def _at(tree: Mapping[str, Any], *keys: str) -> Any:
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
