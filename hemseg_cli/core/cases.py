"""The case table: one row per scan, and splits and folds that keep a patient together."""

import bisect
import dataclasses
import random
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.files import read_table, write_table
from hemseg_cli.core.names import check_scan_id, check_split
from hemseg_cli.core.printable import printable
from hemseg_cli.core.quantities import check_quantity

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "val", "test")
VOLUME_STRATA_ML = (1.0, 5.0, 30.0)
"""Bounds between the volume strata in mL; a bound belongs to the stratum above it."""
VOLUME_STRATA = ("<1", "1-5", "5-30", ">=30")
"""The volume strata, named in mL."""


@dataclass(frozen=True)
class Case:
    """One row of `cases.csv`. Paths are relative to the data set's folder.

    What is not known is None (an empty cell).

    `voxel_volume_mm3` is the true one, |det| of the voxel's step vectors; `geometry_from` says
    whence: "dicom" (slice positions) or "label" (recovered from the header as spacing_z *
    cos(tilt)). `shares_patient_with` lists scans of the same patient in other splits.
    """

    scan: str
    patient: str = ""
    split: str = ""
    n_slices: int | None = None
    label: str = ""
    image: str = ""
    spacing_x_mm: float | None = None
    spacing_y_mm: float | None = None
    spacing_z_mm: float | None = None
    tilt_deg: float | None = None
    voxel_volume_mm3: float | None = None
    truth_ml: float | None = None
    shares_patient_with: tuple[str, ...] = ()
    geometry_from: str = ""


_SCHEMA: dict[str, type] = {
    "scan": str,
    "patient": str,
    "split": str,
    "n_slices": int,
    "label": str,
    "image": str,
    "spacing_x_mm": float,
    "spacing_y_mm": float,
    "spacing_z_mm": float,
    "tilt_deg": float,
    "voxel_volume_mm3": float,
    "truth_ml": float,
    "shares_patient_with": str,
    "geometry_from": str,
}
_ANEW = "hemseg fetch-labels --force   writes the table of a published data set anew"


def cases_frame(cases: Iterable[Case]) -> "pd.DataFrame":
    """Return the cases as a table, sorted by scan id, in the columns of `cases.csv`.

    Scan ids that share a patient are joined by spaces; what is not known is missing.
    """
    import pandas as pd

    rows = [dataclasses.asdict(case) for case in sorted(cases, key=lambda case: case.scan)]
    frame = pd.DataFrame(rows, columns=list(_SCHEMA))
    frame["shares_patient_with"] = frame["shares_patient_with"].map(" ".join)
    whole = [name for name, kind in _SCHEMA.items() if kind is int]
    numbers = [name for name, kind in _SCHEMA.items() if kind is float]
    return frame.astype(dict.fromkeys(whole, "Int64") | dict.fromkeys(numbers, "float64"))


def write_cases(path: Path, cases: Iterable[Case]) -> None:
    """Write the case table, sorted by scan id."""
    write_table(path, cases_frame(cases))


def read_cases(path: Path) -> list[Case]:
    """Read a case table.

    HemsegError if there is none; FileFormatError naming line and column of a bad cell: a scan id
    or path that leads out of the data set, a number that cannot be, a scan that stands twice.
    """
    if not path.is_file():
        raise HemsegError(
            f"no case table {path}",
            hint="hemseg fetch-labels writes that of a published set, hemseg import that of your "
            "own labelled scans; data.root and data.dataset say where it is",
        )
    optional = set(_SCHEMA) - {"scan", "split"}
    frame = read_table(path, columns=_SCHEMA, optional=optional, hint=_ANEW)

    twice = frame["scan"][frame["scan"].duplicated()]
    if len(twice):
        scan = printable(twice.iloc[0])
        raise FileFormatError(f"{path}, line {twice.index[0]}: scan {scan} stands in two rows")
    rows = frame[list(_SCHEMA)].to_dict("index")
    return [_case(f"{path}, line {line}", row) for line, row in rows.items()]


def _case(place: str, row: dict[Hashable, Any]) -> Case:
    """Check one row and make it a case."""
    import pandas as pd

    values: dict[str, Any] = {}
    for name, kind in _SCHEMA.items():
        value = row[name]
        if kind is str:
            values[name] = value
        elif pd.isna(value):
            values[name] = None
        else:
            values[name] = kind(check_quantity(name, value, place=place))

    shared = tuple(values["shares_patient_with"].split())
    for scan in (values["scan"], *shared):
        check_scan_id(scan, place=place)
    check_split(values["split"], place=place)
    for name in ("label", "image"):
        _check_inside(values[name], name, place)
    return Case(**values | {"shares_patient_with": shared})


