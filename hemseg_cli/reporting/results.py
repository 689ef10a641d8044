"""What a run directory holds for the report.

The evaluation of one split, the training history, config and environment.
"""

import csv
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hemseg_cli.core.cases import SPLITS
from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.reporting.published import Estimate

# Columns of evaluation/<split>/cases.csv that must be numbers or empty; a column not known here may
# be words.
_NUMBER_COLUMNS = (
    "dice",
    "iou",
    "hd95_",
    "nsd_",
    "truth_ml",
    "predicted_ml",
    "volume_",
    "abs_volume_",
    "relative_volume_",
    "lesions_",
)
_WORD_COLUMNS = frozenset({"scan", "patient", "split"})
_NEEDED_COLUMNS = ("scan", "dice")
_UNDEFINED = frozenset({"", "nan"})


@dataclass(frozen=True)
class CaseResult:
    """One scan of the evaluated split.

    `numbers`: column -> value, None where it is undefined (an empty cell).
    """

    scan: str
    patient: str
    words: Mapping[str, str]
    numbers: Mapping[str, float | None]

    def number(self, column: str) -> float | None:
        """The value of a column; None where it is undefined or not there."""
        return self.numbers.get(column)


@dataclass(frozen=True)
class RunResults:
    """One run as the report shows it."""

    run: RunDirectory
    split: str
    cases: tuple[CaseResult, ...]
    summary: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, float | None], ...] = ()

    @property
    def name(self) -> str:
        """The run's name."""
        return self.run.name

    @property
    def model(self) -> str:
        """The network, as the run's own config names it ("" where the run holds masks of another tool)."""
        return str(_at(self.config, "train", "model") or "")

    @property
    def recipe(self) -> str:
        """The training recipe."""
        return str(_at(self.config, "train", "recipe") or "")

    @property
    def dataset(self) -> str:
        """The data set that the run was made on."""
        return str(_at(self.config, "data", "dataset") or "")

    @property
    def protocol(self) -> str:
        """`native` or `paper`."""
        return str(self.summary.get("protocol") or "native")

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and interval of a metric; None where the evaluation has no such metric."""
        return _estimate(_at(self.summary, "metrics", metric))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of the summary."""
        return tuple(self.summary["metrics"])

    def agreement(self, key: str) -> float | None:
        """A number of the agreement of volumes: `bias_ml`, `loa_low_ml`, `loa_high_ml`, `ccc`."""
        return _number(_at(self.summary, "agreement", key))

    def strata(self, by: str) -> dict[str, "Stratum"]:
        """The strata of one grouping (`volume`, `tilt`, `class`), in the evaluation's order.

        Empty where there are none.
        """
        groups = _at(self.summary, "strata", by)
        found = groups.items() if isinstance(groups, Mapping) else ()
        return {str(name): Stratum(values) for name, values in found if isinstance(values, Mapping)}

    def count(self, key: str) -> int:
        """A count of the summary (`n_cases`, `n_missed`, `n_false_positive`), 0 where it is not given."""
        value = _number(self.summary.get(key))
        return int(value) if value is not None else 0

    @property
    def n_cases(self) -> int:
        """Scans evaluated."""
        return self.count("n_cases") or len(self.cases)


@dataclass(frozen=True)
class Stratum:
    """A part of the scans: how many, and the estimate of each metric."""

    values: Mapping[str, Any]

    @property
    def n(self) -> int | None:
        """Scans in it."""
        value = _number(self.values.get("n"))
        return None if value is None else int(value)

    def estimate(self, metric: str) -> Estimate | None:
        """Mean and interval of a metric; None where there is none."""
        return _estimate(self.values.get(metric))


def evaluated_splits(run: RunDirectory) -> list[str]:
    """The splits of which the run has an evaluation."""
    return [
        split
        for split in SPLITS
        if run.evaluation_cases_file(split).is_file()
        and run.evaluation_summary_file(split).is_file()
    ]


def choose_split(runs: Sequence[RunDirectory], wanted: str | None) -> str:
    """`wanted`, else test, else the first split that every run was evaluated on.

    HemsegError says what to type where there is none.
    """
    for run in runs:
        if not evaluated_splits(run):
            raise HemsegError(f"run {run.path} has no evaluation", hint=_evaluate_hint(run, wanted))
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
            hint="hemseg evaluate --run RUN --split SPLIT",
        )
    return wanted


