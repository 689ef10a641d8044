"""Plan the scans of a phantom data set: patients, splits, kinds of hemorrhage, volumes, classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, PREDEFINED, LabelClass
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.printable import printable
from hemseg_cli.dataset.imports.class_map import classes_of
from hemseg_cli.dataset.phantom.hemorrhages import BLEEDING_KINDS

HEMORRHAGE = HEMORRHAGE_ONLY[0].key
HEMSEG_KINDS = ("IPH", "IVH")
"""The kinds that HemSeg labels, as one class."""
ALL_CLASSES = tuple(each.key for each in PREDEFINED if each.key != HEMORRHAGE)

_LARGEST_MAIN_ML = 60.0
# Of the published labels a fifth is below 1 mL.
_SMALL_ML, _SMALL_SHARE = 1.0, 0.2
_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0


@dataclass(frozen=True)
class PatientPlan:
    """One patient: the largest hemorrhage `main_ml` is of the kind `main`; none where it is 0."""

    number: int
    split: str
    main: str
    main_ml: float


def phantom_classes(keys: Sequence[str]) -> tuple[LabelClass, ...]:
    """Return the classes with the values 1, 2, ...; UsageError for one that is not drawn."""
    for key in keys:
        if key not in (HEMORRHAGE, *ALL_CLASSES):
            raise UsageError(
                f"class {printable(str(key))[:40]!r} is not drawn",
                hint=f"there are {', '.join((HEMORRHAGE, *ALL_CLASSES))}",
            )
    if not keys or len(set(keys)) < len(keys):
        raise UsageError(f"classes {', '.join(keys) or 'none'}: each once, and one at least")
    return classes_of(list(keys))


def label_values(classes: Sequence[LabelClass]) -> dict[str, int]:
    """Return kind of lesion -> value in the label; `hemorrhage` takes the kinds without a class."""
    values = {each.key: each.value for each in classes}
    rest = values.pop(HEMORRHAGE, None)
    if rest is not None:
        values |= {kind: rest for kind in BLEEDING_KINDS if kind not in values}
    return values


def drawn_kinds(keys: Sequence[str], kinds: Sequence[str] | None) -> tuple[str, ...]:
    """Return the kinds to draw: those asked for, else those of the classes."""
    if kinds is None:
        named = tuple(kind for kind in BLEEDING_KINDS if kind in keys)
        return named or HEMSEG_KINDS
    odd = [kind for kind in kinds if kind not in BLEEDING_KINDS]
    if odd or not kinds:
        raise UsageError(
            f"kind {printable(str(odd[0]))[:40]!r} is not drawn" if odd else "no kind to draw",
            hint=f"there are {', '.join(BLEEDING_KINDS)}",
        )
    return tuple(kinds)


def plan_patients(
    patients: int, *, seed: int, kinds: Sequence[str], healthy: int, smallest_ml: float
) -> list[PatientPlan]:
    """Plan the patients: every split has small and large hemorrhages, and every kind in turn."""
    if not 0 <= healthy < patients:
        raise HemsegError(f"{healthy} of {patients} patients cannot be without hemorrhage")
    rng = np.random.default_rng([seed, 0])

    splits = ["test"] * max(1, round(0.25 * patients)) + ["val"] * max(1, round(0.15 * patients))
    splits += ["train"] * (patients - len(splits))
    splits = [splits[n] for n in rng.permutation(patients)]

    # In the order of the splits kinds follow each other, and volumes by the golden ratio, which
    # spreads any run of them evenly over their distribution.
    ordered = sorted(range(patients), key=lambda n: splits[n])
    main = {n: kinds[place % len(kinds)] for place, n in enumerate(ordered)}
    shares = (float(rng.random()) + np.arange(patients) * _GOLDEN_RATIO) % 1.0
    main_ml = {
        n: _volume_ml(float(share), smallest_ml) for n, share in zip(ordered, shares, strict=True)
    }
    spared = {ordered[int((n + 0.5) * patients / healthy)] for n in range(healthy)}
    return [
        PatientPlan(n, splits[n], main[n], 0.0 if n in spared else main_ml[n])
        for n in range(patients)
    ]


def _volume_ml(share: float, smallest_ml: float) -> float:
    """Return a quantile of the volumes: a fifth below 1 mL, each part even in the logarithm."""
    if smallest_ml >= _SMALL_ML:
        return float(smallest_ml * (_LARGEST_MAIN_ML / smallest_ml) ** share)
    if share < _SMALL_SHARE:
        return float(smallest_ml * (_SMALL_ML / smallest_ml) ** (share / _SMALL_SHARE))
    rest = (share - _SMALL_SHARE) / (1.0 - _SMALL_SHARE)
    return float(_SMALL_ML * (_LARGEST_MAIN_ML / _SMALL_ML) ** rest)
