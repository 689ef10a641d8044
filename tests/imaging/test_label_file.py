import gzip
import math
import struct
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.label_file import MAX_LABEL_BYTES, label_facts


def nifti(
    *,
    tilt_deg: float = 0.0,
    voxels: int = 7,
    dtype: str = "int16",
    shape: tuple[int, ...] = (6, 5, 4),
    sform: int = 1,
) -> nib.Nifti1Image:
    array = np.zeros(math.prod(shape), dtype=dtype)
    array[:voxels] = 1
    angle = math.radians(tilt_deg)
    rotation = np.array(
        [[-1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([0.5, 0.4, 5.0])
    image = nib.Nifti1Image(array.reshape(shape, order="F"), affine)
    image.set_sform(affine if sform else None, sform)
    image.set_qform(affine, 1)
    return image


def packed(image: nib.Nifti1Image) -> bytes:
    return gzip.compress(image.to_bytes())


def test_a_straight_label_has_its_header_volume() -> None:
    facts = label_facts("x", packed(nifti(voxels=7)))
    assert facts.shape == (6, 5, 4)
    assert facts.spacing_mm == pytest.approx((0.5, 0.4, 5.0))
    assert facts.voxel_volume_mm3 == pytest.approx(1.0)
    assert facts.truth_ml == pytest.approx(0.007)


@pytest.mark.parametrize("tilt", [22.0, -22.0, 30.0])
def test_a_tilted_label_loses_what_the_header_adds(tilt: float) -> None:
    facts = label_facts("x", packed(nifti(tilt_deg=tilt, voxels=10)))
    assert abs(facts.tilt_deg) == pytest.approx(abs(tilt), abs=1e-4)
    assert facts.truth_ml == pytest.approx(0.010 * math.cos(math.radians(tilt)), rel=1e-6)


def test_a_label_without_sform_is_placed_by_its_qform() -> None:
    assert label_facts("x", packed(nifti(tilt_deg=18, sform=0))).tilt_deg == pytest.approx(
        label_facts("x", packed(nifti(tilt_deg=18))).tilt_deg
    )


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">i2", "float32", "float64", "int32"])
def test_the_stored_type_does_not_matter(dtype: str) -> None:
    assert label_facts("x", packed(nifti(dtype=dtype, voxels=9))).truth_ml == pytest.approx(0.009)


def test_a_scaled_label_counts_what_the_scale_makes_of_it() -> None:
    image = nifti(voxels=9)
    image.header.set_slope_inter(2.0, -2.0)
    raw = bytearray(image.to_bytes())
    raw[112:120] = struct.pack(
        "<2f", 2.0, -2.0
    )  # nibabel resets the scale on writing: 1 becomes 0, and 0 becomes -2
    assert label_facts("x", gzip.compress(bytes(raw))).truth_ml == pytest.approx((120 - 9) / 1000)


def test_a_gzip_bomb_is_refused_without_being_unpacked() -> None:
    raw = nifti().to_bytes()
    bomb = gzip.compress(raw + bytes(32 * 2**20))
    assert len(bomb) * 500 < 32 * 2**20
    tracemalloc.start()
    with pytest.raises(FileFormatError, match="holds more than the"):
        label_facts("x.nii.gz", bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_header_that_announces_more_than_a_label_can_be_is_refused() -> None:
    raw = bytearray(nifti().to_bytes())
    raw[40:48] = struct.pack("<4h", 3, 20_000, 20_000, 100)
    with pytest.raises(FileFormatError, match=f"no label is larger than {MAX_LABEL_BYTES:,}"):
        label_facts("x", gzip.compress(bytes(raw)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b"hello, this is text and no gzip file", "damaged"),
        (gzip.compress(b"hello"), "cut off"),
        (gzip.compress(bytes(400)), "not a NIfTI"),
        (packed(nifti())[:-30], "cut off|damaged"),
        (packed(nifti())[:-3], "checksum is missing"),
        (packed(nifti()) + b"tail", "holds more"),
        (packed(nifti(shape=(3, 4, 5, 2))), "not a label"),
        (packed(nifti(dtype="complex64")), "holds complex64 voxels"),
    ],
    ids=["empty", "text", "short", "zeros", "cut", "no checksum", "tail", "4-D", "complex"],
)
def test_what_is_no_label_is_named(data: bytes, message: str) -> None:
    with pytest.raises(FileFormatError, match=f"label 7 .*({message})"):
        label_facts("label 7", data)


def test_a_wrong_checksum_is_found() -> None:
    data = bytearray(packed(nifti()))
    data[-8] ^= 0xFF
    with pytest.raises(FileFormatError, match="damaged"):
        label_facts("x", bytes(data))


def test_an_affine_of_zeros_is_refused() -> None:
    image = nifti()
    raw = bytearray(image.to_bytes())
    raw[280:328] = bytes(48)
    with pytest.raises(FileFormatError, match="no usable affine"):
        label_facts("x", gzip.compress(bytes(raw)))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=12), st.integers(0, 700)
)
def test_damaged_headers_give_facts_or_our_error(changes: list[tuple[int, int]], cut: int) -> None:
    raw = bytearray(nifti().to_bytes())
    for place, value in changes:
        raw[place] = value
    try:
        facts = label_facts("x", gzip.compress(bytes(raw[: len(raw) - cut % 50]), 1))
    except FileFormatError:
        return
    assert math.isfinite(facts.truth_ml)
    assert facts.truth_ml >= 0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), min_size=1, max_size=4))
@example([(60, 173), (62, 24)])  # a signalling NaN in the affine
def test_damaged_gzip_bytes_give_the_facts_or_our_error(changes: list[tuple[int, int]]) -> None:
    good = packed(nifti())
    data = bytearray(good)
    for place, value in changes:
        data[place % len(data)] = value
    try:
        assert label_facts("x", bytes(data)) == label_facts("x", good)
    except FileFormatError:
        assert bytes(data) != good
