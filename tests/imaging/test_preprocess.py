import gzip
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityRanged,
    Spacing,
    Spacingd,
)
from numpy.typing import NDArray

from hemseg_cli.config import load
from hemseg_cli.core.errors import CaseError, FileFormatError
from hemseg_cli.imaging.geometry import Affine
from hemseg_cli.imaging.nifti import Volume
from hemseg_cli.imaging.preprocess import (
    HuWindow,
    Preprocess,
    network_grid,
    prepare_image,
    prepare_label,
    restore_probability,
)
from hemseg_cli.training.cache import preprocess_of

PAPER = preprocess_of(
    load(assignments=["train.recipe=paper", "train.model=unet"], environ={}).train
)


def _published_headers(shared_data: Path) -> list[tuple[str, tuple[int, int, int], Affine]]:
    """Name, shape and affine of each published HemSeg-200 label."""
    with zipfile.ZipFile(shared_data / "hemseg" / "IPH_IVH_label.zip") as archive:
        images = [
            (name, nib.Nifti1Image.from_bytes(gzip.decompress(archive.read(name))))
            for name in archive.namelist()
            if name.endswith(".nii.gz")
        ]
    return [(name, image.shape, image.affine) for name, image in images]


def _affine(
    spacing_mm: tuple[float, float, float],
    tilt_deg: float,
    axes: tuple[int, int, int],
    flip: tuple[int, int, int],
) -> Affine:
    t = np.deg2rad(tilt_deg)
    steps = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]]) @ np.diag(
        spacing_mm
    )
    affine = np.eye(4)
    affine[:3, :3] = steps[:, axes] * np.where(flip, -1, 1)
    affine[:3, 3] = (-20, 11, 5)
    return affine


def _head(
    shape: tuple[int, int, int], axes: tuple[int, int, int]
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Air, a skull, noisy brain and a bleeding, with the anatomical axes laid onto the array's."""
    random = np.random.default_rng(1)
    anatomical = tuple(shape[list(axes).index(n)] for n in range(3))
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in anatomical), indexing="ij"))
    radius = np.sqrt((places**2).sum(0))
    label = ((places - 0.2) ** 2).sum(0) < 0.15
    hu = np.where(
        radius < 0.9,
        np.where(label, 62, 33) + random.normal(0, 4, anatomical),
        np.where(radius < 1.05, 900, -1000),
    )
    return hu.astype(np.int16).transpose(axes), label.astype(np.uint8).transpose(axes)


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "tilt_deg", "axes", "flip"),
    [
        ((40, 36, 9), (0.5, 0.5, 5.0), 0.0, (0, 1, 2), (1, 1, 0)),
        ((44, 40, 9), (0.43, 0.43, 5.27), 18.5, (0, 1, 2), (1, 1, 0)),
        ((64, 64, 8), (0.48828125, 0.48828125, 5.0), -25.0, (0, 1, 2), (0, 1, 1)),
        ((9, 40, 36), (0.45, 0.6, 5.0), 10.0, (2, 0, 1), (0, 1, 1)),
        ((33, 47, 24), (0.6, 0.6, 2.5), 30.0, (1, 0, 2), (1, 0, 1)),
    ],
)
def test_paper_preprocessing_is_what_monais_chain_gives(shape, spacing_mm, tilt_deg, axes, flip):
    image, label = _head(shape, axes)
    affine = _affine(spacing_mm, tilt_deg, axes, flip)
    spacing = (0.4882810115814209, 0.4882810115814209, 4.649400138854981)
    low, high = 11.99969482421875, 79.0
    chain = Compose(
        [
            Orientationd(["image", "label"], axcodes="RAS", labels=None),
            Spacingd(["image", "label"], pixdim=spacing, mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=low, b_max=high, clip=True),
            NormalizeIntensityd("image", subtrahend=48.13441467285156, divisor=13.457549095153809),
        ]
    )
    expected = chain(
        {
            "image": MetaTensor(np.ascontiguousarray(image[None], dtype=np.float32), affine=affine),
            "label": MetaTensor(np.ascontiguousarray(label[None], dtype=np.float32), affine=affine),
        }
    )
    ours, grid = prepare_image(Volume(image, affine), PAPER)
    mask = prepare_label(Volume(label, affine), PAPER)
    assert ours.shape == tuple(expected["image"].shape)
    assert grid.shape == ours.shape[1:] == mask.shape
    np.testing.assert_allclose(ours, expected["image"].numpy(), atol=1e-4)
    np.testing.assert_array_equal(mask, expected["label"].numpy()[0])
    assert mask.any()


def test_the_way_back_ends_on_the_scans_own_grid():
    affine = _affine((0.6, 0.6, 5.0), 12.0, (1, 0, 2), (1, 0, 1))
    _image, label = _head((36, 40, 10), (1, 0, 2))
    settings = Preprocess((0.3, 0.3, 2.5), (HuWindow.unit(0, 1),))
    probability, grid = prepare_image(Volume(label, affine), settings)
    restored = restore_probability((probability[0] + 1) / 2, grid)
    assert restored.shape == label.shape
    np.testing.assert_allclose(restored, label, atol=1e-5)


