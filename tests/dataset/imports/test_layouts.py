"""Each layout is recognised by itself and gives the scans that its folder holds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.config import load
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.core.errors import FileFormatError, HemsegError, UsageError
from hemseg_cli.dataset.health.dataset import check_data
from hemseg_cli.dataset.imports.import_dataset import import_dataset
from hemseg_cli.dataset.imports.layout import ImportRequest
from hemseg_cli.dataset.imports.layouts import LAYOUTS, choose_layout
from hemseg_cli.dataset.imports.result import ImportResult
from hemseg_cli.imaging.nifti import read_volume
from tests.dataset.imports.sources import (
    config_for,
    head,
    label,
    write_json,
    write_nifti,
    write_pair,
)

FIVE = {"background": 0, "epidural": 1, "intraparenchymal": 2, "intraventricular": 3}


def run(root: Path, source: Path | None, **options: Any) -> ImportResult:
    return import_dataset(config_for(root), ImportRequest(source, name="mine", **options))


def nnunet(root: Path, *, version: int = 2, channels: Any = None) -> Path:
    for n in range(4):
        write_pair(
            root / "imagesTr" / f"ICH_{n:03d}_0000.nii.gz",
            root / "labelsTr" / f"ICH_{n:03d}.nii.gz",
            seed=n,
            boxes={1 + n % 3: 10},
        )
    write_pair(
        root / "imagesTs" / "ICH_100_0000.nii.gz", root / "labelsTs" / "ICH_100.nii.gz", seed=7
    )
    write_nifti(root / "imagesTs" / "ICH_101_0000.nii.gz", head(8))
    v1 = {"modality": channels or {"0": "CT"}, "labels": {str(v): k for k, v in FIVE.items()}}
    v2 = {"channel_names": channels or {"0": "CT"}, "labels": FIVE, "file_ending": ".nii.gz"}
    write_json(root / "dataset.json", v1 if version == 1 else v2)
    return root


def decathlon(root: Path) -> Path:
    for n in range(4):
        write_pair(
            root / "imagesTr" / f"bleed_{n}.nii.gz", root / "labelsTr" / f"bleed_{n}.nii.gz", seed=n
        )
    write_nifti(root / "imagesTs" / "bleed_9.nii.gz", head(9))
    pairs = [
        {"image": f"./imagesTr/bleed_{n}.nii.gz", "label": f"./labelsTr/bleed_{n}.nii.gz"}
        for n in range(4)
    ]
    values = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "hemorrhage"},
        "training": pairs,
        "test": ["./imagesTs/bleed_9.nii.gz"],
    }
    write_json(root / "dataset.json", values)
    return root


def bids(root: Path) -> Path:
    for n in range(4):
        session = root / f"sub-{n:02d}" / "ses-1" / "ct"
        name = f"sub-{n:02d}_ses-1"
        mask = root / "derivatives" / "manual" / f"sub-{n:02d}" / "ses-1" / "ct"
        write_pair(
            session / f"{name}_ct.nii.gz", mask / f"{name}_desc-hemorrhage_mask.nii.gz", seed=n
        )
    write_pair(
        root / "sub-00" / "ses-2" / "ct" / "sub-00_ses-2_ct.nii.gz",
        root / "derivatives" / "manual" / "sub-00" / "ses-2" / "sub-00_ses-2_mask.nii.gz",
        seed=20,
    )
    write_nifti(root / "sub-09" / "anat" / "sub-09_ct.nii.gz", head(30))
    write_nifti(root / "sub-09" / "anat" / "sub-09_T1w.nii.gz", head(31))
    return root


def folders(root: Path) -> Path:
    endings = ("", "_mask", "_seg", "-label")
    for n, ending in enumerate(endings):
        write_pair(root / "images" / f"a{n}.nii.gz", root / "labels" / f"a{n}{ending}.nii", seed=n)
    write_pair(root / "images" / "b_0000.NII.GZ", root / "labels" / "b.nii.gz", seed=9)
    return root


def case_folders(root: Path) -> Path:
    for n in range(4):
        write_pair(root / f"p{n}" / "image.nii.gz", root / f"p{n}" / "label.nii.gz", seed=n)
    write_nifti(root / "p9" / "image.nii.gz", head(9))
    return root


MAKERS: dict[str, tuple[Callable[[Path], Path], int, dict[str, str]]] = {
    "nnunet": (nnunet, 5, {"ICH_101_0000.nii.gz": "no label"}),
    "decathlon": (decathlon, 4, {"bleed_9.nii.gz": "no label"}),
    "bids": (bids, 5, {"sub-09_ct.nii.gz": "no label"}),
    "folders": (folders, 5, {}),
    "case-folders": (case_folders, 4, {"image.nii.gz": "no label"}),
}


@pytest.mark.parametrize("key", MAKERS)
def test_a_layout_is_recognised_and_its_scans_are_imported(tmp_path: Path, key: str) -> None:
    make, scans, left_out = MAKERS[key]
    source = make(tmp_path / "source")
    assert choose_layout(ImportRequest(source, name="mine")).key == key
    result = run(tmp_path, source)
    assert (result.layout, len(result.cases), result.failures) == (key, scans, {})
    assert {Path(name).name: why for name, why in result.left_out.items()} == left_out
    assert result.failed is False
    for case in result.cases:
        assert (result.folder / case.label).is_file()
        assert (result.folder / case.image).is_file()
    assert run(tmp_path, source, layout=key).cases == result.cases


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet_names_its_classes_and_its_test_scans(tmp_path: Path, version: int) -> None:
    result = run(tmp_path, nnunet(tmp_path / "source", version=version))
    assert [(one.value, one.key) for one in result.classes] == [(1, "EDH"), (2, "IPH"), (3, "IVH")]
    assert [one.scans for one in result.classes] == [3, 1, 1]
    by_split = {case.scan: case.split for case in result.cases}
    assert by_split["ICH_100"] == "test"
    assert sorted(set(by_split.values())) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("channels", "words"),
    [({"0": "CT", "1": "T1"}, "2 channels"), ({"0": "T1"}, "not CT"), ("FLAIR", "not CT")],
)
def test_other_channels_are_refused(tmp_path: Path, channels: Any, words: str) -> None:
    source = nnunet(tmp_path / "source", channels=channels)
    with pytest.raises(FileFormatError, match=words):
        run(tmp_path, source)


def test_a_second_channel_on_the_disk_is_refused(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "source")
    write_nifti(source / "imagesTr" / "ICH_000_0001.nii.gz", head(0))
    with pytest.raises(FileFormatError, match="second channel"):
        run(tmp_path, source)


def test_bids_keeps_a_subjects_sessions_in_one_split(tmp_path: Path) -> None:
    result = run(tmp_path, bids(tmp_path / "source"))
    splits = {case.split for case in result.cases if case.patient == "sub-00"}
    assert len(splits) == 1
    assert len({case.patient for case in result.cases}) == 4


@pytest.mark.parametrize(
    ("separator", "mark"), [(",", ""), (";", ""), ("\t", ""), (";", "\ufeff")], ids=repr
)
def test_a_table_says_scan_patient_and_split(tmp_path: Path, separator: str, mark: str) -> None:
    for n in range(4):
        write_pair(tmp_path / "x" / f"i{n}.nii.gz", tmp_path / "y" / f"l{n}.nii.gz", seed=n)
    rows = [("image", "label", "patient", "split")]
    splits = ("train", "train", "val", "test")
    rows += [(f"x/i{n}.nii.gz", f"y/l{n}.nii.gz", f"P{n}", splits[n]) for n in range(4)]
    rows += [("x/none.nii.gz", "y/none.nii.gz", "P9", "train")]
    text = mark + "".join(separator.join(row) + "\r\n" for row in rows)
    (tmp_path / "mine.csv").write_bytes(text.encode())
    result = run(tmp_path, None, table=tmp_path / "mine.csv")
    assert {case.scan: (case.patient, case.split) for case in result.cases} == {
        f"i{n}": (f"P{n}", splits[n]) for n in range(4)
    }
    (why,) = result.left_out.values()
    assert "none.nii.gz does not exist" in why


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,patient\na,b\n", "no column label"),
        ("image,label,split\na,b,training\n", "line 2: split = 'training'"),
        ("image,label\n,b\n", "line 2: no image"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.csv").write_text(text)
    with pytest.raises(FileFormatError, match=words):
        run(tmp_path, None, table=tmp_path / "mine.csv")


def raters(root: Path) -> Path:
    """Three raters: all mark voxel 10, two mark 11, one marks 12."""
    for n in range(3):
        folder = root / f"ID_{n:08x}_ID_{n:010x}"
        write_nifti(folder / "image.nii.gz", head(n))
        for rater, last in (("1", 10), ("2", 11), ("5", 12)):
            voxels = label({})
            voxels[10 : last + 1, 10, 2] = 2
            write_nifti(folder / f"label_annot_{rater}.nii.gz", voxels)
    return root


@pytest.mark.parametrize(("rater", "voxels"), [(None, 2), ("majority", 2), ("1", 1), ("5", 3)])
def test_raters_are_picked_or_outvoted(tmp_path: Path, rater: str | None, voxels: int) -> None:
    source = raters(tmp_path / "source")
    result = run(tmp_path, source, layout="mbh-seg", rater=rater)
    by_key = {one.key: one for one in result.classes}
    assert by_key["IPH"].volume_ml == pytest.approx(3 * voxels * 0.36)
    assert {case.patient for case in result.cases} == {f"ID_{n:08x}" for n in range(3)}
    # by hand: 1 of 1 and 2, 1 of 1 and 3, 2 of 2 and 3 voxels in common
    mean = (2 / 3 + 2 / 4 + 4 / 5) / 3
    assert result.rater_dice == (None if rater in ("1", "5") else pytest.approx(mean))
    assert "Wu et al." in result.citation
    options = {"data.root": str(tmp_path / "data"), "data.dataset": "mine", "compute.workers": 0}
    lines = check_data(load(None, options=options, environ={})).warnings()
    assert any("mean Dice of 0.656" in line for line in lines) == (rater not in ("1", "5"))


def test_a_rater_that_is_none_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such rater") as caught:
        run(tmp_path, raters(tmp_path / "source"), layout="mbh-seg", rater="7")
    assert caught.value.hint == "there are 1, 2, 5"


def ct_ich(root: Path) -> Path:
    for n in (49, 50, 51):
        voxels = label({1: n - 40}) * 255
        write_nifti(root / "ct_scans" / f"{n:03d}.nii", head(n))
        write_nifti(root / "masks" / f"{n:03d}.nii", voxels)
    return root


def instance22(root: Path) -> Path:
    for n in (1, 2, 3):
        write_pair(
            root / "train_2" / "data" / f"{n:03d}.nii.gz",
            root / "train_2" / "label" / f"{n:03d}.nii.gz",
            seed=n,
        )
    return root


def seg_cq500(root: Path) -> Path:
    for n in (1, 2, 3):
        folder = root / "data" / "volumes" / f"CQ500-CT-{n}"
        write_pair(folder / "CT.nii", folder / "ICH_mask.nii.gz", seed=n)
    return root


def bhsd(root: Path) -> Path:
    for n in (1, 2, 3):
        name = f"ID_{n:08x}_ID_{n:010x}.nii.gz"
        write_pair(
            root / "label_192" / "images" / name,
            root / "label_192" / "ground truths" / name,
            seed=n,
            boxes={n: 10},
        )
    return root


@pytest.mark.parametrize(
    ("key", "make", "first_class"),
    [
        ("ct-ich", ct_ich, "hemorrhage"),
        ("instance22", instance22, "hemorrhage"),
        ("seg-cq500", seg_cq500, "hemorrhage"),
        ("hemorica", case_folders, "hemorrhage"),
        ("bhsd", bhsd, "EDH"),
    ],
)
def test_named_sets_bring_classes_licence_and_citation(
    tmp_path: Path, key: str, make: Callable[[Path], Path], first_class: str
) -> None:
    result = run(tmp_path, make(tmp_path / "source"), layout=key)
    assert (len(result.cases), result.failures) == (4 if key == "hemorica" else 3, {})
    assert result.classes[0].key == first_class
    assert result.licence
    assert result.citation
    assert result.citation in (result.folder / "source.json").read_text()


def test_a_layout_that_is_none_and_a_folder_of_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such layout") as caught:
        run(tmp_path, tmp_path, layout="dicom")
    assert all(row.key in caught.value.hint for row in LAYOUTS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="none of the layouts"):
        run(tmp_path, tmp_path / "empty")
    with pytest.raises(UsageError, match="not a folder"):
        run(tmp_path, tmp_path / "absent")
    with pytest.raises(HemsegError, match="no pair"):
        run(tmp_path, tmp_path / "empty", layout="case-folders")


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"training": 5},
        {"training": [5]},
        {"training": [{"image": "../x.nii.gz", "label": "y.nii.gz"}]},
        {"training": [{"image": "/etc/passwd", "label": "y.nii.gz"}]},
        {"labels": {"whole": [1, 2]}},
        {"labels": {"IPH": "many"}},
        {"labels": {"IPH": 4000}},
        {"modality": {str(n): "CT" for n in range(50_000)}},
    ],
)
def test_a_description_of_another_form_is_named(tmp_path: Path, values: Any) -> None:
    source = decathlon(tmp_path / "source")
    write_json(source / "dataset.json", values)
    with pytest.raises(FileFormatError, match=r"dataset\.json") as caught:
        run(tmp_path, source, layout="decathlon")
    assert len(caught.value.message) < 600


def test_one_label_file_a_class_makes_a_label_map_of_classes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for n in range(3):
        write_nifti(source / f"p{n}" / "image.nii.gz", head(n))
        write_nifti(source / f"p{n}" / "label_IVH.nii.gz", label({1: 10}))
        write_nifti(source / f"p{n}" / "subdural_mask.nii.gz", label({2: 3, 255: 17}))
    result = run(tmp_path, source)
    classes = {each.key: each.value for each in read_classes(DataDirectory(result.folder))}
    assert classes == {"IVH": 1, "SDH": 2}
    for case in result.cases:
        # The boxes' first rows lie on each other: there the lower value stands.
        array = read_volume(result.folder / case.label).array
        ivh, sdh = label({1: 10}) > 0, label({2: 3, 255: 17}) > 0
        assert (np.sort(np.unique(array)) == [0, 1, 2]).all()
        assert (array == 1).sum() == ivh.sum()
        assert (array == 2).sum() == (sdh & ~ivh).sum()


def test_labels_that_are_not_called_after_classes_stay_raters(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for n in range(3):
        write_nifti(source / f"p{n}" / "image.nii.gz", head(n))
        write_nifti(source / f"p{n}" / "label_smith.nii.gz", label({1: 10}))
        write_nifti(source / f"p{n}" / "label_IVH.nii.gz", label({1: 10}))
    result = run(tmp_path, source)
    assert read_classes(DataDirectory(result.folder)) == HEMORRHAGE_ONLY


def test_regions_of_nnunet_name_the_value_that_each_has_for_itself(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "source")
    regions = {"background": 0, "hemorrhage": [1, 2, 3], "IVH": [2, 3], "edema": [3]}
    description = {"channel_names": {"0": "CT"}, "labels": regions, "file_ending": ".nii.gz"}
    write_json(source / "dataset.json", description | {"regions_class_order": [1, 2, 3]})
    result = run(tmp_path, source)
    classes = {each.value: each.key for each in read_classes(DataDirectory(result.folder))}
    assert classes == {1: "hemorrhage", 2: "IVH", 3: "edema"}


@pytest.mark.parametrize("order", [[1, 2], [1, 1, 3], [3, 2, 1], "1, 2, 3", [0, 2, 3]])
def test_an_order_that_does_not_fit_the_regions_is_refused(tmp_path: Path, order: Any) -> None:
    source = nnunet(tmp_path / "source")
    regions = {"background": 0, "hemorrhage": [1, 2], "IVH": [2], "edema": [3]}
    description = {"channel_names": {"0": "CT"}, "labels": regions}
    write_json(source / "dataset.json", description | {"regions_class_order": order})
    with pytest.raises(FileFormatError, match=r"dataset\.json: regions_class_order"):
        run(tmp_path, source)
