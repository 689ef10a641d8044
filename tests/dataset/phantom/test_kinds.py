"""Every kind of hemorrhage where it belongs, with the volume asked for, in the label's classes."""

import gzip
import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hemseg_cli.config import load
from hemseg_cli.core.cases import read_cases
from hemseg_cli.core.classes import read_classes
from hemseg_cli.core.errors import UsageError
from hemseg_cli.dataset.conversion.convert import convert
from hemseg_cli.dataset.labels.fetch import fetch_labels
from hemseg_cli.dataset.phantom.anatomy import draw_anatomy
from hemseg_cli.dataset.phantom.dataset import SLICE_FOLDER, make_phantom
from hemseg_cli.dataset.phantom.head import Head
from hemseg_cli.dataset.phantom.hemorrhages import later, with_kinds
from hemseg_cli.dataset.phantom.layers import Crescent, Lens, SulcalBlood
from hemseg_cli.dataset.phantom.lesions import Lesion, VentricleCast
from hemseg_cli.dataset.phantom.plans import plan_patients

FIVE = ("IPH", "IVH", "SAH", "SDH", "EDH")


def _grid(lesion: Lesion) -> list[np.ndarray]:
    """Points 1 mm apart in a box that holds the lesion."""
    axes = [np.arange(at - lesion.reach_mm, at + lesion.reach_mm, 1.0) for at in lesion.centre]
    return np.meshgrid(*axes, indexing="ij")


def _head(seed: int, **volumes_ml: float) -> Head:
    rng = np.random.default_rng(seed)
    kinds = {kind: [volume_ml] for kind, volume_ml in volumes_ml.items()}
    return with_kinds(draw_anatomy(rng), kinds, rng)


