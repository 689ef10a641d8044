"""The scans of the slice viewer of runs: image, truth and every run's mask of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.cases import Case
from hemseg_cli.core.classes import UNION, read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.evaluation.class_pairs import ClassPairs, pair_classes
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.orientation import match_axes
from hemseg_cli.reporting.lesion_list import compared_lesions, hu_counts
from hemseg_cli.reporting.packing import pack_counted_mask, pack_image, slices_of
from hemseg_cli.reporting.results import CaseResult, RunResults


@dataclass(frozen=True)
class ViewerScan:
    """One scan for the page: its words, its numbers, and its packed slices."""

    scan: str
    role: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Viewer:
    """The scans in the viewer, and why others are not: scan -> reason."""

    scans: tuple[ViewerScan, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """The classes that can be shown by themselves."""
        return [layer["key"] for layer in self.scans[0].values["classes"]] if self.scans else []


def build_viewer(
    runs: Sequence[RunResults], cases: Sequence[Case], folder: Path, *, count: int, matrix: int
) -> Viewer:
    """Pack the chosen scans of the first run, each with the truth and every run's mask.

    `folder`: of the data set, from which paths start.
    """
    # Without classes that fit, no mask can be read: every scan is left out for that reason.
    by_scan = {case.scan: case for case in cases}
    chosen = choose_scans(runs[0].cases, count)
    try:
        classes = _class_pairs(runs, folder)
    except HemsegError as error:
        return Viewer((), {result.scan: error.message for _, result in chosen})

    scans: list[ViewerScan] = []
    left_out: dict[str, str] = {}
    for role, result in chosen:
        try:
            case = by_scan.get(result.scan)
            if case is None:
                raise HemsegError(f"not in the case table of {folder}")
            scans.append(_scan(role, result.scan, case, runs, classes, folder, matrix))
        except HemsegError as error:
            left_out[result.scan] = error.message
    return Viewer(tuple(scans), left_out)


def choose_scans(results: Sequence[CaseResult], count: int) -> list[tuple[str, CaseResult]]:
    """Choose `count` scans spread evenly from worst to best Dice.

    (role, scan), the role being worst, median, best or the rank.
    """
    # Ties are broken by name, so that two reports of one run show the same scans.
    ranked = sorted(
        (case for case in results if case.number("dice") is not None),
        key=lambda case: (case.number("dice"), case.scan),
    )
    last = len(ranked) - 1
    # Evenly over the ranks: the ends are the worst and the best.
    if count < 2 or last < 1:
        places = [last // 2][: min(count, len(ranked))]
    else:
        places = sorted(
            {
                round(n * last / (min(count, len(ranked)) - 1))
                for n in range(min(count, len(ranked)))
            }
        )
    roles = {0: "worst", last // 2: "median"} | ({last: "best"} if last > 0 else {})
    if len(places) == 3:
        roles[places[1]] = "median"
    return [
        (roles.get(place, f"rank {place + 1} of {len(ranked)}"), ranked[place]) for place in places
    ]


def _class_pairs(runs: Sequence[RunResults], folder: Path) -> list[ClassPairs]:
    """Join the classes of the data set with those of each run's masks."""
    truth = read_classes(DataDirectory(folder))
    return [
        pair_classes(
            truth,
            read_classes(DataDirectory(run.run.predictions(run.split))),
            name=f"run {run.name}",
        )
        for run in runs
    ]


def _scan(
    role: str,
    scan: str,
    case: Case,
    runs: Sequence[RunResults],
    classes: Sequence[ClassPairs],
    folder: Path,
    matrix: int,
) -> ViewerScan:
    data = DataDirectory(folder)
    image = read_volume(data.image_of(case))
    truth, predictions, missing = _label_maps(scan, data.label_of(case), image, runs)

    # Cropped to all that any of the masks marks, not to the head alone.
    frame, shown = pack_image(
        image, [truth, *predictions], matrix, voxel_volume_mm3=case.voxel_volume_mm3
    )
    seen = _Seen(
        scan,
        slices_of(image)[shown],
        truth[shown],
        [labels[shown] for labels in predictions],
        frame["step"] * (case.voxel_volume_mm3 or 0.0) / 1000,
    )
    # All classes together first, then each that labels and some run both know.
    keys = list(dict.fromkeys(key for pairs in classes for key in pairs.scored))
    layers = [_layer(key, seen, runs, classes) for key in (UNION, *keys)]
    return ViewerScan(
        scan,
        role,
        {**frame, "missing": missing, **layers[0], "classes": layers[1:]},
    )


@dataclass(frozen=True)
class _Seen:
    """The part of a scan that is shown, [k, rows, columns]: HU and label maps."""

    scan: str
    hu: NDArray[Any]
    truth: NDArray[Any]
    predictions: Sequence[NDArray[Any]]
    voxel_ml: float


def _label_maps(
    scan: str, label: Path, image: Volume, runs: Sequence[RunResults]
) -> tuple[NDArray[Any], list[NDArray[Any]], list[str]]:
    """Read the label map of the truth and of every run, and name the runs that have none.

    HemsegError where no run has one.
    """
    grid = (image.array.shape, image.affine)
    truth = slices_of(match_axes(read_label(label), *grid))
    predictions, missing = [], []
    for run in runs:
        file = run.run.prediction_file(run.split, scan)
        if file.is_file():
            found = match_axes(read_label(file), *grid, what=f"mask of {run.name}")
            predictions.append(slices_of(found))
        else:
            missing.append(run.name)
            predictions.append(np.zeros_like(truth))

    if len(missing) == len(runs):
        raise HemsegError(f"no mask {runs[0].run.prediction_file(runs[0].split, scan)}")
    return truth, predictions, missing


def _layer(
    key: str, seen: _Seen, runs: Sequence[RunResults], classes: Sequence[ClassPairs]
) -> dict[str, Any]:
    """Pack the masks of one class, or of all together, with each run's numbers and lesions."""
    # A run may code a class by another value than the labels do.
    values = [pairs.values_of(key) for pairs in classes]
    true_values = next((of_truth for _, of_truth in values if of_truth), ())
    truth = np.isin(seen.truth, true_values)
    masks = [
        np.isin(labels, of_run)
        for labels, (of_run, _) in zip(seen.predictions, values, strict=True)
    ]
    results = [
        next((case for case in run.cases_by_class.get(key, ()) if case.scan == seen.scan), None)
        for run in runs
    ]
    # The truth is compared with each run by itself: what one finds another may miss.
    lesions = [compared_lesions(truth, mask, seen.voxel_ml) for mask in masks]
    return {
        "key": key,
        "truth": pack_counted_mask(truth, seen.voxel_ml) | {"hu": hu_counts(seen.hu, truth)},
        "predictions": [
            pack_counted_mask(mask, seen.voxel_ml) | {"hu": hu_counts(seen.hu, mask)}
            for mask in masks
        ],
        "results": [_shown(result) for result in results],
        "lesions": [listed for listed, _ in lesions],
        "lesions_left_out": [left_out for _, left_out in lesions],
    }


def _shown(result: CaseResult | None) -> dict[str, float | None]:
    return {
        key: result.number(key) if result else None
        for key in ("dice", "hd95_mm", "truth_ml", "predicted_ml")
    }
