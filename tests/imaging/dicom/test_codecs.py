"""Every transfer syntax that a PACS exports gives the same HU; gdcm packs what is then unpacked."""

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import CTImageStorage, generate_uid

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.slice import read_slice
from tests.dicom_files import head_pixels, slice_bytes

gdcm: Any = pytest.importorskip("gdcm", reason="extra codecs is not installed")

LOSSLESS = [
    "JPEGLosslessProcess14_1",
    "JPEGLSLossless",
    "JPEG2000Lossless",
    "RLELossless",
    "ImplicitVRLittleEndian",
    "ExplicitVRLittleEndian",
    "DeflatedExplicitVRLittleEndian",
]
UIDS = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
FORMATS = [(16, True, 0), (16, False, -1024), (12, True, 0), (12, False, -1024)]


def hu_of(bits: int, signed: bool) -> Any:
    """Noise over all values of the format, beside smooth parts as a head has."""
    low, high = (-1024, 2047) if bits == 12 and signed else (-1024, 3000)
    hu = np.random.default_rng(3).integers(low, high, (32, 24)).astype(np.int16)
    hu[4:20, 4:20] = 40
    return hu


def packed(source: Path, target: Path, syntax: str) -> bytes:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change(), syntax
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return target.read_bytes()


@pytest.mark.parametrize(("bits", "signed", "intercept"), FORMATS)
@pytest.mark.parametrize("syntax", LOSSLESS)
def test_hu_do_not_depend_on_the_transfer_syntax(
    tmp_path: Path, syntax: str, bits: int, signed: bool, intercept: int
) -> None:
    hu = hu_of(bits, signed)
    plain = slice_bytes(
        0,
        hu=hu,
        Rows=hu.shape[0],
        Columns=hu.shape[1],
        dtype="<i2" if signed else "<u2",
        bits_stored=bits,
        intercept=intercept,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2",
        SOPInstanceUID="1.2.3.4",
    )
    (tmp_path / "plain.dcm").write_bytes(plain)
    data = packed(tmp_path / "plain.dcm", tmp_path / "packed.dcm", syntax)
    with quiet_pydicom():
        one = read_slice(data, "x")
    np.testing.assert_array_equal(one.stored * one.slope + one.intercept, hu)


@pytest.mark.skipif(
    shutil.which("dcmcjpeg") is None or shutil.which("dcmdjpeg") is None,
    reason="DCMTK is not installed",
)
@pytest.mark.skipif(importlib.util.find_spec("libjpeg") is not None, reason="a codec reads it")
def test_lossy_jpeg_of_12_bits_names_a_way_out_that_works(tmp_path: Path) -> None:
    hu = head_pixels(1, 64)
    elements = {keyword: generate_uid() for keyword in UIDS}
    plain, lossy = tmp_path / "plain.dcm", tmp_path / "lossy.dcm"
    plain.write_bytes(
        slice_bytes(
            0,
            hu=hu,
            dtype="<u2",
            bits_stored=12,
            HighBit=11,
            PixelRepresentation=0,
            SOPClassUID=CTImageStorage,
            **elements,
        )
    )
    subprocess.run(["dcmcjpeg", "+ee", str(plain), str(lossy)], check=True)
    with pytest.raises(FileFormatError, match=r"lossy JPEG of 12 bits \(1.2.840.*\)") as caught:
        read_slice(lossy.read_bytes(), "lossy")
    assert "dcmdjpeg FILE UNPACKED" in caught.value.hint

    subprocess.run(["dcmdjpeg", str(lossy), str(tmp_path / "unpacked.dcm")], check=True)
    read = read_slice((tmp_path / "unpacked.dcm").read_bytes(), "unpacked")
    assert np.abs(read.stored * read.slope + read.intercept - hu).max() < 100
