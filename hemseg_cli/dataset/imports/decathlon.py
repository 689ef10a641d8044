"""The Medical Segmentation Decathlon: `dataset.json` lists the pairs, images without a channel."""

from pathlib import Path, PurePosixPath
from typing import Any

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.printable import printable
from hemseg_cli.dataset.imports.layout import (
    Findings,
    FoundScan,
    ImportRequest,
    check_one_ct_channel,
    read_description,
    source_folder,
)
from hemseg_cli.dataset.imports.nnunet import DESCRIPTION, read_label_names
from hemseg_cli.imaging.file_names import stem

_MOST_SCANS = 100_000


class DecathlonLayout:
    """Pairs that `dataset.json` lists under `training`, and labelled ones under `test`."""

    def recognises(self, source: Path) -> bool:
        """Tell whether there is a description and the folders it speaks of."""
        return (source / DESCRIPTION).is_file() and (source / "imagesTr").is_dir()

    def find(self, request: ImportRequest) -> Findings:
        """Take the pairs as listed; a test image counts where `labelsTs` has its label."""
        source = source_folder(request)
        place = source / DESCRIPTION
        values = read_description(place)
        check_one_ct_channel(place, values.get("modality"))
        names = read_label_names(values.get("labels"), place)

        scans: list[FoundScan] = []
        left_out: dict[str, str] = {}
        for entry in _entries(values, "training", place):
            if not isinstance(entry, dict):
                raise FileFormatError(f"{place}: training lists {printable(str(entry))[:60]}")
            image, label = (_inside(source, entry.get(key), place) for key in ("image", "label"))
            if image.is_file() and label.is_file():
                scans.append(FoundScan(stem(image.name), image, (label,)))
            else:
                missing = image if not image.is_file() else label
                left_out[str(image)] = f"{missing.name} is listed and does not exist"

        for entry in _entries(values, "test", place):
            given = entry.get("image") if isinstance(entry, dict) else entry
            image = _inside(source, given, place)
            label = source / "labelsTs" / image.name
            if image.is_file() and label.is_file():
                scans.append(FoundScan(stem(image.name), image, (label,), split="test"))
            elif image.is_file():
                left_out[str(image)] = "no label"
        return Findings(tuple(scans), left_out, (f"the pairs that {DESCRIPTION} lists",), names)


def _entries(values: dict[str, Any], key: str, place: Path) -> list[Any]:
    entries = values.get(key, [])
    if not isinstance(entries, list) or len(entries) > _MOST_SCANS:
        raise FileFormatError(f"{place}: {key} is not a list of scans")
    return entries


def _inside(source: Path, given: Any, place: Path) -> Path:
    """Return the path of an entry; FileFormatError where it leads out of the source."""
    path = PurePosixPath(given) if isinstance(given, str) else PurePosixPath("..")
    if path.is_absolute() or ".." in path.parts or "\0" in str(given):
        raise FileFormatError(f"{place}: {printable(str(given))[:80]!r} is not a file below it")
    return source / path
