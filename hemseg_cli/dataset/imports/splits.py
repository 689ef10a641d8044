"""Deal scans out to train, val and test: by patient, by volume and class, always alike."""

import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from hemseg_cli.core.cases import SPLITS, Case, volume_stratum

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
"""As in HemSeg-200's published splits."""


def assign_splits(cases: Sequence[Case], kinds: Mapping[str, str]) -> tuple[list[Case], list[str]]:
    """Give each case a split; return the cases and what was done, a line each.

    `kinds`: scan -> the classes that its label holds, as text. Splits that the source has are kept.
    Where it has none, patients are dealt out evenly over volume strata and classes; where it has
    no val split, it is taken from train. The outcome depends on the patients' names alone.
    """
    cases = list(cases)
    given = {case.split for case in cases if case.split}
    if not given:
        shares = SHARES
        said = "splits: none in the source; 60:20:20 by patient, even in volume and class"
    elif given <= {"train", "test"} and "train" in given | _unsplit(cases):
        shares = {"train": 0.8, "val": 0.2}
        said = "splits: as the source has them; val is a fifth of its training patients"
    else:
        return cases, ["splits: as the source has them"]

    free = [case for case in cases if case.split != "test"]
    kept = [case for case in cases if case.split == "test"]
    dealt = _deal(free, kinds, shares)
    moved = [dataclasses.replace(case, split=dealt[_patient(case)]) for case in free]
    lines = [said]
    empty = [split for split in SPLITS if split not in {case.split for case in (*moved, *kept)}]
    if empty:
        lines.append(f"too few patients for a {' and a '.join(empty)} split")
    return [*kept, *moved], lines


def _unsplit(cases: Sequence[Case]) -> set[str]:
    return {"train"} if any(not case.split for case in cases) else set()


def _patient(case: Case) -> str:
    return case.patient or f"scan {case.scan}"


def _deal(
    cases: Sequence[Case], kinds: Mapping[str, str], shares: Mapping[str, float]
) -> dict[str, str]:
    """Return patient -> split."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[_patient(case)].append(case)

    # Patients of one stratum stand together, in an order that only their names decide.
    def stratum(patient: str) -> tuple[str, str]:
        largest = max(groups[patient], key=lambda case: (case.truth_ml or 0.0, case.scan))
        return volume_stratum(largest.truth_ml or 0.0), kinds.get(largest.scan, "")

    def chance(patient: str) -> str:
        return hashlib.sha256(patient.encode()).hexdigest()

    order = sorted(groups, key=lambda patient: (stratum(patient), chance(patient)))

    # The split that lacks most of its share of the stratum gets the next patient; then of all.
    in_all: dict[str, float] = dict.fromkeys(shares, 0.0)
    in_stratum: dict[tuple[str, str], dict[str, float]] = defaultdict(
        lambda: dict.fromkeys(shares, 0.0)
    )
    dealt: dict[str, str] = {}
    for patient in order:
        own = in_stratum[stratum(patient)]
        size = len(groups[patient])

        def lack(split: str, own: dict[str, float] = own, size: int = size) -> tuple[float, float]:
            return (
                (in_all[split] + size) / shares[split],
                (own[split] + size) / shares[split],
            )

        split = min(shares, key=lack)
        own[split] += size
        in_all[split] += size
        dealt[patient] = split
    return _fill_empty(dealt, list(shares))


def _fill_empty(dealt: dict[str, str], splits: Sequence[str]) -> dict[str, str]:
    """Give a split without patients one of train's, as long as train keeps one."""
    for split in splits:
        in_train = [patient for patient, home in dealt.items() if home == "train"]
        if split not in dealt.values() and len(in_train) > 1:
            dealt[in_train[-1]] = split
    return dealt