def test_a_spacing_near_to_the_wanted_one_is_kept():
    settings = Preprocess((None, 0.5, 5.0), keep_within=1.6)
    assert settings.grid_spacing_mm((0.4, 0.7, 3.2)) == (0.4, 0.7, 3.2)
    assert settings.grid_spacing_mm((0.4, 0.9, 0.625)) == (0.4, 0.5, 5.0)
    assert Preprocess((0.5, 0.5, 5.0)).grid_spacing_mm((0.4, 0.5, 4.9)) == (0.5, 0.5, 5.0)


def test_air_is_the_lowest_value_of_each_channel():
    settings = Preprocess(windows=(HuWindow.unit(0, 80), HuWindow(10, 70, 40, 20)))
    image, _grid = prepare_image(
        Volume(np.full((4, 4, 4), -1000, dtype=np.int16), np.eye(4)), settings
    )
    assert settings.air() == (-1.0, -1.5)
    assert [float(value) for value in image[:, 0, 0, 0]] == [-1.0, -1.5]


def test_settings_survive_the_checkpoint():
    settings = Preprocess((None, 0.5, 5.0), (HuWindow.unit(0, 80), HuWindow(-100, 300, 5, 6)), 1.5)
    assert Preprocess.from_dict(settings.to_dict()) == settings
    averaged = Preprocess((None, None, 5.0), thin_slices="average")
    assert Preprocess.from_dict(averaged.to_dict()) == averaged
    older = {key: value for key, value in settings.to_dict().items() if key != "keep_within"}
    assert Preprocess.from_dict(older).keep_within == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"spacing_mm": [1, 2], "windows": []},
        {"spacing_mm": [1, 2, "x"], "windows": []},
        {"spacing_mm": None},
    ],
)
def test_settings_of_another_form_are_refused(values):
    with pytest.raises(FileFormatError, match="preprocessing settings not understood"):
        Preprocess.from_dict(values)


def test_paper_grid_lies_where_monai_puts_it_on_every_real_label(shared_data: Path) -> None:
    moved, headers = 0, _published_headers(shared_data)
    for scan, shape, affine in headers:
        canonical, grid = network_grid(Volume(np.broadcast_to(np.int8(0), shape), affine), PAPER)

        image = Orientationd("x", axcodes="RAS", labels=None)(
            {"x": MetaTensor(torch.zeros(1, 1, 1, 1).expand(1, *shape), affine=affine)}
        )["x"]
        lazy = Spacing(PAPER.spacing_mm, lazy=True)(image)

        assert grid.shape == tuple(lazy.peek_pending_shape()), scan
        start = np.linalg.solve(canonical.affine, np.asarray(lazy.peek_pending_affine())[:, 3])
        ours = np.array(grid.origin_mm) / grid.canonical_spacing_mm
        np.testing.assert_allclose(ours, start[:3], atol=1e-3, err_msg=scan)
        moved += bool(np.abs(ours).max() > 1e-3)
    assert len(headers) == 222
    assert moved == 54


@pytest.mark.parametrize(
    ("own_mm", "wanted_mm"),
    [
        ((0.5, 0.5, 100.0), (0.05, 0.05, 0.05)),
        ((0.45, 0.45, 5.0), (0.01, 0.01, 0.1)),
        ((50.0, 50.0, 5.0), (0.05, 0.05, 5.0)),
    ],
)
def test_a_network_grid_larger_than_any_head_is_refused_before_memory_is_taken(
    own_mm: tuple[float, float, float], wanted_mm: tuple[float, float, float]
) -> None:
    volume = Volume(np.zeros((200, 200, 60), np.int16), np.diag([*own_mm, 1.0]))
    with pytest.raises(CaseError, match=r"mm the network's grid would have \d+ x"):
        prepare_image(volume, Preprocess(wanted_mm))


def test_noise_of_thin_slices_falls_with_their_number_and_the_lesion_keeps_its_hu():
    rng = np.random.default_rng(0)
    hu = rng.normal(30, 20, (40, 40, 60)).astype(np.float32)
    hu[10:20, 10:20, 23:38] += 35
    label = np.zeros(hu.shape, np.uint8)
    label[10:20, 10:20, 23:38] = 1
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    window = (HuWindow(-1000, 1000, 0, 1),)
    noise, lesion = {}, {}
    for way in ("sample", "average"):
        settings = Preprocess((None, None, 5.0), window, 1.6, thin_slices=way)
        image, grid = prepare_image(Volume(hu, affine), settings)
        mask = prepare_label(Volume(label, affine), settings)
        assert image.shape[1:] == mask.shape == grid.shape == (40, 40, 13)
        noise[way] = image[0, 25:, 25:, 1:].std()
        lesion[way] = image[0][mask > 0].mean()
        assert mask.sum() * 5 == pytest.approx(label.sum(), rel=0.05)
    assert noise["average"] == pytest.approx(noise["sample"] / np.sqrt(5), rel=0.05)
    assert lesion["average"] == pytest.approx(65, abs=1)
