"""The classes of a data set's labels: value, name, SNOMED code, colour.

`classes.toml` beside the case table lists them; without it a label has one class, hemorrhage = 1.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.files import read_text, write_text
from hemseg_cli.core.names import check_name
from hemseg_cli.core.printable import printable

MOST_CLASSES = 32
"""The largest number of classes in one data set."""


@dataclass(frozen=True)
class LabelClass:
    """One class of a label map.

    `value`: its voxel value, 1 to 255. `key`: its short name in tables, file names and options.
    `snomed`: the SNOMED CT code for DICOM SEG and SR. `colour`: RGB, 0 to 255 each. `parent`: the
    key of the class that it is a kind of, or "".
    """

    value: int
    key: str
    name: str = ""
    snomed: str = ""
    colour: tuple[int, int, int] = (214, 39, 40)
    parent: str = ""


# Of the codes DICOM's own dictionary (PS3.16) has hemorrhage and edema; IPH is "Cerebral hemorrhage
# (disorder)", SAH "Subarachnoid intracranial hemorrhage (disorder)". Those of IVH, SDH and EDH were
# not confirmed against a release of SNOMED CT: compare them before clinical exchange.
PREDEFINED = (
    LabelClass(1, "hemorrhage", "Intracranial hemorrhage", "50960005", (214, 39, 40)),
    LabelClass(2, "IPH", "Intraparenchymal hemorrhage", "274100004", (255, 127, 14), "hemorrhage"),
    LabelClass(3, "IVH", "Intraventricular hemorrhage", "23276006", (31, 119, 180), "hemorrhage"),
    LabelClass(4, "SAH", "Subarachnoid hemorrhage", "21454007", (44, 160, 44), "hemorrhage"),
    LabelClass(5, "SDH", "Subdural hemorrhage", "35486000", (148, 103, 189), "hemorrhage"),
    LabelClass(6, "EDH", "Epidural hemorrhage", "68752002", (227, 119, 194), "hemorrhage"),
    LabelClass(7, "edema", "Perihematomal edema", "79654002", (23, 190, 207)),
)
"""The classes of the field. A data set uses them by key and gives them its own voxel values."""

HEMORRHAGE_ONLY = (PREDEFINED[0],)
"""The classes of a data set without `classes.toml`: HemSeg's labels hold 0 and 1 alone."""

UNION = "union"
"""How tables name all kinds of hemorrhage together; no class may have this key."""


def hemorrhage_kinds(classes: Sequence[LabelClass]) -> tuple[LabelClass, ...]:
    """Return hemorrhage and its kinds, by their parents.

    A predefined key whose parent is not stated has the predefined one.
    """
    parents = _parents(classes)

    def is_hemorrhage(key: str) -> bool:
        # A chain of parents longer than there are classes would be a circle.
        for _ in range(len(parents) + 1):
            if key == HEMORRHAGE_ONLY[0].key:
                return True
            key = parents.get(key, "")
        return False

    return tuple(each for each in classes if is_hemorrhage(each.key))


def nested_class(classes: Sequence[LabelClass]) -> tuple[str, str] | None:
    """Return the keys of the first class that is a kind of another one among them, and of that."""
    parents = _parents(classes)
    keys = {each.key for each in classes}
    return next(((key, parents[key]) for key in sorted(keys) if parents[key] in keys), None)


def _parents(classes: Sequence[LabelClass]) -> dict[str, str]:
    """The key of each class's parent, of the predefined ones too; "" where it has none."""
    parents = {each.key: each.parent for each in PREDEFINED}
    return parents | {each.key: each.parent or parents.get(each.key, "") for each in classes}


def union_classes(classes: Sequence[LabelClass]) -> tuple[LabelClass, ...]:
    """Return the classes that make up the union: hemorrhage and its kinds, without edema.

    All of them where none is a kind of hemorrhage (another organ's classes).
    """
    return hemorrhage_kinds(classes) or tuple(classes)


