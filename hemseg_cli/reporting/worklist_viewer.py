"""The scans of a worklist for the viewer: images read again as `predict` read them, no truth."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
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
from hemseg_cli.inference.records import Record
from hemseg_cli.reporting.lesion_list import MOST_LESIONS, hu_counts, point_in
from hemseg_cli.reporting.packing import pack_counted_mask, pack_image, slices_of
from hemseg_cli.reporting.tables import ReportTable
from hemseg_cli.reporting.viewer import Viewer, ViewerScan

_THUMBNAIL_PIXELS = 96


def worklist_viewer(
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
        # In the order of the table, so that what is left out is what needs a look least.
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
    measures = record.volumes
    wanted: list[tuple[str, NDArray[np.bool_], dict[str, Any]]] = [
        (
            "",
            part != 0,
            _numbers(measures.predicted_ml, measures.volume_low_ml, measures.volume_high_ml),
        )
    ]
    if len(classes) > 1:
        wanted += [
            (
                one.key,
                part == one.value,
                _numbers(
                    measures.class_ml.get(one.key),
                    measures.class_low_ml.get(one.key),
                    measures.class_high_ml.get(one.key),
                ),
            )
            for one in classes
        ]
    layers = [
        _layer(key, mask, numbers, voxel_ml, hu[shown])
        | {"lesions": [_lesions(record, key, to_shown)], "lesions_left_out": [0]}
        for key, mask, numbers in wanted
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


def _numbers(
    predicted_ml: float | None, low_ml: float | None, high_ml: float | None
) -> dict[str, Any]:
    """Return what the viewer shows beside a mask: mL, and its interval where there is one."""
    shown: dict[str, Any] = {"dice": None, "hd95_mm": None, "truth_ml": None}
    shown["predicted_ml"] = predicted_ml
    if low_ml is not None and high_ml is not None:
        shown["interval"] = [
            f"{VOLUME_CONFIDENCE * 100:g} % interval",
            f"{interval_text(low_ml, high_ml)} mL",
        ]
    return shown


def _layer(
    key: str,
    mask: NDArray[np.bool_],
    numbers: dict[str, Any],
    voxel_ml: float | NDArray[np.float64],
    hu: NDArray[Any],
) -> dict[str, Any]:
    """Pack the mask of one class, or of all together; there is no truth."""
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
        # The centroid is stored in the scan's own millimetres.
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

    # Of an empty mask the slice that a preview would show.
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
