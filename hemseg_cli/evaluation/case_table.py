"""The table of a split's cases, `evaluation/<split>/cases.csv`: its columns, written and read.

One row per scan: who it is, every number of the metric table, and what the summary groups by, so
that each number of the summary can be had from this file alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.files import read_table, write_table
from hemseg_cli.evaluation.metric_table import Metric
from hemseg_cli.evaluation.scoring import CaseScore

if TYPE_CHECKING:
    from pandas import DataFrame

_WORDS = ("scan", "patient", "split", "scan_class", "mask", "label_sha256")
_HINT = "hemseg evaluate   writes it anew"
_DECIMALS = 6  # as `write_table` keeps

FOUND, MISSING = "found", "missing"
"""The column `mask`: whether the run has a mask of the scan at all."""


def case_table(scores: Sequence[CaseScore], rows: Sequence[Metric]) -> "DataFrame":
    """Return the scores as a table, one row per scan, by scan id.

    Numbers are rounded to the digits that the file keeps: what is computed from this table is what
    can be computed from the file.
    """
    import pandas  # slow to import

    records = [
        {
            "scan": score.scan,
            "patient": score.files.patient,
            "split": score.files.split,
            **{row.key: _rounded(score.values[row.key]) for row in rows if row.key in score.values},
            "tilt_deg": _rounded(score.tilt_deg),
            "scan_class": score.files.scan_class,
            "mask": FOUND if score.files.prediction is not None else MISSING,
            "label_sha256": score.truth_digest,
        }
        for score in sorted(scores, key=lambda score: score.scan)
    ]
    table = pandas.DataFrame.from_records(records)
    whole = {row.key: "Int64" for row in rows if row.digits == 0 and row.key in table.columns}
    return table.astype(whole)


def write_case_table(path: Path, table: "DataFrame") -> None:
    """Write `cases.csv`; an undefined number is an empty cell."""
    write_table(path, table)


def read_case_table(path: Path, rows: Sequence[Metric]) -> "DataFrame":
    """Read `cases.csv` with the columns of `rows`.

    FileFormatError names file, line and column of what is missing, not a number, or twice there.
    """
    numbers = ["tilt_deg", *(row.key for row in rows if row.function is not None)]
    columns = {**dict.fromkeys(_WORDS, str), **dict.fromkeys(numbers, float)}
    table = read_table(path, columns=columns, hint=_HINT)
    if table.empty:
        raise FileFormatError(f"{path} has no rows", hint=_HINT)

    for line, scan in table.loc[table["scan"] == "", "scan"].items():
        raise FileFormatError(f"{path}, line {line}: no scan id{scan}", hint=_HINT)
    for line, scan in table.loc[table["scan"].duplicated(), "scan"].items():
        raise FileFormatError(f"{path}, line {line}: scan {scan} stands in two rows", hint=_HINT)
    return table.reset_index(drop=True)


def patients_of(table: "DataFrame") -> list[str]:
    """Return what the bootstrap draws: the patient, or the scan where no patient is known."""
    pairs = zip(table["patient"], table["scan"], strict=True)
    return [patient or f"scan {scan}" for patient, scan in pairs]


def numbers_of(table: "DataFrame", column: str) -> NDArray[np.float64]:
    """Return a column of numbers, NaN where undefined."""
    return table[column].to_numpy(np.float64, na_value=np.nan)


def _rounded(value: float) -> float:
    return round(value, _DECIMALS)
