"""Classes of truth and masks joined by key: what is scored one by one, and what together."""

import numpy as np
import pytest

from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass, hemorrhage_kinds, union_classes
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.evaluation.class_pairs import ClassPairs, class_warnings, pair_classes
from hemseg_cli.evaluation.surfaces import mask_pair


def classes(**values: int) -> tuple[LabelClass, ...]:
    """Classes by key and value, kinds of hemorrhage by their predefined keys."""
    return tuple(LabelClass(value, key) for key, value in values.items())


def paired(truth: tuple[LabelClass, ...], predicted: tuple[LabelClass, ...]) -> ClassPairs:
    return pair_classes(truth, predicted, name="run a")


def test_one_class_on_both_sides_is_scored_once() -> None:
    pairs = paired(HEMORRHAGE_ONLY, HEMORRHAGE_ONLY)
    assert (pairs.scored, pairs.several) == ((), False)
    assert (pairs.union_truth, pairs.union_predicted) == ((1,), (1,))


def test_classes_are_joined_by_key_whatever_their_values() -> None:
    pairs = paired(classes(IPH=1, IVH=2, SDH=5), classes(SDH=1, IPH=4, IVH=9))
    assert pairs.scored == ("IPH", "IVH", "SDH")
    truth = np.array([0, 1, 2, 5, 5, 1], dtype=np.uint8).reshape(1, 1, 6)
    predicted = np.array([4, 4, 9, 1, 0, 9], dtype=np.uint8).reshape(1, 1, 6)
    maps = mask_pair(predicted, truth, (1, 1, 1))

    sdh = pairs.of_class(maps, "SDH")
    assert (sdh.truth.flat.tolist(), sdh.prediction.flat.tolist()) == ([3, 4], [3])
    assert pairs.taken_for(maps, "IPH") == {"SDH": 0, "IPH": 1, "IVH": 1, "none": 0}
    assert pairs.taken_for(maps, "SDH") == {"SDH": 1, "IPH": 0, "IVH": 0, "none": 1}


def test_edema_is_no_hemorrhage_and_not_in_the_union() -> None:
    both = classes(IPH=2, edema=7)
    assert [each.key for each in union_classes(both)] == ["IPH"]
    pairs = paired(both, both)
    assert pairs.scored == ("IPH", "edema")
    assert (pairs.union_truth, pairs.union_predicted) == ((2,), (2,))


def test_labels_of_any_hemorrhage_take_every_kind_that_is_predicted() -> None:
    pairs = paired(HEMORRHAGE_ONLY, classes(IPH=1, SAH=2, edema=3))
    assert pairs.scored == ()
    assert (pairs.union_truth, pairs.union_predicted) == ((1,), (1, 2))


def test_masks_of_any_hemorrhage_are_scored_against_every_kind() -> None:
    pairs = paired(classes(IPH=3, EDH=4, edema=5), HEMORRHAGE_ONLY)
    assert pairs.scored == ()
    assert (pairs.union_truth, pairs.union_predicted) == ((3, 4), (1,))


def test_a_kind_that_has_no_label_is_out_of_the_union_and_said() -> None:
    pairs = paired(classes(IPH=1, IVH=2), classes(IPH=1, IVH=2, SAH=3))
    assert pairs.union_predicted == (1, 2)
    assert class_warnings(pairs) == [
        "the masks have classes that the labels do not know, and which are not scored: SAH"
    ]


def test_a_kind_that_the_masks_do_not_know_is_missed_in_the_union_and_said() -> None:
    pairs = paired(classes(IPH=1, SAH=2), classes(IPH=1))
    assert (pairs.scored, pairs.union_truth) == (("IPH",), (1, 2))
    assert class_warnings(pairs) == ["the labels have classes that the masks do not know: SAH"]


def test_classes_of_another_organ_are_all_in_the_union() -> None:
    both = classes(liver=1, tumour=2)
    assert hemorrhage_kinds(both) == ()
    assert paired(both, both).union_truth == (1, 2)


def test_a_circle_of_parents_ends() -> None:
    circle = (LabelClass(1, "a", parent="b"), LabelClass(2, "b", parent="a"))
    assert hemorrhage_kinds(circle) == ()


def test_a_kind_of_ones_own_is_hemorrhage_by_its_parents() -> None:
    own = (LabelClass(1, "thalamic", parent="IPH"), LabelClass(2, "edema"))
    assert [each.key for each in hemorrhage_kinds(own)] == ["thalamic"]


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        (classes(liver=1), classes(tumour=1)),
        (classes(IPH=1), classes(SAH=1)),
        (HEMORRHAGE_ONLY, classes(liver=1)),
    ],
)
def test_classes_without_one_in_common_are_refused_by_name(
    truth: tuple[LabelClass, ...], predicted: tuple[LabelClass, ...]
) -> None:
    with pytest.raises(HemsegError, match=rf"run a has the classes {predicted[0].key}"):
        paired(truth, predicted)
