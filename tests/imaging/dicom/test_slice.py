"""One DICOM file: what it says is taken exactly, what it fails to say is refused in words."""

import struct
import warnings
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from hemseg_cli.core.errors import CaseError, FileFormatError, HemsegError
from hemseg_cli.imaging.dicom import pixels
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.series import assemble, read_slices
from hemseg_cli.imaging.dicom.slice import read_slice
from tests.dicom_files import SIZE, head, head_pixels, slice_bytes


def refusal(**changes: Any) -> str:
    with quiet_pydicom(), pytest.raises(FileFormatError) as caught:
        read_slice(slice_bytes(0, **changes), "x")
    return caught.value.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ImagePositionPatient": None}, "no position"),
        ({"ImageOrientationPatient": None}, "no orientation"),
        ({"PixelSpacing": None}, "no spacing"),
        ({"RescaleIntercept": None}, "no rescale intercept"),
        ({"RescaleSlope": None}, "no rescale slope"),
        ({"RescaleSlope": "0"}, "rescale slope is 0"),
        ({"Rows": None}, "no image size"),
        (
            {"ImagePositionPatient": ["0", "0", "nan"]},
            "position (ImagePositionPatient) is not finite",
        ),
        ({"ImagePositionPatient": ["0", "0", "1e9"]}, "absurd position"),
        ({"ImagePositionPatient": ["0", "0"]}, "has 2 values, not 3"),
        (
            {"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]},
            "not two perpendicular unit vectors",
        ),
        ({"PixelSpacing": ["0", "0.5"]}, "absurd pixel spacing"),
        (
            {"NumberOfFrames": "4"},
            "a multi-frame object of 4 frames that does not say where they lie",
        ),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not a plain grayscale image"),
        ({"BitsAllocated": 12}, "bits allocated 12"),
        ({"pixel_data": b"\0" * 100}, "pixel data is short: 100 of 512 bytes"),
        ({"pixel_data": b"\0" * 1024}, "pixel data is long: 1024 bytes, 512 expected"),
        ({"pixel_data": b""}, "no pixel data"),
    ],
)
def test_what_is_missing_or_wrong_is_said(changes: dict[str, Any], words: str) -> None:
    assert words in refusal(**changes)


def test_a_position_that_is_no_number() -> None:
    with quiet_pydicom(), pytest.raises(FileFormatError, match=r"position .* is not a number"):
        read_slice(slice_bytes(0).replace(b"-40.000000", b"-40.00here"), "x")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"hello" * 100, "not a DICOM file"),
        (b"\0" * 128 + b"DICM", "no "),
    ],
)
def test_files_that_are_no_dicom(data: bytes, words: str) -> None:
    with quiet_pydicom(), pytest.raises(FileFormatError) as caught:
        read_slice(data, "x")
    assert words in caught.value.message


def test_a_file_cut_in_its_pixels_is_short() -> None:
    with (
        quiet_pydicom(),
        pytest.raises(FileFormatError, match="pixel data is short: 412 of 512 bytes"),
    ):
        read_slice(slice_bytes(0)[:-100], "x")


def test_every_bad_slice_of_a_scan_is_named_with_its_reason() -> None:
    files = head(
        6, {1: {"PixelSpacing": None}, 2: {"PixelSpacing": None}, 4: {"pixel_data": b"\0\0"}}
    )
    bad = list(files)
    with pytest.raises(CaseError) as caught:
        read_slices("s", files, files.__getitem__)
    named = [name for name in bad if name in caught.value.message]
    assert len(named) == 3
    assert "no spacing (PixelSpacing): " in caught.value.message
    assert "pixel data is short" in caught.value.message


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_every_uncompressed_transfer_syntax_gives_the_same_voxels(syntax: Any) -> None:
    with quiet_pydicom():
        one = read_slice(
            slice_bytes(
                3, dtype=">i2" if syntax == ExplicitVRBigEndian else "<i2", transfer_syntax=syntax
            ),
            "x",
        )
    np.testing.assert_array_equal(one.stored, head_pixels(3).astype(np.int32) + 1024)


def test_a_header_longer_than_usual_is_read_as_well() -> None:
    with quiet_pydicom():
        one = read_slice(slice_bytes(3, RedPaletteColorLookupTableData=b"\0" * 40_000), "x")
    np.testing.assert_array_equal(one.stored, head_pixels(3).astype(np.int32) + 1024)


def test_rle_compressed_pixels_are_decoded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = pydicom.dcmread(pydicom.filebase.DicomBytesIO(slice_bytes(2)))
        plain.compress(RLELossless, generate_instance_uid=False)
        buffer = pydicom.filebase.DicomBytesIO()
        plain.save_as(buffer)
    with quiet_pydicom():
        one = read_slice(buffer.getvalue(), "x")
    np.testing.assert_array_equal(one.stored, head_pixels(2).astype(np.int32) + 1024)


def test_damaged_compressed_pixels_are_said() -> None:
    message = refusal(transfer_syntax=RLELossless, pixel_data=encapsulate([b"\1\2\3\4"]))
    assert message.startswith("compressed pixel data cannot be decoded")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_an_absent_codec_names_the_extra(syntax: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = pixels.get_decoder(syntax)
    monkeypatch.setattr(
        decoder, "_available", {}
    )  # as on a machine where the extra is not installed
    message = refusal(transfer_syntax=syntax, pixel_data=encapsulate([b"\1\2\3\4"]))
    assert message.startswith("no codec for transfer syntax")
    assert "pip install 'hemseg[codecs]'" in message


def test_a_video_is_no_slice() -> None:
    assert "cannot be read" in refusal(
        transfer_syntax=MPEG2MPML, pixel_data=encapsulate([b"\1\2\3\4"])
    )


def test_ids_that_are_no_uids_cause_no_warning() -> None:
    files = head(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assemble("s", read_slices("s", files, files.__getitem__))
    assert caught == []


WHOLE = slice_bytes(0, RedPaletteColorLookupTableData=b"\0" * 64)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(
    st.lists(
        st.tuples(st.integers(0, len(WHOLE) - SIZE * SIZE * 2), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, len(WHOLE)),
    st.booleans(),
)
def test_damaged_bytes_raise_only_our_errors(
    edits: list[tuple[int, bytes]], cut: int, shorten: bool
) -> None:
    data = bytearray(WHOLE)
    for place, new in edits:
        data[place : place + len(new)] = new
    outcome = "read"
    with quiet_pydicom():
        try:
            one = read_slice(bytes(data[:cut] if shorten else data), "x")
            assert one.stored.shape == (one.rows, one.columns)
        except HemsegError:
            outcome = "refused"
    assert outcome in ("read", "refused")


def test_sequences_nested_without_end_are_refused() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = b"".join(
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item for _ in range(3000)
    )
    start = WHOLE.index(b"\x08\x00\x18\x00UI")
    with quiet_pydicom(), pytest.raises(FileFormatError):
        read_slice(WHOLE[:start] + nested, "x")
