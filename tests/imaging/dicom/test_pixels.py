"""Stored pixels against pydicom's own pipeline, and against the bits drawn by hand."""

import io
import shutil
import subprocess
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom.pixels import apply_rescale
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.series import assemble, read_slices
from hemseg_cli.imaging.dicom.slice import read_slice
from tests.dicom_files import SIZE, head, head_pixels, slice_bytes

SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
]


def cells_file(
    cells: Any,
    *,
    stored: int,
    high_bit: int,
    signed: bool,
    syntax: Any = ExplicitVRLittleEndian,
    intercept: int = 0,
    extra: bytes = b"",
) -> bytes:
    """One slice whose cells are these, bit by bit."""
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    raw = cells.astype(cells.dtype.newbyteorder(order)).tobytes() + extra
    plain = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    data = slice_bytes(
        0,
        pixel_data=raw,
        transfer_syntax=plain,
        intercept=intercept,
        BitsAllocated=cells.dtype.itemsize * 8,
        BitsStored=stored if plain == syntax else cells.dtype.itemsize * 8,
        HighBit=high_bit if plain == syntax else cells.dtype.itemsize * 8 - 1,
        PixelRepresentation=int(signed),
    )
    if syntax != RLELossless:
        return data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data))
        # Packed as whole cells: pydicom's encoder would refuse what it takes for overflow.
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.BitsStored, dataset.HighBit = stored, high_bit
        buffer = io.BytesIO()
        dataset.save_as(buffer)
    return buffer.getvalue()


def read(data: bytes) -> Any:
    with quiet_pydicom():
        return read_slice(data, "x")


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, int, int, bool]:
    allocated = draw(st.sampled_from([8, 16, 32]))
    stored = draw(st.integers(2, allocated))
    return allocated, stored, draw(st.integers(stored - 1, allocated - 1)), draw(st.booleans())


def by_hand(cells: Any, stored: int, high_bit: int, signed: bool) -> Any:
    """Each value from its own bits, with Python's integers."""
    low = high_bit - stored + 1
    values = [(int(cell) >> low) & ((1 << stored) - 1) for cell in cells.ravel()]
    if signed:
        values = [value - (1 << stored) if value >> (stored - 1) else value for value in values]
    return np.array(values, dtype=np.int64).reshape(cells.shape)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layouts(), st.integers(0, 2**32 - 1), st.sampled_from(SYNTAXES), st.sampled_from([0, 2, 64]))
def test_values_are_the_stored_bits_alone(
    layout: tuple[int, int, int, bool], seed: int, syntax: Any, extra: int
) -> None:
    allocated, stored, high_bit, signed = layout
    assume(syntax != RLELossless or allocated < 32)  # pydicom's encoder packs no wider cells
    cells = np.random.default_rng(seed).integers(
        0, 2**allocated, (SIZE, SIZE), dtype=f"u{allocated // 8}"
    )
    data = cells_file(
        cells,
        stored=stored,
        high_bit=high_bit,
        signed=signed,
        syntax=syntax,
        extra=bytes(extra if syntax != RLELossless else 0),
    )
    found = read(data).stored
    np.testing.assert_array_equal(found, by_hand(cells, stored, high_bit, signed))

    # pydicom's own pipeline corrects unused high bits, and knows no shifted high bit.
    if high_bit == stored - 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_array_equal(
                found, pydicom.dcmread(io.BytesIO(data)).pixel_array.astype(np.int64)
            )


@pytest.mark.parametrize("bits", range(11, 17))
@pytest.mark.parametrize("signed", [True, False])
def test_overlays_in_the_high_bits_change_no_hu(bits: int, signed: bool) -> None:
    intercept = 0 if signed else -1024
    plain = np.clip(head_pixels(0), -1000, 1000).astype(np.int32) - intercept
    cells = (plain & ((1 << bits) - 1)).astype(np.uint16)
    if bits < 16:
        cells[3:9, 3:9] |= np.uint16(1 << bits)
        cells[0, :] |= np.uint16(0x8000)
    data = cells_file(cells, stored=bits, high_bit=bits - 1, signed=signed, intercept=intercept)
    files = head(4) | {"over": data}
    files = {name: content for name, content in files.items() if name != next(iter(files))}

    one = read(data)
    np.testing.assert_array_equal(one.stored, plain)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(data))
        theirs = apply_rescale(dataset.pixel_array, dataset)
    np.testing.assert_array_equal(one.stored * one.slope + one.intercept, theirs)


def test_a_bleed_under_an_overlay_keeps_its_hu_in_the_volume() -> None:
    names = list(head(5))
    files = {}
    for number, name in enumerate(names):
        cells = (head_pixels(number).astype(np.int32) + 1024).astype(np.uint16)
        cells[4:7, 4:7] |= np.uint16(0x1000)
        files[name] = slice_bytes(
            number,
            pixel_data=cells.tobytes(),
            dtype="<u2",
            bits_stored=12,
            intercept=-1024,
        )
    volume, _ = assemble("s", read_slices("s", files, files.__getitem__))
    np.testing.assert_array_equal(volume.array[:, :, 2].T, head_pixels(2))