@pytest.mark.parametrize("towards", [(1.0, 0.3, 0.2), (-0.5, 1.0, 0.9), (0.4, -1.0, -0.1)])
def test_point_of_the_inner_table_lies_on_it(towards: tuple[float, float, float]) -> None:
    cavity = draw_anatomy(np.random.default_rng(1)).cavity
    point = cavity.inner_table_point(towards)
    assert np.abs(cavity.skull_distance(*np.array(point)[:, None])).item() < 0.01
    assert np.cross(point, towards) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("volume_ml", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("kind", ["IPH", "SAH", "SDH", "EDH"])
def test_lesion_has_the_volume_asked_for_by_counting_points(kind: str, volume_ml: float) -> None:
    (lesion,) = _head(3, **{kind: volume_ml}).hemorrhages
    # Counted on a grid of its own, finer and shifted against the one of the code.
    steps = np.linspace(-1, 1, 101) * lesion.reach_mm * 1.02
    axes = np.meshgrid(*(at + steps for at in lesion.centre), indexing="ij")
    counted = np.count_nonzero(lesion.distance(*axes) < 0) * (steps[1] - steps[0]) ** 3 / 1000
    assert lesion.kind == kind
    assert counted == pytest.approx(volume_ml, rel=0.06)


def test_subdural_blood_lies_on_the_inner_table_of_one_side() -> None:
    head = _head(5, SDH=30.0)
    (crescent,) = head.hemorrhages
    assert isinstance(crescent, Crescent)
    x, y, z = _grid(crescent)
    inside = crescent.distance(x, y, z) < 0
    depth = -head.cavity.brain_distance(x, y, z)[inside]
    # Wide and thin, from the bone inwards, never over the midline.
    assert depth.min() < 1.5
    assert depth.max() < 0.3 * crescent.size_mm
    assert np.sign(x[inside]).min() == np.sign(x[inside]).max()


def test_epidural_blood_is_a_lens_thicker_than_subdural_blood_of_its_volume() -> None:
    thickest = []
    for kind in ("EDH", "SDH"):
        head = _head(5, **{kind: 30.0})
        (lesion,) = head.hemorrhages
        x, y, z = _grid(lesion)
        inside = lesion.distance(x, y, z) < 0
        thickest.append(float(-head.cavity.brain_distance(x, y, z)[inside].min()))
        assert isinstance(lesion, Lens if kind == "EDH" else Crescent)
    assert thickest[0] > 1.5 * thickest[1]


@pytest.mark.parametrize("seed", range(3))
def test_subarachnoid_blood_lies_in_sulci_or_cisterns(seed: int) -> None:
    head = _head(seed, SAH=3.0)
    (blood,) = head.hemorrhages
    assert isinstance(blood, SulcalBlood)
    x, y, z = _grid(blood)
    inside = blood.distance(x, y, z) < 0
    points = [axis[inside] for axis in (x, y, z)]
    depth = -head.cavity.brain_distance(*points)
    cistern = np.min([part.distance(*points) for part in head.cisterns], axis=0) < 0
    # Outside of cisterns it is no deeper than folds are.
    assert depth[~cistern].max(initial=0.0) < 14.0
    assert points[0].size > 2000


def test_blood_in_a_ventricle_has_a_level() -> None:
    head = _head(2, IVH=2.0)
    (cast,) = head.hemorrhages
    assert isinstance(cast, VentricleCast)
    x, y, z = _grid(cast)
    inside = cast.distance(x, y, z) < 0
    ventricle = np.min([part.distance(x, y, z) for part in cast.parts], axis=0) < 0
    assert np.count_nonzero(inside) / 1000 == pytest.approx(2.0, rel=0.06)
    assert y[inside].max() < cast.level_mm <= y[ventricle & ~inside].min() + 1e-9


def test_edema_surrounds_the_blob_outside_of_all_blood_and_ventricles() -> None:
    head = _head(1, IPH=20.0, IVH=1.0)
    (rim,) = head.edema
    x, y, z = _grid(rim)
    inside = rim.distance(x, y, z) < 0
    assert (head.hemorrhages[0].distance(x, y, z)[inside] >= 0).all()
    for part in (part for ventricle in head.ventricles for part in ventricle):
        assert (part.distance(x, y, z)[inside] >= 0).all()
    assert head.edema_ml() == pytest.approx(np.count_nonzero(inside) / 1000, rel=0.05)


def test_follow_up_changes_every_layer_and_the_edema_with_its_blob() -> None:
    head = _head(4, IPH=8.0, SDH=20.0, EDH=10.0)
    before, after = head.truth_ml(), later(head, 0.5).truth_ml()
    assert after == [pytest.approx(volume_ml / 2, rel=0.06) for volume_ml in before]
    assert later(head, 0.5).edema[0].blob == later(head, 0.5).hemorrhages[0]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five kinds and edema, drawn, fetched and converted."""
    root = tmp_path_factory.mktemp("five")
    make_phantom(
        root / "source",
        seed=1,
        patients=6,
        matrix=96,
        slices=(24, 26),
        classes=(*FIVE, "edema"),
        healthy=1,
        smallest_ml=2.0,
    )
    config = load(
        assignments=(
            f"data.root='{root / 'data'}'",
            "data.dataset=five",
            f"fetch.source='{root / 'source'}'",
            f"convert.dicom='{root / 'source' / SLICE_FOLDER}'",
            "compute.workers=0",
        ),
        environ={},
    )
    assert not fetch_labels(config).failed
    assert not convert(config).failed
    return root


def test_data_set_names_its_classes_after_fetching(five: Path) -> None:
    config = load(assignments=(f"data.root='{five / 'data'}'", "data.dataset=five"), environ={})
    classes = read_classes(config.data.directory)
    assert [(each.value, each.key) for each in classes] == [
        *enumerate((*FIVE, "edema"), start=1),
    ]


def test_labelled_voxels_of_each_class_count_its_true_volume(five: Path) -> None:
    truth = json.loads((five / "source" / "truth.json").read_text())["scans"]
    total = dict.fromkeys((*FIVE, "edema"), 0.0)
    counted = dict.fromkeys(total, 0.0)
    for scan in truth:
        path = five / "data" / "five" / scan["split"] / "label" / f"{scan['scan']}.nii.gz"
        label = np.asarray(nib.load(path).dataobj)
        for value, key in enumerate(total, start=1):
            total[key] += scan["class_ml"][key]
            counted[key] += np.count_nonzero(label == value) * scan["voxel_volume_mm3"] / 1000
    assert min(total.values()) > 0.3
    for key, volume_ml in total.items():
        assert counted[key] == pytest.approx(volume_ml, rel=0.12, abs=0.3), key


def test_scan_without_hemorrhage_has_an_empty_label_and_is_converted(five: Path) -> None:
    cases = read_cases(five / "data" / "five" / "cases.csv")
    healthy = [case for case in cases if case.truth_ml == 0]
    assert len({case.patient for case in healthy}) == 1
    assert all((five / "data" / "five" / case.image).is_file() for case in healthy)


def test_what_is_drawn_and_has_no_class_is_not_labelled(tmp_path: Path) -> None:
    scans = make_phantom(
        tmp_path,
        patients=3,
        matrix=64,
        slices=(14, 14),
        classes=("SDH",),
        kinds=("IPH", "SDH"),
        smallest_ml=5.0,
    )
    with zipfile.ZipFile(tmp_path / "labels.zip") as archive:
        for scan in scans:
            data = archive.read(f"phantom/{scan.split}/label/{scan.scan}.nii.gz")
            label = np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(data)).dataobj)
            assert label.any() == (scan.class_ml["SDH"] > 0)
    assert {scan.class_ml["SDH"] > 0 for scan in scans} == {True, False}


@pytest.mark.parametrize("classes", [("tumour",), (), ("IPH", "IPH")])
def test_classes_that_cannot_be_drawn_are_refused(tmp_path: Path, classes: tuple[str]) -> None:
    with pytest.raises(UsageError, match=r"tumour.* is not drawn|each once"):
        make_phantom(tmp_path, classes=classes)


def test_a_fifth_of_the_volumes_is_below_1_ml_and_every_split_has_every_kind() -> None:
    patients = plan_patients(60, seed=2, kinds=FIVE, healthy=6, smallest_ml=0.05)
    volumes = [each.main_ml for each in patients if each.main_ml]
    assert 0.05 <= min(volumes) < 0.1
    assert max(volumes) == pytest.approx(60, rel=0.1)
    assert 7 <= sum(volume < 1 for volume in volumes) <= 12
    for split in ("train", "val", "test"):
        assert {each.main for each in patients if each.split == split} == set(FIVE)
    assert sum(each.main_ml == 0 for each in patients) == 6
    assert {each.split for each in patients if not each.main_ml} == {"train", "val", "test"}
