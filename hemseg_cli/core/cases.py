"""The case table: one row per scan, joined by scan id, and splits and folds that keep a patient together."""

import csv
import dataclasses
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.core.run_directory import write_text

SPLITS = ("train", "val", "test")
VOLUME_STRATA_ML = (1.0, 5.0, 30.0)


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


_FLOATS = {
    "spacing_x_mm",
    "spacing_y_mm",
    "spacing_z_mm",
    "tilt_deg",
    "voxel_volume_mm3",
    "truth_ml",
}


def write_cases(path: Path, cases: Iterable[Case]) -> None:
    """Write the case table, sorted by scan id."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Case)])
    for case in sorted(cases, key=lambda case: case.scan):
        writer.writerow([_cell(getattr(case, field.name)) for field in fields(Case)])
    write_text(path, text.getvalue())


def read_cases(path: Path) -> list[Case]:
    """Read a case table; HemsegError if there is none, FileFormatError naming line and column of a bad cell."""
    if not path.is_file():
        raise HemsegError(
            f"no case table {path}",
            hint="hemseg fetch-labels   writes it; data.root and data.dataset say where it is looked for",
        )
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            missing = {"scan", "split"} - set(reader.fieldnames or ())
            if missing:
                raise FileFormatError(
                    f"{path}: no column {', '.join(sorted(missing))}",
                    hint="hemseg fetch-labels --force   writes it anew",
                )
            cases = [_case(path, reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise FileFormatError(
            f"{path} is not a case table: {error}",
            hint="hemseg fetch-labels --force   writes it anew",
        ) from None
    seen: set[str] = set()
    for case in cases:
        if case.scan in seen:
            raise FileFormatError(f"{path}: scan {case.scan} stands in two rows")
        seen.add(case.scan)
    return cases


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
    """`<1`, `1-5`, `5-30` or `>=30` mL."""
    low, middle, high = VOLUME_STRATA_ML
    if truth_ml < low:
        return "<1"
    if truth_ml < middle:
        return "1-5"
    return "5-30" if truth_ml < high else ">=30"


def patient_folds(cases: Sequence[Case], folds: int, *, seed: int) -> dict[str, int]:
    """Scan id -> fold 0..folds-1.

    A patient's scans stay together, and volume strata are spread evenly. Deterministic from the
    seed.

    Raises HemsegError where there are fewer patients than folds.
    """
    import random

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


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(round(value, 6))
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _case(path: Path, line: int, row: dict[str, str]) -> Case:
    values: dict[str, object] = {}
    for field in fields(Case):
        text = (row.get(field.name) or "").strip()
        try:
            if field.name in _FLOATS:
                values[field.name] = _finite(text) if text else None
            elif field.name == "n_slices":
                values[field.name] = int(text) if text else None
            elif field.name == "shares_patient_with":
                values[field.name] = tuple(text.split())
            else:
                values[field.name] = text
        except ValueError:
            raise FileFormatError(
                f"{path}, line {line}: {field.name} = {text!r} is not a number"
            ) from None
    if not values["scan"]:
        raise FileFormatError(f"{path}, line {line}: no scan id")
    return Case(**values)  # type: ignore[arg-type]  # filled field by field above


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
