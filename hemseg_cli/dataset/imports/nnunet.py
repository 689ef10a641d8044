"""nnU-Net's raw data: `dataset.json`, `imagesTr/X_0000.nii.gz`, `labelsTr/X.nii.gz`, `imagesTs`.

Version 1 (`modality`, `labels` by value) and version 2 (`channel_names`, `labels` by name) both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.printable import printable
from hemseg_cli.dataset.imports.layout import (
    Findings,
    FoundScan,
    ImportRequest,
    check_one_ct_channel,
    nifti_files,
    read_description,
    source_folder,
)
from hemseg_cli.dataset.imports.pairing import join_by_name

DESCRIPTION = "dataset.json"
_FOLDERS = (("", "imagesTr", "labelsTr"), ("test", "imagesTs", "labelsTs"))


class NnunetLayout:
    """nnU-Net's folders, with labels of the test scans where there are some."""

    def recognises(self, source: Path) -> bool:
        """Tell whether the training folders are there and images carry a channel number."""
        images = nifti_files(source / "imagesTr")
        numbered = any("_0000.nii" in path.name.lower() for path in images)
        return (source / "labelsTr").is_dir() and numbered

    def find(self, request: ImportRequest) -> Findings:
        """Find the training scans, and the test scans that have labels."""
        source = source_folder(request)
        description = source / DESCRIPTION
        names = None
        if description.is_file():
            values = read_description(description)
            check_one_ct_channel(description, values.get("channel_names", values.get("modality")))
            order = values.get("regions_class_order")
            names = read_label_names(values.get("labels"), description, order)

        scans: list[FoundScan] = []
        left_out: dict[str, str] = {}
        for split, image_folder, label_folder in _FOLDERS:
            images = nifti_files(source / image_folder)
            more = [path for path in images if _channel(path) not in ("", "0000")]
            if more:
                raise FileFormatError(
                    f"{source / image_folder}: {printable(more[0].name)} is a second channel",
                    hint="only data sets of one CT channel are imported",
                )
            joined = join_by_name(images, nifti_files(source / label_folder))
            scans += [
                FoundScan(name, image, (label,), split=split) for name, image, label in joined.pairs
            ]
            left_out |= joined.left_out

        rules = ["imagesTr with labelsTr; imagesTs with labelsTs, where they are, as test"]
        return Findings(tuple(scans), left_out, tuple(rules), names)


def read_label_names(labels: Any, place: Path, order: Any = None) -> dict[int, str] | None:
    """Read value -> name from the `labels` of a `dataset.json`, of either version.

    Regions (`{"hemorrhage": [1, 2], "IVH": [2]}`) are drawn one over the other: `order`, its
    `regions_class_order`, gives the value of what each region has for itself.
    """
    if not isinstance(labels, Mapping):
        return None
    if order is not None:
        return _read_regions(labels, place, order)
    names: dict[int, str] = {}
    for key, value in labels.items():
        # Version 1 is {"1": "IPH"}, version 2 {"IPH": 1}; regions are {"whole": [1, 2]}.
        if isinstance(value, list | tuple):
            raise FileFormatError(
                f"{place}: label {printable(str(key))[:40]} is a region of several values",
                hint="regions_class_order says what the values mean, or --classes hemorrhage=1-5",
            )
        text, number = (value, key) if isinstance(value, str) else (key, value)
        if isinstance(number, str) and number.isascii() and number.isdecimal():
            number = int(number[:9])
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= 255:
            raise FileFormatError(
                f"{place}: labels: {printable(str(text))[:40]} = {printable(str(number))[:40]} is "
                "not a value from 0 to 255"
            )
        if number > 0 and text != "ignore":
            names[number] = str(text)
    return names or None


def _read_regions(labels: Mapping[Any, Any], place: Path, order: Any) -> dict[int, str]:
    """Read value -> region; FileFormatError where the order does not fit the regions."""
    regions = [
        (str(name), value)
        for name, value in labels.items()
        if str(name) not in ("background", "ignore") and value != 0
    ]
    fits = (
        isinstance(order, list)
        and len(order) == len(regions) == len({str(value) for value in order})
        and all(type(value) is int and 1 <= value <= 255 for value in order)
    )
    if fits:
        members = [value if isinstance(value, list) else [value] for _, value in regions]
        fits = all(value in own for value, own in zip(order, members, strict=True))
    if not fits:
        raise FileFormatError(
            f"{place}: regions_class_order = {printable(str(order))[:60]} does not give each of "
            f"{len(regions)} regions one of its values",
            hint="--classes hemorrhage=1-5 says what the values mean, without dataset.json's words",
        )
    return {value: name for value, (name, _) in zip(order, regions, strict=True)}


def _channel(path: Path) -> str:
    """Return the four digits behind an image's name, empty where there are none."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".nii")
    digits = name.rpartition("_")[2]
    return digits if len(digits) == 4 and digits.isdecimal() and "_" in name else ""
