"""The page of scans without truth: a worklist over any folder that `hemseg predict` wrote.

NiiVue (BSD-2, in `ipyniivue` 2.4.4 on PyPI) was looked at for the viewer and is not used: its one
script is 5.0 MB, needs WebGL 2, which a remote desktop without a GPU may lack, and compiles
WebAssembly, which the page's Content-Security-Policy would have to allow.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.config import Config
from hemseg_cli.core.classes import LabelClass, read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.quantities import VOLUME_CONFIDENCE
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.orientation import match_axes
from hemseg_cli.inference.inputs.checking import checked_scan
from hemseg_cli.inference.inputs.finding import path_inputs
from hemseg_cli.inference.inputs.reading import Scan, read_scan
from hemseg_cli.inference.measures import interval_text
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.inference.preview import WINDOW_HU, chosen_slices
from hemseg_cli.inference.records import Record, finished_records
from hemseg_cli.reporting.lesion_list import MOST_LESIONS, hu_counts, point_in
from hemseg_cli.reporting.packing import (
    HU_HIGH,
    HU_LOW,
    pack_counted_mask,
    pack_image,
    slices_of,
)
from hemseg_cli.reporting.page import MOST_TABS, render_worklist
from hemseg_cli.reporting.tables import Column, ReportTable, to_csv
from hemseg_cli.reporting.viewer import Viewer, ViewerScan

MASK_SUFFIX = "_mask"
"""What `predict --out` puts behind a scan's name in its mask's."""

_THUMBNAIL_PIXELS = 96


def predictions_in(path: Path) -> OutputFolder | None:
    """Return the folder as one of predictions; None where `predict` wrote none into it."""
    folder = OutputFolder(path, MASK_SUFFIX)
    if not folder.volumes_file.is_file() or not folder.records.is_dir():
        return None
    inside_a_run = not any(path.glob(f"*{MASK_SUFFIX}.nii.gz"))
    return OutputFolder(path) if inside_a_run else folder


def worklist_table(records: list[Record]) -> ReportTable:
    """Return one row per scan: those to review first, then by mL."""
    found = [record.volumes for record in records if record.volumes is not None]
    found.sort(key=lambda row: (not row.review, -row.predicted_ml, row.scan))
    classes = list(dict.fromkeys(key for row in found for key in row.class_ml))
    interval = f"{VOLUME_CONFIDENCE * 100:g} % interval (mL)"
    stated = any(row.volume_low_ml is not None for row in found)
    columns = (
        Column("scan", "Scan"),
        Column("review", "Review"),
        Column("predicted_ml", "mL", 2),
        *([Column("interval", interval)] if stated else []),
        *(Column(f"{key}_ml", f"{key} (mL)", 2) for key in classes),
        Column("abc2_ml", "ABC/2 (mL)", 2),
        Column("lesions", "Lesions", 0),
        Column("largest_ml", "Largest (mL)", 2),
        Column("mean_hu", "Mean HU", 0),
    )
    rows = tuple(
        (
            row.scan,
            row.review_reason or ("yes" if row.review else ""),
            row.predicted_ml,
            *([interval_text(row.volume_low_ml, row.volume_high_ml)] if stated else []),
            *(row.class_ml.get(key) for key in classes),
            row.abc2_ml,
            row.lesions,
            row.largest_ml,
            row.mean_hu,
        )
        for row in found
    )
    marks = {n: "review" for n, row in enumerate(found) if row.review}
    note = (
        "Scans to review first, then by predicted volume (true voxel geometry). ABC/2: sum over "
        "the lesions, which are 26-connected components."
    )
    if stated:
        note += f" {interval}: of the true volume, for scans like those of the validation."
    return ReportTable("worklist", "Worklist", columns, rows, note, marks)


def worklist_page(config: Config, folder: OutputFolder) -> tuple[str, ReportTable, Viewer]:
    """Return the HTML text of a folder's worklist, its table, and the scans in the viewer.

    HemsegError where the folder holds no finished scan.
    """
    records = [record for record in finished_records(folder) if record.volumes is not None]
    if not records:
        raise HemsegError(
            f"{folder.path} holds no finished scan", hint="hemseg predict INPUT --out FOLDER"
        )
    table = worklist_table(records)
    viewer, thumbnails = _viewer(config, folder, table, records)
    classes = read_classes(DataDirectory(folder.path))
    colours = ["#{:02x}{:02x}{:02x}".format(*one.colour) for one in classes]
    colours = colours if len(classes) > 1 else []
    made = datetime.now(UTC)

    text = render_worklist(
        title=config.report.title,
        names=[folder.path.resolve().name],
        rows=table.rows,
        n_review=len(table.marks),
        table=table,
        viewer=viewer,
        viewer_classes=viewer.classes,
        class_colours=colours,
        has_truth=False,
        most_tabs=MOST_TABS,
        thumbnails=thumbnails,
        made=made,
        notice="Research use only. Not a medical device.",
        data={
            "csv": {"worklist": to_csv(table)},
            "viewer": {
                "hu": [HU_LOW, HU_HIGH],
                "colours": colours,
                "scans": [{"scan": scan.scan} for scan in viewer.scans],
            },
        },
    )
    return text, table, viewer


def _viewer(
    config: Config, folder: OutputFolder, table: ReportTable, records: list[Record]
) -> tuple[Viewer, dict[str, str]]:
    """Pack the scans in the order of the worklist; what cannot be shown is named with a reason."""
    by_scan = {record.volumes.scan: record for record in records if record.volumes is not None}
    classes = read_classes(DataDirectory(folder.path))
    scans: list[ViewerScan] = []
    left_out: dict[str, str] = {}
    thumbnails: dict[str, str] = {}
    for row in table.rows:
        name = str(row[0])
        if len(scans) >= config.report.viewer_cases:
            left_out[name] = f"report.viewer_cases = {config.report.viewer_cases}"
            continue
        try:
            packed, picture = _scan(config, folder, by_scan[name], classes)
        except HemsegError as error:
            left_out[name] = error.message
            continue
        scans.append(ViewerScan(name, "review" if row[1] else f"{row[2]:.1f} mL", packed))
        thumbnails[name] = picture
    return Viewer(tuple(scans), left_out), thumbnails


def _scan(
    config: Config, folder: OutputFolder, record: Record, classes: tuple[LabelClass, ...]
) -> tuple[dict[str, Any], str]:
    """Return a scan's packed values and its thumbnail as a data URL."""
    assert record.volumes is not None
    scan = _read_input(folder, record)
    mask = read_label(folder.mask(record.volumes.scan))
    labels = slices_of(match_axes(mask, scan.volume.array.shape, scan.volume.affine, what="mask"))

    uneven = scan.uneven
    frame, shown = pack_image(
        scan.volume,
        [labels],
        config.report.viewer_matrix,
        voxel_volume_mm3=scan.voxel_volume_mm3,
        positions_mm=uneven.positions_mm if uneven is not None and uneven.axis == 2 else None,
    )
    hu, part = slices_of(scan.volume), labels[shown]
    voxel_ml = _voxel_ml(scan, frame["step"])
    to_shown = _ShownPlaces(np.linalg.inv(scan.volume.affine), labels.shape, shown, part)
    wanted: list[tuple[str, NDArray[np.bool_], float | None]] = [
        ("", part != 0, record.volumes.predicted_ml)
    ]
    if len(classes) > 1:
        wanted += [
            (one.key, part == one.value, record.volumes.class_ml.get(one.key)) for one in classes
        ]
    layers = [
        _layer(key, mask, ml, voxel_ml, hu[shown])
        | {"lesions": [_lesions(record, key, to_shown)], "lesions_left_out": [0]}
        for key, mask, ml in wanted
    ]
    values = {**frame, **layers[0], "missing": [], "classes": layers[1:]}
    return values, _thumbnail(hu, labels)


