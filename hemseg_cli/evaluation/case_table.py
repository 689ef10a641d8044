"""The table of a split's cases, `evaluation/<split>/cases.csv`: its columns, written and read.

One row per scan: who it is, every number of the metric table, and what the summary groups by, so
that each number of the summary can be had from this file alone. Where there are several classes a
column `class` stands behind the scan, and a scan has a row of all classes together (`union`) and
one of each class, with the volume that each true class was taken for.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import UNION
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.files import read_table, write_table
from hemseg_cli.evaluation.metric_table import Metric
from hemseg_cli.evaluation.scoring import CaseScore

if TYPE_CHECKING:
    from pandas import DataFrame

_WORDS = ("scan", "patient", "split", "scan_class", "mask", "label_sha256")
_HINT = "hemseg evaluate   writes it anew"
_TAKEN_FOR = re.compile(r"taken_for_(.+)_ml")
_DECIMALS = 6  # as `write_table` keeps

CLASS_COLUMN = "class"

FOUND, MISSING = "found", "missing"
"""The column `mask`: whether the run has a mask of the scan at all."""


def case_table(scores: Sequence[CaseScore], rows: Sequence[Metric]) -> "DataFrame":
    """Return the scores as a table, by scan id: one row per scan, or per scan and class.

    Numbers are rounded to the digits that the file keeps: what is computed from this table is what
    can be computed from the file.
    """
    import pandas  # slow to import

    several = any(score.classes for score in scores)
    rows = _without_unknown(scores, rows)
    records = []
    for score in sorted(scores, key=lambda score: score.scan):
        of_union: dict[str, object] = {CLASS_COLUMN: UNION} if several else {}
        records.append(_record(score, of_union, score.values, rows, score.truth_digest))
        for key, found in score.classes.items():
            record = _record(score, {CLASS_COLUMN: key}, found.values, rows, found.truth_digest)
            taken_for = {
                taken_for_column(other): _rounded(ml) for other, ml in found.taken_for_ml.items()
            }
            records.append(record | taken_for)

    table = pandas.DataFrame.from_records(records)
    whole = {row.key: "Int64" for row in rows if row.digits == 0 and row.key in table.columns}
    return table.astype(whole)


def _without_unknown(scores: Sequence[CaseScore], rows: Sequence[Metric]) -> list[Metric]:
    """The rows without the optional ones that no case has."""
    values = [score.values for score in scores]
    values += [found.values for score in scores for found in score.classes.values()]
    return [
        row
        for row in rows
        if not row.optional or any(not math.isnan(one.get(row.key, math.nan)) for one in values)
    ]


def _record(
    score: CaseScore,
    label_class: dict[str, object],
    values: dict[str, float],
    rows: Sequence[Metric],
    digest: str,
) -> dict[str, object]:
    return {
        "scan": score.scan,
        **label_class,
        "patient": score.files.patient,
        "split": score.files.split,
        **{row.key: _rounded(values[row.key]) for row in rows if row.key in values},
        "tilt_deg": _rounded(score.tilt_deg),
        "scan_class": score.files.scan_class,
        "mask": FOUND if score.files.prediction is not None else MISSING,
        "label_sha256": digest,
    }


def taken_for_column(key: str) -> str:
    """Name the column of the volume of a true class that was taken for class `key`, mL."""
    return f"taken_for_{key}_ml"


def taken_for_columns(table: "DataFrame") -> dict[str, str]:
    """Return the columns that `taken_for_column` named: class key -> column."""
    found = {name: _TAKEN_FOR.fullmatch(name) for name in table.columns}
    return {match[1]: name for name, match in found.items() if match}


def tables_by_class(table: "DataFrame") -> dict[str, "DataFrame"]:
    """Divide the table by class: `UNION` first, which is the whole table of one class alone."""
    if CLASS_COLUMN not in table.columns:
        return {UNION: table}

    keys = dict.fromkeys([UNION, *table[CLASS_COLUMN]])
    return {key: table[table[CLASS_COLUMN] == key].reset_index(drop=True) for key in keys}


def union_of(table: "DataFrame") -> "DataFrame":
    """Return the rows of all classes together, one per scan."""
    return tables_by_class(table)[UNION]


def write_case_table(path: Path, table: "DataFrame") -> None:
    """Write `cases.csv`; an undefined number is an empty cell."""
    write_table(path, table)


def read_case_table(path: Path, rows: Sequence[Metric], *, hint: str = _HINT) -> "DataFrame":
    """Read `cases.csv` with the columns of `rows`.

    FileFormatError names file, line and column of what is missing, not a number, or twice there.
    """
    optional = [row.key for row in rows if row.optional]
    table = read_table(path, columns=_columns(rows, []), optional=optional, hint=hint)
    if table.empty:
        raise FileFormatError(f"{path} has no rows", hint=hint)

    # Where there are classes, the columns of confusion are numbers too, and read as such.
    who = ["scan"]
    if CLASS_COLUMN in table.columns:
        who.append(CLASS_COLUMN)
        taken_for = list(taken_for_columns(table).values())
        table = read_table(path, columns=_columns(rows, taken_for), optional=optional, hint=hint)

    for line in table.index[table["scan"] == ""]:
        raise FileFormatError(f"{path}, line {line}: no scan id", hint=hint)
    for line, row in table[table[who].duplicated()].iterrows():
        named = f"scan {row['scan']}" + (f", class {row[CLASS_COLUMN]}," if len(who) > 1 else "")
        raise FileFormatError(f"{path}, line {line}: {named} stands in two rows", hint=hint)
    if union_of(table).empty:
        raise FileFormatError(f"{path} has no row of class {UNION}", hint=hint)
    return table.reset_index(drop=True)


def _columns(rows: Sequence[Metric], taken_for: Sequence[str]) -> dict[str, type]:
    numbers = ["tilt_deg", *(row.key for row in rows if row.function is not None), *taken_for]
    return {**dict.fromkeys(_WORDS, str), **dict.fromkeys(numbers, float)}


def patients_of(table: "DataFrame") -> list[str]:
    """Return what the bootstrap draws: the patient, or the scan where no patient is known."""
    pairs = zip(table["patient"], table["scan"], strict=True)
    return [patient or f"scan {scan}" for patient, scan in pairs]


def numbers_of(table: "DataFrame", column: str) -> NDArray[np.float64]:
    """Return a column of numbers, NaN where undefined: everywhere, if no case has the number."""
    if column not in table.columns:
        return np.full(len(table), np.nan)
    return table[column].to_numpy(np.float64, na_value=np.nan)


def _rounded(value: float) -> float:
    return round(value, _DECIMALS)
