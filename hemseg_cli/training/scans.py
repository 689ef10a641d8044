"""Choose the scans of a training: the splits of the case table, or a fold of train and val."""

from collections.abc import Sequence
from dataclasses import dataclass

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.cases import Case, cases_in_split, contaminated, patient_folds, read_cases
from hemseg_cli.core.errors import HemsegError, UsageError


@dataclass(frozen=True)
class TrainingCases:
    """The scans to train on and to validate on."""

    train: list[Case]
    val: list[Case]


def training_cases(config: Config) -> TrainingCases:
    """Take the table's splits, or with `train.fold` all but one and one fold of train + val.

    HemsegError if a split is empty, UsageError if there is no such fold.
    """
    train = config.train
    cases = read_cases(config.data.cases_file)
    if train.fold is None:
        return TrainingCases(cases_in_split(cases, "train"), cases_in_split(cases, "val"))

    if not isinstance(train.fold, int) or train.fold >= train.folds:
        raise UsageError(
            f"train.fold = {train.fold}: folds are 0 to {train.folds - 1}",
            hint="--fold K --folds N, or --fold all",
        )

    # Sorted by id: the folds do not depend on the order of the table.
    pool = sorted(
        (case for case in cases if case.split in ("train", "val")), key=lambda case: case.scan
    )
    folds = patient_folds(pool, train.folds, seed=train.seed)
    return TrainingCases(
        [case for case in pool if folds[case.scan] != train.fold],
        [case for case in pool if folds[case.scan] == train.fold],
    )


def sample_by_volume(cases: Sequence[Case], most: int | None) -> list[Case]:
    """Choose at most `most` scans (None: all) evenly along the order of their true volumes.

    Small and large hemorrhages stand in the sample as often as among all; the order is kept.
    """
    if most is None or most >= len(cases):
        return list(cases)
    by_volume = sorted(cases, key=lambda case: (case.truth_ml or 0.0, case.scan))
    # The middle of each of `most` equal parts of the order.
    chosen = {by_volume[int((part + 0.5) * len(cases) / most)].scan for part in range(most)}
    return [case for case in cases if case.scan in chosen]


def warn_of_contamination(config: Config, cases: TrainingCases) -> None:
    """Name the data sets beside this one whose test scans are trained on.

    HemSeg-500's train split has those of HemSeg-200.
    """
    used = [*cases.train, *cases.val]
    for table in sorted(config.data.root.glob("*/cases.csv")):
        if table == config.data.cases_file:
            continue
        # A broken table of a neighbour is no reason not to train.
        try:
            tested = [case for case in read_cases(table) if case.split == "test"]
        except HemsegError:
            continue
        seen = contaminated(used, tested)
        if seen:
            named = f"{', '.join(seen[:5])}{' ...' if len(seen) > 5 else ''}"
            console.warn(
                f"{len(seen)} of the {len(tested)} test scans of {table.parent.name} are trained "
                f"on here: scores of this run on that test split say nothing ({named})"
            )
