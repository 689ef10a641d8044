"""Measure a mask: the rows of `volumes.csv` (scans) and `lesions.csv` (lesions)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, UNION, LabelClass, union_classes
from hemseg_cli.core.files import write_table
from hemseg_cli.imaging.geometry import VoxelVolume, spacing_mm
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.inference.calibration import NOT_CALIBRATED, Calibration
from hemseg_cli.inference.confidence import confidence_of, review_reason
from hemseg_cli.inference.lesions import Lesion, find_lesions, mean_hu
from hemseg_cli.inference.subgrid import Probability, box_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class ScanMeasures:
    """One row of `volumes.csv`: mL by the true geometry, 26-connected lesions, HU, confidence.

    `viewer_ml`: what a viewer makes of the mask's NIfTI, its voxels by the header's spacing, which
    is more than the truth for a tilted gantry and wrong for uneven slices.
    `abc2_ml`: the sum of the lesions' ABC/2. `mean_hu`: of the whole mask, None where it is empty.
    `volume_low_ml` and `volume_high_ml`: the interval of the true volume (`calibration`), None
    where there is none. `review`: whether a person should look, `review_reason` why. The other
    columns are explained in `confidence`. Of several classes all of this is of their union
    (`core.classes.union_classes`), and `class_ml` holds the mL of each, by key: columns `<key>_ml`;
    `class_low_ml` and `class_high_ml` their intervals. `source_ids`: of a DICOM series its UID, and
    where they are kept the patient's id, accession number and date, by column.
    """

    scan: str
    predicted_ml: float
    volume_low_ml: float | None
    volume_high_ml: float | None
    viewer_ml: float
    lesions: int
    largest_ml: float
    abc2_ml: float
    mean_hu: float | None
    mean_probability: float
    uncertain_share: float
    disagreement: float
    review: bool
    review_reason: str
    class_ml: dict[str, float] = field(default_factory=dict)
    source_ids: dict[str, str] = field(default_factory=dict)
    class_low_ml: dict[str, float] = field(default_factory=dict)
    class_high_ml: dict[str, float] = field(default_factory=dict)


_CLASS_COLUMNS = {"class_ml": "_ml", "class_low_ml": "_low_ml", "class_high_ml": "_high_ml"}
"""Fields of `ScanMeasures` by class key, and what stands behind the key in the column's name."""


@dataclass(frozen=True)
class LesionRow:
    """One row of `lesions.csv`; the centroid in RAS mm of the scan's own affine.

    `label_class`: the key of its class where there are several, column `class`.
    """

    scan: str
    lesion: int
    volume_ml: float
    abc2_ml: float
    mean_hu: float
    centroid_r_mm: float
    centroid_a_mm: float
    centroid_s_mm: float
    label_class: str = ""


@dataclass(frozen=True)
class Measured:
    """A scan's row of `volumes.csv`, and its lesions, largest first.

    `by_class`: the lesions of each class by key, where there are several.
    """

    row: ScanMeasures
    lesions: tuple[Lesion, ...]
    by_class: dict[str, tuple[Lesion, ...]] = field(default_factory=dict)


def measure(
    name: str,
    mask: NDArray[np.uint8],
    scan: Volume,
    *,
    voxel_volume_mm3: VoxelVolume,
    probability: Probability,
    deviation: Probability | None,
    threshold: float,
    warnings: Sequence[str] = (),
    classes: Sequence[LabelClass] = HEMORRHAGE_ONLY,
    calibration: Calibration = NOT_CALIBRATED,
) -> Measured:
    """Measure one label map on the grid of `scan` (HU), both on canonical axes [i, j, k].

    `warnings`: what was said of the input. `classes`: of the label map; each is measured by itself
    where there are several, and their union as a mask. `calibration`: of the networks.
    """
    # Of several classes the scan's own numbers are of their union, as if it were the only class.
    by_class: dict[str, tuple[Lesion, ...]] = {}
    if len(classes) > 1:
        by_class = _lesions_by_class(mask, scan, voxel_volume_mm3, classes)
        mask, probability, deviation = _united(mask, probability, deviation, classes)

    # The volume is the sum of the lesions' volumes, so that both tables agree to the last digit.
    lesions = find_lesions(mask, scan, voxel_volume_mm3=voxel_volume_mm3)
    predicted_ml, hu = sum(one.volume_ml for one in lesions), mean_hu(lesions)
    # How far the mask can be trusted, and whether a person should look at it.
    confidence = confidence_of(
        probability.values,
        mask[box_of(probability.part)],
        None if deviation is None else deviation.values,
    )
    reason = review_reason(
        confidence,
        predicted_ml=predicted_ml,
        lesions=len(lesions),
        threshold=threshold,
        mean_hu=hu,
        warnings=tuple(warnings),
    )
    row = ScanMeasures(
        scan=name,
        predicted_ml=predicted_ml,
        volume_low_ml=None,
        volume_high_ml=None,
        viewer_ml=np.count_nonzero(mask) * math.prod(spacing_mm(scan.affine)) / 1000,
        lesions=len(lesions),
        largest_ml=lesions[0].volume_ml if lesions else 0.0,
        abc2_ml=sum(lesion.abc2_ml for lesion in lesions),
        mean_hu=hu,
        mean_probability=confidence.mean_probability,
        uncertain_share=confidence.uncertain_share,
        disagreement=confidence.disagreement,
        review=bool(reason),
        review_reason=reason,
        class_ml={key: sum(one.volume_ml for one in found) for key, found in by_class.items()},
    )
    return Measured(_with_intervals(row, calibration), tuple(lesions), by_class)


