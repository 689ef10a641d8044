"""The table of layouts: a new one is one row here and one module."""

from dataclasses import dataclass

from hemseg_cli.core.errors import UsageError
from hemseg_cli.dataset.imports.bids import BidsLayout
from hemseg_cli.dataset.imports.case_folders import CaseFoldersLayout
from hemseg_cli.dataset.imports.decathlon import DecathlonLayout
from hemseg_cli.dataset.imports.folders import FoldersLayout
from hemseg_cli.dataset.imports.layout import ImportRequest, Layout
from hemseg_cli.dataset.imports.named_sets import NAMED_SETS
from hemseg_cli.dataset.imports.nnunet import NnunetLayout
from hemseg_cli.dataset.imports.table import TableLayout


@dataclass(frozen=True)
class LayoutRow:
    """One layout: its key for `--layout`, a line about it, and the code."""

    key: str
    title: str
    layout: Layout


LAYOUTS = (
    # Recognised in this order: the more a layout asks for, the earlier it stands.
    LayoutRow("nnunet", "dataset.json, imagesTr/X_0000, labelsTr/X, imagesTs", NnunetLayout()),
    LayoutRow("decathlon", "dataset.json that lists the pairs (MSD)", DecathlonLayout()),
    LayoutRow("bids", "sub-*/[ses-*/]ct|anat/*_ct, masks in derivatives", BidsLayout()),
    LayoutRow("folders", "a folder of images and one of labels", FoldersLayout()),
    LayoutRow("case-folders", "a folder for each scan", CaseFoldersLayout()),
    LayoutRow("table", "a CSV of paths (--table)", TableLayout()),
    *(LayoutRow(named.key, named.title, named) for named in NAMED_SETS),
)


def choose_layout(request: ImportRequest) -> LayoutRow:
    """Return the layout that was named, or the first that recognises the source."""
    keys = ", ".join(row.key for row in LAYOUTS)
    if request.layout is not None:
        for row in LAYOUTS:
            if row.key == request.layout:
                return row
        raise UsageError(f"--layout {request.layout}: no such layout", hint=f"there are {keys}")

    # What only one layout takes names it.
    if request.table is not None:
        return _row("table")
    if request.images is not None or request.labels is not None:
        return _row("folders")
    source = request.source
    if source is None:
        raise UsageError(
            "no SOURCE", hint="hemseg import FOLDER --name mydata, or --images DIR --labels DIR"
        )
    if not source.is_dir():
        raise UsageError(f"SOURCE {source} is not a folder", hint="unpack an archive first")
    for row in LAYOUTS:
        if row.layout.recognises(source):
            return row
    raise UsageError(
        f"{source} has none of the layouts that are recognised by themselves",
        hint=f"--layout NAME ({keys}), --images DIR --labels DIR, or --table FILE.csv",
    )


def _row(key: str) -> LayoutRow:
    return next(row for row in LAYOUTS if row.key == key)