def read_run(run: RunDirectory, split: str) -> RunResults:
    """Everything the report shows of a run.

    FileFormatError names file, line and column of what cannot be read.
    """
    return RunResults(
        run=run,
        split=split,
        cases=tuple(read_case_results(run.evaluation_cases_file(split))),
        summary=_read_summary(run.evaluation_summary_file(split)),
        config=_read_toml(run.config_file),
        config_text=run.config_file.read_text(encoding="utf-8")
        if run.config_file.is_file()
        else "",
        environment=_read_json(run.environment_file) if run.environment_file.is_file() else {},
        history=tuple(_read_history(run.history_file)) if run.history_file.is_file() else (),
    )


def read_case_results(path: Path) -> list[CaseResult]:
    """`evaluation/<split>/cases.csv`, in its order."""
    rows = _read_csv(path, _NEEDED_COLUMNS, hint="hemseg evaluate   writes it anew")
    results: dict[str, CaseResult] = {}
    for line, row in rows:
        scan = row["scan"]
        if not scan:
            raise FileFormatError(f"{path}, line {line}: no scan id")
        if scan in results:
            raise FileFormatError(
                f"{path}, line {line}: scan {scan} stands in two rows",
                hint="hemseg evaluate   writes it anew",
            )
        words = {key: text for key, text in row.items() if _is_words(key, text)}
        numbers = {
            key: _cell_number(path, line, key, text)
            for key, text in row.items()
            if key not in words
        }
        results[scan] = CaseResult(scan, words.get("patient", ""), words, numbers)
    if not results:
        raise FileFormatError(f"{path} has no rows", hint="hemseg evaluate   writes it anew")
    return list(results.values())


def _read_history(path: Path) -> list[Mapping[str, float | None]]:
    rows = _read_csv(path, ("epoch",), hint="")
    return [
        {key: _cell_number(path, line, key, text) for key, text in row.items()}
        for line, row in rows
    ]


def _read_csv(path: Path, needed: Sequence[str], *, hint: str) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in needed if name not in (reader.fieldnames or ())]
            if missing:
                raise FileFormatError(f"{path}: no column {', '.join(missing)}", hint=hint)
            rows = []
            for row in reader:
                if None in row or None in row.values():
                    raise FileFormatError(
                        f"{path}, line {reader.line_num}: {len(reader.fieldnames or ())} cells wanted",
                        hint=hint,
                    )
                rows.append((reader.line_num, {key: text.strip() for key, text in row.items()}))
            return rows
    except (csv.Error, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not a CSV file: {error}", hint=hint) from None


def _is_words(column: str, text: str) -> bool:
    if column in _WORD_COLUMNS:
        return True
    return (
        not column.startswith(_NUMBER_COLUMNS)
        and _parsed(text) is None
        and text.lower() not in _UNDEFINED
    )


def _parsed(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _cell_number(path: Path, line: int, column: str, text: str) -> float | None:
    """A number; empty or nan is undefined; true and false count as 1 and 0."""
    if text.lower() in _UNDEFINED:
        return None
    if text.lower() in {"true", "false"}:
        return float(text.lower() == "true")
    value = _parsed(text)
    if value is None:
        raise FileFormatError(
            f"{path}, line {line}: {column} = {text!r} is not a number",
            hint="hemseg evaluate   writes it anew",
        )
    return value


def _read_summary(path: Path) -> Mapping[str, Any]:
    summary = _read_json(path)
    if not isinstance(summary.get("metrics"), Mapping):
        raise FileFormatError(f"{path} has no metrics", hint="hemseg evaluate   writes it anew")
    return summary


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(
            f"{path} is not valid JSON: {error}", hint="the command that made it writes it anew"
        ) from None
    if not isinstance(value, dict):
        raise FileFormatError(
            f"{path} is not a JSON object", hint="the command that made it writes it anew"
        )
    return value


def _read_toml(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path} is not valid TOML: {error}") from None


def _evaluate_hint(run: RunDirectory, split: str | None) -> str:
    option = f" --split {split}" if split else ""
    predicted = run.predictions(split or "test").is_dir()
    steps = "" if predicted else f"hemseg predict --run {run.name}{option} && "
    return f"{steps}hemseg evaluate --run {run.name}{option}"


def _at(tree: Mapping[str, Any], *keys: str) -> Any:
    value: Any = tree
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _estimate(entry: Any) -> Estimate | None:
    if not isinstance(entry, Mapping):
        return None
    return Estimate(
        _number(entry.get("mean")), _number(entry.get("ci_low")), _number(entry.get("ci_high"))
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
