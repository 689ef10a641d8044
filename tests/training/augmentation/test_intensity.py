import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from hemseg_cli.config.schema import AugmentConfig
from hemseg_cli.training.augmentation.intensity import (
    blur,
    change_intensities,
    contrast,
    gamma,
    lower_resolution,
    noise,
)


def _image(shape=(2, 24, 20, 4)):
    return torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))


def test_blur_is_scipys_within_each_slice():
    image = _image()
    expected = image.numpy().copy()
    for axis in (1, 2):
        expected = gaussian_filter1d(expected, 0.8, axis=axis, mode="nearest", radius=3)
    blur(image, 0.8)
    np.testing.assert_allclose(image, expected, atol=1e-5)


def test_gamma_is_a_power_over_each_channels_range():
    image = _image()
    image[1] *= 3
    before = image.clone()
    gamma(image, 1.4)
    for channel, old in zip(image, before, strict=True):
        low, high = old.aminmax()
        torch.testing.assert_close(
            channel, ((old - low) / (high - low)) ** 1.4 * (high - low) + low, atol=1e-5, rtol=1e-4
        )
    flat = torch.full((1, 3, 3, 3), 0.5)
    gamma(flat, 2.0)
    assert (flat == 0.5).all()


def test_contrast_widens_about_the_mean_within_the_range():
    image = _image()
    image[:, :3] = -1
    before = image.clone()
    contrast(image, 0.8)
    for channel, old in zip(image, before, strict=True):
        torch.testing.assert_close(channel, (old - old.mean()) * 0.8 + old.mean())
    wide = before.clone()
    contrast(wide, 1.5)
    assert wide.min() == before.min()
    assert wide.max() == before.max()


def test_noise_is_in_hu_the_same_in_every_window_and_follows_its_seed():
    first, again, other = (torch.zeros(2, 40, 40, 10) for _ in range(3))
    for image, seed in ((first, 3), (again, 3), (other, 4)):
        noise(image, 6.0, (40.0, 200.0), seed=seed)
    assert float(first[0].std()) == pytest.approx(6 / 40, rel=0.03)
    torch.testing.assert_close(first[1] * 200, first[0] * 40)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_lower_resolution_keeps_every_second_pixel_and_interpolates_the_rest():
    rows = torch.tensor([0.0, 9.0, 2.0, 9.0, 4.0])
    image = rows[:, None, None].expand(5, 5, 2)[None].clone()
    lower_resolution(image, 0.6)
    torch.testing.assert_close(image[0, :, 2, 1], torch.arange(5.0))
    same = _image()
    before = same.clone()
    lower_resolution(same, 1.0)
    assert torch.equal(same, before)


def test_only_what_is_switched_on_happens():
    image = _image()
    before = image.clone()
    assert torch.equal(
        change_intensities(
            image, AugmentConfig(), np.random.default_rng(0), hu_per_unit=[40.0] * len(image)
        ),
        before,
    )
    shifted = change_intensities(
        image,
        AugmentConfig(brightness_p=1, brightness=(0.3, 0.3)),
        np.random.default_rng(0),
        hu_per_unit=[40.0] * len(image),
    )
    torch.testing.assert_close(shifted, before + 0.3)


@pytest.mark.parametrize(
    "name", ["noise", "blur", "brightness", "contrast", "gamma", "low_resolution"]
)
def test_each_changes_the_image_and_leaves_it_finite(name):
    image = _image()
    before = image.clone()
    changed = change_intensities(
        image,
        AugmentConfig.model_validate({f"{name}_p": 1.0}),
        np.random.default_rng(1),
        hu_per_unit=[40.0] * len(image),
    )
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, before)