def read_classes(data: DataDirectory) -> tuple[LabelClass, ...]:
    """Read the classes of a data set, by voxel value.

    FileFormatError names the file and what is wrong in it.
    """
    path = data.classes_file
    if not path.is_file():
        return HEMORRHAGE_ONLY
    try:
        content = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise FileFormatError(f"{path} is not TOML: {printable(str(error))}") from None
    return classes_from_plain(content.get("classes"), place=str(path))


def write_classes(data: DataDirectory, classes: Sequence[LabelClass]) -> None:
    """Write `classes.toml`; FileFormatError for classes that `read_classes` would refuse."""
    import tomli_w

    plain = classes_to_plain(classes)
    classes_from_plain(plain, place=str(data.classes_file))
    write_text(data.classes_file, tomli_w.dumps({"classes": plain}))


def classes_to_plain(classes: Sequence[LabelClass]) -> list[dict[str, Any]]:
    """Return the classes as plain values, for a checkpoint, a sidecar or TOML."""
    return [
        {
            "value": each.value,
            "key": each.key,
            "name": each.name,
            "snomed": each.snomed,
            "colour": list(each.colour),
            "parent": each.parent,
        }
        for each in classes
    ]


def classes_from_plain(plain: object, *, place: str) -> tuple[LabelClass, ...]:
    """Read what `classes_to_plain` returns, from a file called `place`, sorted by voxel value.

    FileFormatError where a value or key is missing, of another type, or stands twice.
    """
    if not isinstance(plain, Sequence) or isinstance(plain, str) or not plain:
        raise FileFormatError(
            f"{place}: no list of classes", hint="[[classes]] tables with value, key"
        )
    if len(plain) > MOST_CLASSES:
        raise FileFormatError(f"{place}: {len(plain)} classes, {MOST_CLASSES} at most")
    classes = tuple(_class(each, f"{place}, class {n}") for n, each in enumerate(plain, start=1))

    for what, found in (
        ("value", [each.value for each in classes]),
        ("key", [each.key for each in classes]),
    ):
        if len(set(found)) < len(found):
            raise FileFormatError(f"{place}: two classes with the same {what}")
    return tuple(sorted(classes, key=lambda each: each.value))


def _class(plain: object, place: str) -> LabelClass:
    if not isinstance(plain, Mapping):
        raise FileFormatError(f"{place} is not a table")
    unknown = sorted(str(key) for key in set(plain) - set(LabelClass.__dataclass_fields__))
    if unknown:
        raise FileFormatError(f"{place}: unknown key {printable(unknown[0])}")

    value = plain.get("value")
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 255:
        raise FileFormatError(f"{place}: value = {value!r} is not a whole number from 1 to 255")
    key = plain.get("key")
    if not isinstance(key, str):
        raise FileFormatError(f"{place}: key = {key!r} is not text")
    check_name(key, what="class key", place=place)
    if key == UNION:
        raise FileFormatError(
            f"{place}: key = {UNION!r} is the name of all classes together",
            hint="give the class another key",
        )

    texts = {}
    for name in ("name", "snomed", "parent"):
        texts[name] = plain.get(name, "")
        if not isinstance(texts[name], str):
            raise FileFormatError(f"{place}: {name} = {texts[name]!r} is not text")
    if not re.fullmatch(r"[0-9]{0,18}", texts["snomed"]):
        raise FileFormatError(f"{place}: snomed = {printable(texts['snomed'])!r} is not a code")
    return LabelClass(value, key, colour=_colour(plain.get("colour"), place), **texts)


def _colour(plain: object, place: str) -> tuple[int, int, int]:
    if plain is None:
        return LabelClass.colour
    if (
        isinstance(plain, Sequence)
        and len(plain) == 3
        and all(isinstance(part, int) and 0 <= part <= 255 for part in plain)
    ):
        return (plain[0], plain[1], plain[2])
    raise FileFormatError(f"{place}: colour = {plain!r} is not three whole numbers from 0 to 255")