def _check_inside(text: str, name: str, place: str) -> None:
    # The anchor of Windows holds "/", a drive and a share alike.
    path = PureWindowsPath(text)
    if path.anchor or ".." in path.parts or not text.isprintable():
        raise FileFormatError(
            f"{place}: {name} = {printable(text)!r} leads out of the data set",
            hint="paths are relative to the folder of the case table, without '..'",
        )


def cases_in_split(cases: Iterable[Case], split: str) -> list[Case]:
    """The cases of one split, by scan id; HemsegError names the splits there are."""
    cases = list(cases)
    chosen = sorted((case for case in cases if case.split == split), key=lambda case: case.scan)
    if not chosen:
        there = sorted({case.split for case in cases if case.split})
        raise HemsegError(
            f"split {split} has no cases",
            hint=f"the case table has: {', '.join(there) or 'no splits'}",
        )
    return chosen


def patients_across_splits(cases: Iterable[Case]) -> dict[str, set[str]]:
    """Patient -> splits, for each patient who stands in more than one.

    A scan without a split takes part in none.
    """
    splits: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.patient and case.split:
            splits[case.patient].add(case.split)
    return {patient: names for patient, names in splits.items() if len(names) > 1}


def contaminated(cases_trained: Iterable[Case], cases_scored: Iterable[Case]) -> list[str]:
    """Scan ids that were trained on and are scored: a model knows them already.

    Sorted; [] where training and scoring are apart.

    The two come from one case table or from two: of HemSeg-200's 45 test scans, 33 are in
    HemSeg-500's train split.
    """
    trained = {case.scan for case in cases_trained}
    return sorted(case.scan for case in cases_scored if case.scan in trained)


def with_shared_patients(cases: Iterable[Case]) -> list[Case]:
    """The cases with `shares_patient_with` filled in."""
    cases = list(cases)
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        if case.patient and case.split:
            by_patient[case.patient].append(case)
    return [
        dataclasses.replace(
            case,
            shares_patient_with=tuple(
                sorted(
                    other.scan
                    for other in by_patient.get(case.patient, [])
                    if case.split and other.split != case.split
                )
            ),
        )
        for case in cases
    ]


def repaired_splits(cases: Iterable[Case]) -> list[Case]:
    """Splits in which no patient stands twice.

    The test split is kept, and a patient's other scans join the test, else the val scan.
    """
    cases = list(cases)
    order = {split: rank for rank, split in enumerate(("test", "val", "train"))}
    home = {
        patient: min(splits, key=lambda split: order.get(split, len(order)))
        for patient, splits in patients_across_splits(cases).items()
    }
    moved = []
    for case in cases:
        target = home.get(case.patient, case.split)
        # A train or val scan of a test patient may not enlarge the published test split: it leaves
        # the benchmark.
        moved.append(
            dataclasses.replace(case, split="" if target == "test" != case.split else target)
        )
    return moved


def volume_stratum(truth_ml: float) -> str:
    """Return the stratum of a volume in mL, one of `VOLUME_STRATA`."""
    return VOLUME_STRATA[bisect.bisect_right(VOLUME_STRATA_ML, truth_ml)]


def patient_folds(cases: Sequence[Case], folds: int, *, seed: int) -> dict[str, int]:
    """Scan id -> fold 0..folds-1.

    A patient's scans stay together, and volume strata are spread evenly. Deterministic from the
    seed.

    Raises HemsegError where there are fewer patients than folds.
    """
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: case.scan):
        groups[case.patient or f"scan {case.scan}"].append(case)
    if len(groups) < folds:
        raise HemsegError(
            f"{len(groups)} patients do not fill {folds} folds",
            hint=f"--folds {max(2, len(groups))} or fewer",
        )
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    largest = {
        patient: max((case.truth_ml or 0.0) for case in groups[patient]) for patient in order
    }
    order.sort(key=lambda patient: (-len(groups[patient]), volume_stratum(largest[patient])))
    sizes = [0] * folds
    strata: list[dict[str, int]] = [defaultdict(int) for _ in range(folds)]
    assigned: dict[str, int] = {}
    for patient in order:
        stratum = volume_stratum(largest[patient])
        fold = min(range(folds), key=lambda k: (strata[k][stratum], sizes[k], k))
        strata[fold][stratum] += 1
        sizes[fold] += len(groups[patient])
        assigned |= {case.scan: fold for case in groups[patient]}
    return assigned