def _read_input(folder: OutputFolder, record: Record) -> Scan:
    """Read the scan that a mask was made from, as `predict` did."""
    path = folder.path / record.source.path
    for source in path_inputs([path]).sources:
        if source.series is None or source.series.name == record.source.series:
            return checked_scan(read_scan(source))
    raise HemsegError(f"series {record.source.series} is no longer in {path}")


def _voxel_ml(scan: Scan, step: int) -> float | NDArray[np.float64]:
    """The mL of a voxel that stands for `step` slices: of each shown one where they are uneven."""
    if scan.uneven is None or scan.uneven.axis != 2:
        return step * scan.voxel_volume_mm3 / 1000
    return np.asarray(scan.voxel_volumes_mm3).ravel()[::step] * step / 1000


def _layer(
    key: str,
    mask: NDArray[np.bool_],
    predicted_ml: float | None,
    voxel_ml: float | NDArray[np.float64],
    hu: NDArray[Any],
) -> dict[str, Any]:
    """Pack the mask of one class, or of all together; there is no truth."""
    numbers = {"dice": None, "hd95_mm": None, "truth_ml": None, "predicted_ml": predicted_ml}
    nothing = np.zeros_like(mask)
    return {
        "key": key,
        "truth": pack_counted_mask(nothing, voxel_ml) | {"hu": hu_counts(hu, nothing)},
        "predictions": [pack_counted_mask(mask, voxel_ml) | {"hu": hu_counts(hu, mask)}],
        "results": [numbers],
    }


