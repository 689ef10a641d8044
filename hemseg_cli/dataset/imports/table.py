"""A table of one's own: `image, label, patient, split`, with any separator that Excel writes."""

from pathlib import Path

from hemseg_cli.core.cases import SPLITS
from hemseg_cli.core.errors import FileFormatError, UsageError
from hemseg_cli.core.files import read_table
from hemseg_cli.core.printable import printable
from hemseg_cli.dataset.imports.layout import Findings, FoundScan, ImportRequest
from hemseg_cli.imaging.file_names import image_name

_COLUMNS: dict[str, type] = {"image": str, "label": str, "patient": str, "split": str, "scan": str}
_OPTIONAL = ("patient", "split", "scan")
_HINT = "columns image and label, and if you like patient, split (train, val, test) and scan"


class TableLayout:
    """Rows of paths, relative to SOURCE or else to the table's own folder."""

    def recognises(self, source: Path) -> bool:
        """Never: a table has to be named (`--table`)."""
        del source
        return False

    def find(self, request: ImportRequest) -> Findings:
        """Take each row whose files exist."""
        table = request.table
        if table is None:
            raise UsageError("layout table needs --table FILE.csv")
        base = request.source or table.parent
        frame = read_table(table, columns=_COLUMNS, optional=_OPTIONAL, hint=_HINT)

        scans: list[FoundScan] = []
        left_out: dict[str, str] = {}
        for line, row in zip(frame.index, frame.to_dict("records"), strict=True):
            place = f"{table}, line {line}"
            split = str(row["split"]).strip().lower()
            if split not in (*SPLITS, ""):
                raise FileFormatError(
                    f"{place}: split = {printable(split)[:40]!r}", hint="train, val, test or empty"
                )
            if not row["image"]:
                raise FileFormatError(f"{place}: no image", hint=_HINT)
            image, label = (base / Path(str(row[key])).expanduser() for key in ("image", "label"))
            if not row["label"]:
                left_out[str(image)] = "no label"
            elif not image.is_file() or not label.is_file():
                missing = image if not image.is_file() else label
                left_out[str(image)] = f"line {line}: {missing} does not exist"
            else:
                name = str(row["scan"]) or image_name(image.name)
                patient = str(row["patient"])
                scans.append(FoundScan(name, image, (label,), patient=patient, split=split))
        return Findings(tuple(scans), left_out, (f"the rows of {table.name}",))