def test_simpleitk_finds_the_same_values_under_an_overlay(tmp_path: Path) -> None:
    import SimpleITK as sitk

    cells = (head_pixels(0).astype(np.int32) + 1024).astype(np.uint16)
    cells[4:9, 4:9] |= np.uint16(0x1000)
    data = cells_file(cells, stored=12, high_bit=11, signed=False, intercept=-1024)
    (tmp_path / "x.dcm").write_bytes(data)
    one = read(data)
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "x.dcm")))[0]
    np.testing.assert_array_equal(one.stored * one.slope + one.intercept, theirs)


def test_a_padding_value_that_twelve_bits_cannot_hold_becomes_air_not_bone() -> None:
    names = list(head(4))
    files = {}
    for number, name in enumerate(names):
        cells = (head_pixels(number).astype(np.int32) + 1024).astype(np.uint16)
        cells[:2, :] = np.uint16(65536 - 2000)
        files[name] = slice_bytes(
            number,
            pixel_data=cells.tobytes(),
            dtype="<u2",
            bits_stored=12,
            intercept=-1024,
            PixelPaddingValue=65536 - 2000,
        )
    volume, sidecar = assemble("s", read_slices("s", files, files.__getitem__))
    assert volume.array[:, :2].max() == -1000
    assert any("padding set to air" in warning for warning in sidecar.warnings)


@pytest.mark.parametrize(("stored", "high_bit"), [(12, 10), (12, 16), (16, 3)])
def test_an_impossible_high_bit_is_refused(stored: int, high_bit: int) -> None:
    cells = np.zeros((SIZE, SIZE), dtype=np.uint16)
    with pytest.raises(FileFormatError, match=f"high bit {high_bit} is impossible"):
        read(cells_file(cells, stored=stored, high_bit=high_bit, signed=False))


@pytest.mark.parametrize("extra", [1, 2, 4, 300, SIZE * SIZE])
def test_padding_behind_the_pixels_is_no_fault(extra: int) -> None:
    pixels = (head_pixels(0).astype("<i4") + 1024).astype("<i2").tobytes()
    plain, padded = read(slice_bytes(0)), read(slice_bytes(0, pixel_data=pixels + bytes(extra)))
    np.testing.assert_array_equal(plain.stored, padded.stored)


def test_a_deflated_slice_of_full_size_is_read() -> None:
    hu = np.random.default_rng(1).integers(-1000, 1500, (512, 512)).astype(np.int16)
    data = slice_bytes(
        0, hu=hu, Rows=512, Columns=512, transfer_syntax=DeflatedExplicitVRLittleEndian
    )
    np.testing.assert_array_equal(read(data).stored, hu.astype(np.int32) + 1024)


def test_a_deflated_bomb_is_refused_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    from hemseg_cli.imaging.dicom import elements

    whole = slice_bytes(0, transfer_syntax=DeflatedExplicitVRLittleEndian)
    meta_end = 132 + 12 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = zlib.decompress(whole[meta_end:], -15)
    bomb = packer.compress(body)
    bomb += b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    monkeypatch.setattr(elements, "_MOST_INFLATED_BYTES", 2**22)
    with pytest.raises(FileFormatError, match="inflates to more than"):
        read(whole[:meta_end] + bomb)


@pytest.mark.parametrize("cut", [3, 40])
def test_a_deflated_slice_that_is_cut_off_is_refused(cut: int) -> None:
    data = slice_bytes(0, transfer_syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(FileFormatError, match=r"cut off|damaged"):
        read(data[:-cut])


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_dcm2niix_finds_the_same_hu_under_an_overlay(tmp_path: Path) -> None:
    import nibabel as nib

    files = {}
    for number, name in enumerate(head(5)):
        cells = (head_pixels(number).astype(np.int32) + 1024).astype(np.uint16)
        cells[4:7, 4:7] |= np.uint16(0x2000)
        files[name] = slice_bytes(
            number,
            pixel_data=cells.tobytes(),
            dtype="<u2",
            bits_stored=12,
            intercept=-1024,
            SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
            SOPInstanceUID=f"1.2.3.{number}",
            SeriesInstanceUID="1.2.4",
            StudyInstanceUID="1.2.5",
            InstanceNumber=str(number + 1),
            SliceThickness="5",
            Manufacturer="TEST",
        )
        (tmp_path / f"{name}.dcm").write_bytes(files[name])
    done = subprocess.run(
        ["dcm2niix", "-z", "n", "-f", "x", "-b", "n", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (tmp_path / "x.nii").is_file(), done.stdout
    theirs: Any = nib.as_closest_canonical(nib.load(tmp_path / "x.nii"))
    volume, _ = assemble("s", read_slices("s", files, files.__getitem__))
    ours = nib.as_closest_canonical(nib.Nifti1Image(volume.array, volume.affine))
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
