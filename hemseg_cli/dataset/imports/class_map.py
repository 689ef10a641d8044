"""Which value of the source's labels becomes which class of the data set."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, MOST_CLASSES, PREDEFINED, LabelClass
from hemseg_cli.core.errors import CaseError, UsageError
from hemseg_cli.core.names import check_scan_id, first_few
from hemseg_cli.core.printable import printable

BACKGROUND = "background"
_MOST_VALUE = 255
_ASSIGNMENT = re.compile(r"(?P<key>[^=]+)=(?P<first>[0-9]{1,3})(-(?P<last>[0-9]{1,3}))?")
_EXAMPLE = "--classes IPH=1,IVH=2   or, to merge, --classes hemorrhage=1-5"

# Words of the field, as sources spell them, in the order in which they are looked for.
_WORDS = (
    ("edema", ("edema", "oedema", "phe", "perihematomal")),
    ("EDH", ("edh", "eph", "epidural", "extradural")),
    ("SDH", ("sdh", "subdural")),
    ("SAH", ("sah", "subarachnoid")),
    ("IVH", ("ivh", "intraventricular")),
    ("IPH", ("iph", "intraparenchymal", "intracerebral")),
    (
        "hemorrhage",
        ("hemorrhage", "haemorrhage", "hematoma", "haematoma", "ich", "bleed", "lesion"),
    ),
)


@dataclass(frozen=True)
class ClassMap:
    """`values`: value in the source -> value here, 0 for background; `classes`: those here."""

    values: Mapping[int, int]
    classes: tuple[LabelClass, ...]

    def apply(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map a label; CaseError names values that no class has."""
        present = np.unique(label)
        odd = [int(value) for value in present if value and int(value) not in self.values]
        if odd:
            known = first_few(sorted(self.values))
            raise CaseError(
                f"the label holds {first_few(odd)}; known are 0 and {known}", hint=_EXAMPLE
            )
        table = np.zeros(_MOST_VALUE + 1, dtype=np.uint8)
        for source, target in self.values.items():
            table[source] = target
        return np.asarray(table[label], dtype=np.uint8)


def parse_classes(text: str) -> ClassMap:
    """Read `--classes IPH=1,IVH=2` or `hemorrhage=1-5`; the key `background` drops a value.

    Classes are numbered 1, 2, ... in the order given. UsageError names what is wrong.
    """
    values: dict[int, int] = {}
    keys: list[str] = []
    for part in text.split(","):
        match = _ASSIGNMENT.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"--classes: {printable(part)[:60]!r} is not KEY=VALUE", hint=_EXAMPLE)
        key, first = match["key"].strip(), int(match["first"])
        last = int(match["last"] or first)
        if not 1 <= first <= last <= _MOST_VALUE:
            raise UsageError(f"--classes: {part.strip()}: values go from 1 to {_MOST_VALUE}")

        if key != BACKGROUND and key not in keys:
            check_scan_id(key, place="--classes")
            keys.append(key)
        target = 0 if key == BACKGROUND else keys.index(key) + 1
        for value in range(first, last + 1):
            if value in values:
                raise UsageError(f"--classes: value {value} stands there twice", hint=_EXAMPLE)
            values[value] = target
    if not keys:
        raise UsageError("--classes names no class but background", hint=_EXAMPLE)
    return ClassMap(values, classes_of(keys))


def classes_of(keys: list[str]) -> tuple[LabelClass, ...]:
    """Make classes of keys, numbered from 1; those of the field keep name, code and colour."""
    if len(keys) > MOST_CLASSES:
        raise UsageError(f"{len(keys)} classes; a data set has {MOST_CLASSES} at most")
    predefined = {one.key: one for one in PREDEFINED}
    return tuple(
        dataclasses.replace(predefined[key], value=value)
        if key in predefined
        else LabelClass(value, key, name=key)
        for value, key in enumerate(keys, start=1)
    )


def map_named_values(names: Mapping[int, str]) -> ClassMap:
    """Map values that the source names; words of the field become the classes of the field."""
    values, keys = {}, []
    for value in sorted(names):
        key = _key_of(names[value])
        if key in keys:
            key = f"{key}-{value}"  # two values of one word stay two classes: nothing is merged
        keys.append(key)
        values[value] = len(keys)
    return ClassMap(values, classes_of(keys))


def map_found_values(found: frozenset[int]) -> ClassMap:
    """Map the values that labels hold where nobody says what they mean.

    One value (1, or 255) is hemorrhage. UsageError where there are several: they would be guessed.
    """
    if len(found) > 1:
        raise UsageError(
            f"the labels hold {first_few(sorted(found), 8)}, and nothing says what they mean",
            hint=_EXAMPLE,
        )
    return ClassMap(dict.fromkeys(found, 1) or {1: 1}, HEMORRHAGE_ONLY)


def known_class(name: str) -> str | None:
    """Return the key of the field's class that a name speaks of, None where it speaks of none."""
    words = re.findall(r"[a-z]+", name.lower())
    for key, spellings in _WORDS:
        if any(word.startswith(spelling) for word in words for spelling in spellings):
            return key
    return None


def _key_of(name: str) -> str:
    """Return the class of the field that a name speaks of, else the name fit for a file."""
    fit = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:40]
    return known_class(name) or fit or "class"