def _united(
    mask: NDArray[np.uint8],
    probability: Probability,
    deviation: Probability | None,
    classes: Sequence[LabelClass],
) -> tuple[NDArray[np.uint8], Probability, Probability | None]:
    """The union of several classes: its mask, and the highest value of any in each voxel."""
    united = union_classes(classes)
    channels = [number for number, each in enumerate(classes) if each in united]

    def highest(of_classes: Probability) -> Probability:
        return replace(of_classes, values=of_classes.values[channels]).union()

    in_union = np.isin(mask, [each.value for each in united]).view(np.uint8)
    return in_union, highest(probability), None if deviation is None else highest(deviation)


def _with_intervals(row: ScanMeasures, calibration: Calibration) -> ScanMeasures:
    """The row with the intervals of its volumes; None where too few scans tell."""
    low_ml, high_ml = calibration.interval_ml(UNION, row.predicted_ml) or (None, None)
    classes = {key: calibration.interval_ml(key, ml) for key, ml in row.class_ml.items()}
    return replace(
        row,
        volume_low_ml=low_ml,
        volume_high_ml=high_ml,
        class_low_ml={key: found[0] for key, found in classes.items() if found},
        class_high_ml={key: found[1] for key, found in classes.items() if found},
    )


def interval_ml(row: ScanMeasures, key: str | None = None) -> tuple[float, float] | None:
    """Return the interval of the true volume of a class, or of all together (`key` None), mL.

    None where there is none. Of a scan with one class both are the same.
    """
    of_class = key is not None and bool(row.class_ml)
    low_ml = row.class_low_ml.get(str(key)) if of_class else row.volume_low_ml
    high_ml = row.class_high_ml.get(str(key)) if of_class else row.volume_high_ml
    return None if low_ml is None or high_ml is None else (low_ml, high_ml)


def _lesions_by_class(
    mask: NDArray[np.uint8],
    scan: Volume,
    voxel_volume_mm3: VoxelVolume,
    classes: Sequence[LabelClass],
) -> dict[str, tuple[Lesion, ...]]:
    """Find the lesions of each class of a label map, by the class's key."""
    found = {}
    for each in classes:
        own = (mask == each.value).view(np.uint8)
        found[each.key] = tuple(find_lesions(own, scan, voxel_volume_mm3=voxel_volume_mm3))
    return found


def lesion_rows(measured: Measured) -> list[LesionRow]:
    """Return the rows of a scan's lesions, numbered from 1: class by class where there are several.

    A lesion of a class is a component of that class alone: touching classes are two lesions.
    """
    lesions = [("", lesion) for lesion in measured.lesions]
    if measured.by_class:
        lesions = [(key, one) for key, found in measured.by_class.items() for one in found]
    return [
        LesionRow(
            measured.row.scan,
            number,
            lesion.volume_ml,
            lesion.abc2_ml,
            lesion.mean_hu,
            *lesion.centroid_mm,
            label_class=key,
        )
        for number, (key, lesion) in enumerate(lesions, 1)
    ]


def interval_text(low_ml: float | None, high_ml: float | None) -> str:
    """Show the interval of a volume, `10.90 to 14.60`; a dash where there is none."""
    return "-" if low_ml is None or high_ml is None else f"{low_ml:.2f} to {high_ml:.2f}"


def write_volumes(path: Path, rows: Iterable[ScanMeasures]) -> None:
    """Write `volumes.csv`, sorted by scan; `review` is yes or no.

    The mL of each of several classes, `<key>_ml`, follow those of their union, and each has its
    interval behind it, `<key>_low_ml` and `<key>_high_ml`. What tells a
    DICOM series from others follows the scan's name.
    """
    ordered = sorted(rows, key=lambda row: row.scan)
    frame = _frame(ScanMeasures, ordered).drop(columns=[*_CLASS_COLUMNS, "source_ids"])
    frame["review"] = frame["review"].map({True: "yes", False: "no"})
    place = list(frame.columns).index("volume_high_ml")
    keys = dict.fromkeys(key for row in ordered for key in row.class_ml)
    for key in keys:
        for field_name, suffix in _CLASS_COLUMNS.items():
            place += 1
            values = [getattr(row, field_name).get(key) for row in ordered]
            frame.insert(place, f"{key}{suffix}", values)

    # What tells a DICOM series from others stands in front, where a reader looks for it.
    names = dict.fromkeys(name for row in ordered for name in row.source_ids)
    for number, name in enumerate(names, start=1):
        frame.insert(number, name, [row.source_ids.get(name, "") for row in ordered])
    write_table(path, frame)


def write_lesions(path: Path, rows: Iterable[LesionRow]) -> None:
    """Write `lesions.csv`, sorted by scan, class and size; `class` only where there are several."""
    ordered = sorted(rows, key=lambda row: (row.scan, row.lesion))
    frame = _frame(LesionRow, ordered)
    keys = frame.pop("label_class")
    if any(row.label_class for row in ordered):
        frame.insert(2, "class", keys)
    write_table(path, frame)


def _frame(kind: type[ScanMeasures] | type[LesionRow], rows: Sequence[Any]) -> "pd.DataFrame":
    """The rows as a table with every column of their kind, also when there is none."""
    import pandas as pd  # slow to import

    columns = [column.name for column in fields(kind)]
    return pd.DataFrame([asdict(row) for row in rows], columns=columns)
