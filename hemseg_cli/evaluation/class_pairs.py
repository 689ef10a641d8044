"""Which voxel values of a label map and of a mask belong together, class by class.

Classes are joined by key: a data set and a run may give one class different voxel values, and each
may know classes that the other does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hemseg_cli.core.classes import (
    HEMORRHAGE_ONLY,
    UNION,
    LabelClass,
    hemorrhage_kinds,
    union_classes,
)
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.names import first_few
from hemseg_cli.evaluation.surfaces import Foreground, MaskPair

NONE = "none"
"""What a voxel is taken for that is of no class."""


@dataclass(frozen=True)
class ClassPairs:
    """The classes of the truth and of the masks, each by voxel value.

    `scored`: keys of the classes that both know, scored one by one; none where neither side has
    several. `union_truth`, `union_predicted`: the voxel values that are scored together.
    """

    truth: tuple[LabelClass, ...] = HEMORRHAGE_ONLY
    predicted: tuple[LabelClass, ...] = HEMORRHAGE_ONLY
    scored: tuple[str, ...] = ()
    union_truth: tuple[int, ...] = (HEMORRHAGE_ONLY[0].value,)
    union_predicted: tuple[int, ...] = (HEMORRHAGE_ONLY[0].value,)

    @property
    def several(self) -> bool:
        """Whether truth or masks have more than one class."""
        return len(self.truth) > 1 or len(self.predicted) > 1

    @property
    def scored_classes(self) -> tuple[LabelClass, ...]:
        """The truth's classes that are scored one by one."""
        return tuple(each for each in self.truth if each.key in self.scored)

    def values_of(self, key: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the voxel values of a class, or of the `UNION`: of the masks, of the truth.

        None of a class that is not scored.
        """
        if key == UNION:
            return self.union_predicted, self.union_truth
        if key not in self.scored:
            return (), ()

        return (
            tuple(each.value for each in self.predicted if each.key == key),
            tuple(each.value for each in self.truth if each.key == key),
        )

    def of_class(self, pair: MaskPair, key: str) -> MaskPair:
        """Return the masks of one class, or of the `UNION`, of a pair of label maps."""
        predicted, truth = self.values_of(key)
        return MaskPair(
            _foreground_of(pair.prediction, predicted, whole=len(self.predicted)),
            _foreground_of(pair.truth, truth, whole=len(self.truth)),
            pair.steps_mm,
        )

    def taken_for(self, pair: MaskPair, key: str) -> dict[str, int]:
        """Count the voxels of a true class by the class that they were taken for, or `NONE`."""
        value = next(each.value for each in self.truth if each.key == key)

        # The voxels of the true class, and what the prediction says there.
        inside = pair.truth.flat[pair.truth.line[pair.truth.flat] == value]
        values, counts = np.unique(pair.prediction.line[inside], return_counts=True)
        found = dict(zip(values.tolist(), counts.tolist(), strict=True))
        named = {each.key: int(found.get(each.value, 0)) for each in self.predicted}
        return {**named, NONE: int(found.get(0, 0))}


HEMORRHAGE_PAIR = ClassPairs()
"""Hemorrhage = 1 on both sides."""


def pair_classes(
    truth: Sequence[LabelClass], predicted: Sequence[LabelClass], *, name: str
) -> ClassPairs:
    """Join the classes of a data set and of the masks `name` by key.

    A side that knows only hemorrhage is scored against all kinds of the other together. Where both
    know kinds, a predicted kind that the data set has no label of is left out of the union: nothing
    says whether it is right. A true kind that the masks do not know stays in it, as missed.
    HemsegError where the two have nothing in common.
    """
    known, ours = {each.key for each in truth}, {each.key for each in predicted}

    # Scored one by one: what both sides know, if either has more than one class.
    scored = [each.key for each in truth if each.key in ours]
    if len(truth) == 1 and len(predicted) == 1:
        scored = []

    # Hemorrhage of any kind holds every kind, on either side.
    general = HEMORRHAGE_ONLY[0].key
    union_truth = union_classes(truth)
    if general in known:
        union_predicted = hemorrhage_kinds(predicted)
    else:
        union_predicted = tuple(
            each for each in union_classes(predicted) if each.key in known or each.key == general
        )

    # Nothing in common: a score would be 0 for a reason that is not the network's.
    if not union_predicted or not union_truth:
        raise HemsegError(
            f"{name} has the classes {first_few(sorted(ours))}, the labels "
            f"{first_few(sorted(known))}: none is common",
            hint="give them the same keys in classes.toml",
        )
    return ClassPairs(
        tuple(truth),
        tuple(predicted),
        tuple(scored),
        tuple(each.value for each in union_truth),
        tuple(each.value for each in union_predicted),
    )


def class_warnings(pairs: ClassPairs) -> list[str]:
    """Say which classes one side knows and the other does not."""
    if not pairs.several or not pairs.scored:
        return []

    known, ours = {each.key for each in pairs.truth}, {each.key for each in pairs.predicted}
    found = []
    if known - ours:
        found.append(
            f"the labels have classes that the masks do not know: {first_few(sorted(known - ours))}"
        )
    if ours - known:
        found.append(
            "the masks have classes that the labels do not know, and which are not scored: "
            f"{first_few(sorted(ours - known))}"
        )
    return found


def _foreground_of(mask: Foreground, values: Sequence[int], *, whole: int) -> Foreground:
    """Return the voxels of some values; the mask itself where those are all of its `whole`."""
    if len(values) == whole:
        return mask

    # The list of foreground voxels is filtered, so that the whole scan is not read again.
    flat = mask.flat[np.isin(mask.line[mask.flat], np.asarray(values))]
    line = np.zeros(mask.line.size, dtype=np.uint8)
    line[flat] = 1
    return Foreground(mask.shape, line, flat)
