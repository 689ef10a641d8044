import numpy as np
import pytest

from hemseg_cli.config.schema import AugmentConfig
from hemseg_cli.training.augmentation import augmented_patch
from hemseg_cli.training.augmentation.patches import cut
from hemseg_cli.training.cache import PreparedCase, prepared_cases, preprocess_of
from tests.training.scans import ball_scan, config_for


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> PreparedCase:
    root = tmp_path_factory.mktemp("data")
    config = config_for(root, "train.windows=[[0, 80]]")
    return prepared_cases(config, [ball_scan(root / "tiny", "a")], preprocess_of(config.train))[0]


@pytest.mark.parametrize("kind", ["float16", "float32", "uint8"])
@pytest.mark.parametrize("mirror", [(False, False, False), (True, False, True)])
@pytest.mark.parametrize("start", [(2, 3, 1), (-3, 5, 4), (-1, -2, -3), (30, 2, 0)])
def test_cut_is_a_slice_of_the_padded_and_mirrored_array(kind, mirror, start):
    array = (np.random.default_rng(0).random((2, 9, 8, 7)) * 9).astype(kind)
    padded = np.stack(
        [
            np.pad(channel.astype(np.float32), 40, constant_values=value)
            for channel, value in zip(array, (5, 6), strict=True)
        ]
    )
    i, j, k = (first + 40 for first in start)
    expected = np.flip(
        padded[:, i : i + 6, j : j + 5, k : k + 4], [axis + 1 for axis in range(3) if mirror[axis]]
    )
    piece = cut(array, start, (6, 5, 4), (5, 6), mirror=mirror)
    np.testing.assert_array_equal(piece, expected)
    assert piece.dtype == np.float32
    assert piece.flags.writeable


def test_image_and_label_go_through_the_same_transform(case):
    """Where the label is 1 the scan is bright, whatever was done to both."""
    settings = AugmentConfig(
        rotation_p=1,
        rotation_deg=90,
        scale_p=1,
        scale=(0.6, 1.6),
        elastic_p=1,
        elastic_voxels=2,
        mirror_p=(0.5, 0.5, 0.5),
    )
    random = np.random.default_rng(0)
    seen = 0.0
    for _ in range(20):
        image, label = augmented_patch(
            case,
            (2, 2, 0),
            (26, 24, 8),
            settings,
            padding=(-1.0,),
            hu_per_unit=(40.0,),
            random=random,
        )
        assert set(np.unique(label)) <= {0.0, 1.0}
        bright = image > 0.25  # halfway between brain at 35 and blood at 65 HU
        seen += float(label.sum())
        assert float((bright & (label > 0)).sum()) >= 0.95 * float(label.sum())
        assert float((bright & (label > 0)).sum()) >= 0.85 * float(bright.sum())
    assert seen > 0


def test_the_map_on_disk_is_never_written_to(case):
    before = np.array(case.image)
    settings = AugmentConfig(brightness_p=1, noise_p=1, gamma_p=1, contrast_p=1)
    augmented_patch(
        case,
        (0, 0, 0),
        case.shape,
        settings,
        padding=(-1.0,),
        hu_per_unit=(40.0,),
        random=np.random.default_rng(0),
    )
    np.testing.assert_array_equal(case.image, before)
