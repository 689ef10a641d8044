"""The page of scans without truth: a worklist over any folder that `hemseg predict` wrote.

NiiVue (BSD-2, in `ipyniivue` 2.4.4 on PyPI) was looked at for the viewer and is not used: its one
script is 5.0 MB, needs WebGL 2, which a remote desktop without a GPU may lack, and compiles
WebAssembly, which the page's Content-Security-Policy would have to allow.
"""

from datetime import UTC, datetime
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.core.classes import read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.quantities import VOLUME_CONFIDENCE
from hemseg_cli.inference.measures import interval_text
from hemseg_cli.inference.outputs import OutputFolder
from hemseg_cli.inference.records import Record, finished_records
from hemseg_cli.reporting.packing import (
    HU_HIGH,
    HU_LOW,
)
from hemseg_cli.reporting.page import MOST_TABS, render_worklist
from hemseg_cli.reporting.tables import Column, ReportTable, to_csv
from hemseg_cli.reporting.viewer import Viewer
from hemseg_cli.reporting.worklist_viewer import worklist_viewer

MASK_SUFFIX = "_mask"
"""What `predict --out` puts behind a scan's name in its mask's."""


def predictions_in(path: Path) -> OutputFolder | None:
    """Return the folder as one of predictions; None where `predict` wrote none into it."""
    folder = OutputFolder(path, MASK_SUFFIX)
    if not folder.volumes_file.is_file() or not folder.records.is_dir():
        return None
    # A run keeps its masks under the scans' own names, `predict --out` adds a word.
    inside_a_run = not any(path.glob(f"*{MASK_SUFFIX}.nii.gz"))
    return OutputFolder(path) if inside_a_run else folder


def worklist_table(records: list[Record]) -> ReportTable:
    """Return one row per scan: those to review first, then by mL."""
    found = [record.volumes for record in records if record.volumes is not None]
    # What a person should look at stands first, whatever its size.
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
    viewer, thumbnails = worklist_viewer(config, folder, table, records)
    classes = read_classes(DataDirectory(folder.path))
    # One class has the colour of every prediction.
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
