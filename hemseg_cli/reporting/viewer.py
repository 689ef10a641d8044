"""The scans of the slice viewer, packed small enough to travel inside the page.

Slices are as a radiologist reads them: patient's right on the left, anterior up, and slice 0 the
lowest. Images are cropped to the head, averaged down to at most `matrix` pixels and stored with 8
bits over HU_LOW..HU_HIGH, each row as differences to its left neighbour (which deflate packs
better); masks keep the scan's own pixels, one bit each. Everything is zlib in base64, which the
browser's DecompressionStream unpacks.
"""

import base64
import zlib
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
from hemseg_cli.imaging.geometry import spacing_mm
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.nifti import Volume, read_volume
from hemseg_cli.imaging.orientation import match_axes, to_canonical
from hemseg_cli.reporting.results import CaseResult, RunResults

HU_LOW, HU_HIGH = -100, 200
_AIR_HU = -300
_MARGIN = 6
_MOST_SLICES = 80


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
    ranked = sorted(
        (case for case in results if case.number("dice") is not None),
        key=lambda case: (case.number("dice"), case.scan),
    )
    last = len(ranked) - 1
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

    frame, shown = pack_image(image, [truth, *predictions], matrix)
    truth = truth[shown]
    predictions = [labels[shown] for labels in predictions]
    step = frame["step"]
    voxel_ml = step * (case.voxel_volume_mm3 or 0.0) / 1000
    keys = list(dict.fromkeys(key for pairs in classes for key in pairs.scored))
    layers = [
        _layer(key, scan, truth, predictions, runs, classes, voxel_ml) for key in (UNION, *keys)
    ]

    return ViewerScan(
        scan,
        role,
        {**frame, "missing": missing, **layers[0], "classes": layers[1:]},
    )


def pack_image(
    image: Volume, labels: Sequence[NDArray[Any]], matrix: int
) -> tuple[dict[str, Any], tuple[slice, slice, slice]]:
    """Pack a scan's slices, cropped to the head and to all that is labelled.

    `labels`: label maps as `slices_of` gives them. Return the values that the page's script reads,
    and which part of the label maps is shown.
    """
    hu = slices_of(image)
    rows, columns = _head(hu, [found != 0 for found in labels])
    step = -(-hu.shape[0] // _MOST_SLICES)  # of very many slices take some
    shown = (slice(None, None, step), rows, columns)
    hu = hu[shown]

    small, factor = shrink(hu, matrix)
    x_mm, y_mm, _ = spacing_mm(to_canonical(image)[0].affine)
    values = {
        "slices": hu.shape[0],
        "step": step,
        "image": {"rows": small.shape[1], "columns": small.shape[2], "data": pack_hu(small)},
        "mask": {"rows": hu.shape[1], "columns": hu.shape[2]},
        "factor": factor,
        "width_mm": hu.shape[2] * x_mm,
        "aspect": (hu.shape[2] * x_mm) / (hu.shape[1] * y_mm),
    }
    return values, shown


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
    key: str,
    scan: str,
    truth: NDArray[Any],
    predictions: Sequence[NDArray[Any]],
    runs: Sequence[RunResults],
    classes: Sequence[ClassPairs],
    voxel_ml: float,
) -> dict[str, Any]:
    """Pack the masks of one class, or of all together, with each run's numbers of it."""
    values = [pairs.values_of(key) for pairs in classes]
    true_values = next((of_truth for _, of_truth in values if of_truth), ())
    results = [
        next((case for case in run.cases_by_class.get(key, ()) if case.scan == scan), None)
        for run in runs
    ]
    return {
        "key": key,
        "truth": pack_counted_mask(np.isin(truth, true_values), voxel_ml),
        "predictions": [
            pack_counted_mask(np.isin(labels, of_run), voxel_ml)
            for labels, (of_run, _) in zip(predictions, values, strict=True)
        ],
        "results": [_shown(result) for result in results],
    }


def _shown(result: CaseResult | None) -> dict[str, float | None]:
    return {
        key: result.number(key) if result else None
        for key in ("dice", "hd95_mm", "truth_ml", "predicted_ml")
    }


def slices_of(volume: Volume) -> NDArray[Any]:
    """Return [k, rows, columns]: from low to high, from anterior, from the patient's right."""
    return to_canonical(volume)[0].array[::-1, ::-1, :].transpose(2, 1, 0)


def _head(hu: NDArray[Any], masks: Sequence[NDArray[np.bool_]]) -> tuple[slice, slice]:
    """Return the rows and columns that hold the head and every mask, with a margin."""
    seen = np.logical_or.reduce(
        [np.any(hu > _AIR_HU, axis=0), *(np.any(mask, axis=0) for mask in masks)]
    )
    if not seen.any():
        return slice(None), slice(None)
    return _span(np.logical_or.reduce(seen, axis=1)), _span(np.logical_or.reduce(seen, axis=0))


def _span(seen: NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(seen)
    return slice(max(0, int(places[0]) - _MARGIN), min(seen.size, int(places[-1]) + 1 + _MARGIN))


def shrink(hu: NDArray[Any], matrix: int) -> tuple[NDArray[np.float32], int]:
    """Average slices [k, rows, columns] over blocks so that neither side exceeds `matrix`.

    The slices, and how many pixels a block is wide.
    """
    factor = -(-max(hu.shape[1:]) // matrix)
    rows, columns = (-(-n // factor) * factor for n in hu.shape[1:])
    even = np.pad(
        hu, ((0, 0), (0, rows - hu.shape[1]), (0, columns - hu.shape[2])), mode="edge"
    ).astype(np.float32)
    blocks = even.reshape(hu.shape[0], rows // factor, factor, columns // factor, factor)
    return blocks.mean(axis=(2, 4), dtype=np.float32), factor


def pack_hu(hu: NDArray[np.float32]) -> str:
    """Pack HU [k, rows, columns]: 8 bits over HU_LOW..HU_HIGH, row differences, zlib, base64."""
    grey = np.rint((np.clip(hu, HU_LOW, HU_HIGH) - HU_LOW) * (255 / (HU_HIGH - HU_LOW))).astype(
        np.uint8
    )
    differences = np.diff(grey, axis=2, prepend=np.uint8(0))
    return _deflated(differences.tobytes())


def pack_mask(mask: NDArray[np.bool_]) -> str:
    """Pack a mask [k, rows, columns]: a bit per pixel, the highest first, zlib, base64."""
    return _deflated(np.packbits(mask.ravel()).tobytes())


def pack_counted_mask(
    mask: NDArray[np.bool_], voxel_ml: float | NDArray[np.float64]
) -> dict[str, Any]:
    """Pack a mask [k, rows, columns] with the voxels and mL of each of its slices.

    `voxel_ml`: of every voxel, or of those of each slice [k].
    """
    per_slice = mask.sum(axis=(1, 2))
    return {
        "data": pack_mask(mask),
        "ml": [round(float(ml), 3) for ml in per_slice * voxel_ml],
        "voxels": [int(n) for n in per_slice],
    }


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")
