"""From stored values to HU, with the repairs that the RSNA files need.

SimpleITK is the oracle where it is right.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.imaging.dicom.series import Sidecar, assemble, read_slices
from hemseg_cli.imaging.geometry import lps_to_ras
from hemseg_cli.imaging.nifti import Volume
from tests.dicom_files import head, head_pixels, slice_bytes, slice_id


def scan_of(files: dict[str, bytes]) -> tuple[Volume, Sidecar]:
    return assemble("s", read_slices("s", files, files.__getitem__))


def planes(volume: Volume) -> Any:
    return volume.array.transpose(2, 1, 0)


def expected(count: int) -> Any:
    return np.stack([head_pixels(n) for n in range(count)])


@pytest.mark.parametrize(
    ("dtype", "bits", "intercept"),
    [("<i2", 16, -1024), ("<u2", 12, -1024), ("<i2", 16, 0), ("<u2", 16, -1000)],
)
@pytest.mark.parametrize("tilt", [0.0, 22.0])
def test_grid_and_voxels_are_those_of_simpleitk(
    tmp_path: Path, dtype: str, bits: int, intercept: int, tilt: float
) -> None:
    import SimpleITK as sitk

    files = head(6, dtype=dtype, bits_stored=bits, intercept=intercept, tilt_deg=tilt)
    for name, data in files.items():
        (tmp_path / f"ID_{name}.dcm").write_bytes(data)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    volume, sidecar = scan_of(files)
    np.testing.assert_allclose(volume.affine, lps_to_ras(affine), atol=1e-3)
    np.testing.assert_array_equal(planes(volume), sitk.GetArrayFromImage(image))
    np.testing.assert_array_equal(planes(volume), expected(6))
    assert sidecar.warnings == ()


def test_twelve_bit_rollover_is_undone_with_a_warning() -> None:
    files = {
        slice_id(n): slice_bytes(
            n, hu=head_pixels(n) % 4096, dtype="<u2", bits_stored=12, intercept=0
        )
        for n in range(5)
    }
    volume, sidecar = scan_of(files)
    np.testing.assert_array_equal(planes(volume), expected(5))
    assert list(sidecar.warnings) == [
        "12-bit rollover repaired (negative HU had wrapped): 5 of 5 slices"
    ]


@pytest.mark.parametrize("intercept", [1, 0])
def test_rollover_takes_no_notice_of_the_wrong_intercept(intercept: int) -> None:
    # add 1000, subtract 4096 from what is >= 4096, take intercept -1000: done by hand on each
    # stored value
    stored = np.array([[0, 40, 3071], [3095, 3096, 4095]])
    hu = stored + 1000
    hu = np.where(hu >= 4096, hu - 4096, hu) - 1000
    files = {
        slice_id(n): slice_bytes(
            n,
            hu=np.zeros((2, 3), np.int16),
            dtype="<u2",
            bits_stored=12,
            intercept=intercept,
            pixel_data=stored.astype("<u2").tobytes(),
        )
        for n in range(2)
    }
    volume, _sidecar = scan_of(files)
    np.testing.assert_array_equal(planes(volume)[0], hu)


def test_intercepts_that_differ_are_each_applied_with_a_warning() -> None:
    volume, sidecar = scan_of(head(6, {3: {"intercept": -1000}}))
    np.testing.assert_array_equal(planes(volume), expected(6))
    assert list(sidecar.warnings) == [
        "intercepts differ between slices: -1024 (5 slices), -1000 (1 slices); "
        "each slice was rescaled with its own"
    ]


@pytest.mark.parametrize("padding", [-2000, -2048, -3024, -32767])
def test_padding_becomes_the_scans_air_with_a_warning(padding: int) -> None:
    hu = head_pixels(0)
    hu[hu == -1000] = -990
    padded = hu.copy()
    padded[:1] = padding + 1024 if padding == -32767 else padding
    files = {slice_id(n): slice_bytes(n, hu=padded) for n in range(4)}
    volume, sidecar = scan_of(files)
    np.testing.assert_array_equal(planes(volume)[2], hu)
    assert sidecar.hu_min == -990
    assert list(sidecar.warnings) == ["padding set to air: 4 of 4 slices"]


def test_declared_padding_above_bone_becomes_air() -> None:
    hu = head_pixels(0)
    hu[0, :] = 20_000
    files = {slice_id(n): slice_bytes(n, hu=hu, PixelPaddingValue=20_000 + 1024) for n in range(3)}
    volume, _sidecar = scan_of(files)
    assert planes(volume)[1][0].tolist() == [-1000] * 16


def test_values_beyond_sixteen_bits_are_clipped_with_a_warning() -> None:
    stored = (head_pixels(0).astype(np.int32) + 1024).astype("<u2")
    stored[8, 8] = 65535
    files = {
        slice_id(n): slice_bytes(n, dtype="<u2", pixel_data=stored.tobytes()) for n in range(3)
    }
    volume, sidecar = scan_of(files)
    assert planes(volume)[0][8, 8] == 32767
    assert "HU beyond 16 bits clipped: " in " ".join(sidecar.warnings)
    assert any("beyond metal" in warning for warning in sidecar.warnings)


def test_a_slope_is_applied_and_rounded() -> None:
    stored = np.array([[0, 3], [1001, 2048]], dtype="<i2")
    files = {
        slice_id(n): slice_bytes(
            n,
            hu=np.zeros((2, 2), np.int16),
            pixel_data=stored.tobytes(),
            RescaleSlope="0.5",
            intercept=-1000,
        )
        for n in range(2)
    }
    volume, _sidecar = scan_of(files)
    np.testing.assert_array_equal(planes(volume)[0], np.rint(stored * 0.5 - 1000))


def test_the_summary_counts_air_brain_and_bone() -> None:
    _volume, sidecar = scan_of(head(4))
    scan = expected(4)
    assert (sidecar.hu_min, sidecar.hu_max) == (-1000, 1000)
    assert sidecar.share_air == pytest.approx((scan < -900).mean(), abs=1e-6)
    assert sidecar.share_brain == pytest.approx(((scan >= 0) & (scan <= 80)).mean(), abs=1e-6)
    assert sidecar.share_bone == pytest.approx((scan >= 300).mean(), abs=1e-6)


def test_a_scan_without_brain_is_doubted_and_a_constant_slice_named() -> None:
    _volume, sidecar = scan_of(
        head(6, {n: {"hu": np.full((16, 16), 500, np.int16)} for n in range(6)})
    )
    text = " ".join(sidecar.warnings)
    assert "only 0.00% of the voxels are within 0 to 80 HU" in text
    assert "all voxels alike: 6 of 6 slices" in text
    _volume, sidecar = scan_of(head(6, {4: {"hu": np.full((16, 16), 30, np.int16)}}))
    assert list(sidecar.warnings) == [f"all voxels alike: {slice_id(4)}"]