@dataclass(frozen=True)
class _ShownPlaces:
    """From RAS mm to the part of a scan that the page shows.

    `to_index`: of the canonical grid; `shape`: of the label map [k, rows, columns], of which
    `shown` is packed and `part` is that part.
    """

    to_index: NDArray[Any]
    shape: tuple[int, ...]
    shown: tuple[slice, slice, slice]
    part: NDArray[Any]

    def place(self, centroid_mm: Sequence[float]) -> dict[str, Any]:
        """Return the labelled voxel next to a centroid, as the page's script takes it."""
        i, j, k = (self.to_index @ (*centroid_mm, 1.0))[:3]
        # Rows and columns count from the other side than j and i, see `slices_of`.
        rows, columns = (part.start or 0 for part in self.shown[1:])
        centre = np.array(
            [
                k / (self.shown[0].step or 1),
                self.shape[1] - 1 - j - rows,
                self.shape[2] - 1 - i - columns,
            ]
        )
        return point_in(np.argwhere(self.part), centre, self.part.shape)


def _lesions(record: Record, key: str, places: _ShownPlaces) -> list[dict[str, Any]]:
    """List a scan's lesions as `predict` measured them: of one class, or ("") of all."""
    if not places.part.any():
        return []
    return [
        {
            "text": f"{row.label_class or 'Lesion'} {row.lesion}: {row.volume_ml:.1f} mL, "
            f"ABC/2 {row.abc2_ml:.1f}, {row.mean_hu:.0f} HU",
            "kind": "",
            "ml": row.volume_ml,
        }
        | places.place((row.centroid_r_mm, row.centroid_a_mm, row.centroid_s_mm))
        for row in record.lesions[:MOST_LESIONS]
        if key in ("", row.label_class)
    ]


def _thumbnail(hu: NDArray[Any], labels: NDArray[Any]) -> str:
    """Draw the slice [k, rows, columns] with the most hemorrhage, the mask in orange, as PNG."""
    from PIL import Image

    marked = labels != 0
    spread = chosen_slices(marked.transpose(2, 1, 0).astype(np.uint8), 1)
    k = int(marked.sum(axis=(1, 2)).argmax()) if marked.any() else spread[0]
    low, high = WINDOW_HU
    grey = np.clip((hu[k].astype(np.float32) - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    colours = np.repeat(grey[:, :, None], 3, axis=2)
    colours[marked[k]] = (255, 154, 60)

    picture = Image.fromarray(colours)
    picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"
