"""One image file of any kind that is read: NIfTI, NRRD, MetaImage, Analyze."""

from pathlib import Path
from typing import Any

import numpy as np

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.bounded_files import open_regular
from hemseg_cli.imaging.file_kind import FileKind, Kind, file_kind
from hemseg_cli.imaging.geometry import check_spacing, lps_to_ras
from hemseg_cli.imaging.nifti import Volume, read_volume

_READER = {Kind.NRRD: "NrrdImageIO", Kind.METAIMAGE: "MetaImageIO", Kind.ANALYZE: "NiftiImageIO"}
_MOST_VOXELS = 2**30
_TEXT_HEADER_BYTES = 65536
_HINT = "convert it to NIfTI"


def read_image(path: Path) -> Volume:
    """Read a 3-D image by what it is, whatever its suffix; the affine goes to RAS mm.

    FileFormatError naming the file: no image, not 3-D, several values a voxel, larger than any head
    CT, damaged, voxels in another place than beside it.
    """
    found = file_kind(path)
    if found.kind is Kind.NIFTI:
        return read_volume(path)
    if found.kind in _READER:
        return _read_by_itk(path, found)

    reason = {Kind.DICOM: "a DICOM file", Kind.ZIP: "a zip archive"}.get(found.kind, found.reason)
    raise FileFormatError(
        reason if str(path) in reason else f"{path} is no image file: {reason}",
        hint="images are NIfTI, NRRD, MetaImage or Analyze; DICOM is given by its folder or zip",
    )


def _read_by_itk(path: Path, found: FileKind) -> Volume:
    import SimpleITK as sitk  # slow to import

    _refuse_voxels_elsewhere(path, found)
    # ITK prints on stderr that Analyze is old: no news to somebody who has such files.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    # By its content, not by its suffix, as ITK would choose.
    reader.SetImageIO(_READER[found.kind])
    try:
        reader.ReadImageInformation()
        _check_information(path, reader)
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1:] or ["damaged"]
        raise FileFormatError(
            f"{path} cannot be read as {found.kind}: {reason[0].strip()}", hint=_HINT
        ) from None

    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine = lps_to_ras(affine)
    if not np.isfinite(affine).all():
        raise FileFormatError(f"{path} has no usable place: {affine.tolist()}")
    check_spacing(str(path), affine)
    return Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine)


def _check_information(path: Path, reader: Any) -> None:
    size = tuple(int(n) for n in reader.GetSize())
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    if len(size) != 3 or len(reader.GetSize()) != 3:
        raise FileFormatError(
            f"{path} has {len(size)} dimensions {size}, not 3", hint="give one volume per file"
        )
    if reader.GetNumberOfComponents() != 1:
        raise FileFormatError(
            f"{path} holds {reader.GetNumberOfComponents()} values a voxel, not CT numbers"
        )
    if not 0 < int(np.prod(size, dtype=object)) <= _MOST_VOXELS:
        raise FileFormatError(f"{path} has {size} voxels: none, or more than any head CT")


def _refuse_voxels_elsewhere(path: Path, found: FileKind) -> None:
    """Raise FileFormatError where a text header names voxels anywhere but beside it.

    A stranger's header could name any file of this machine, or a pipe that never ends.
    """
    keys = {Kind.METAIMAGE: (b"elementdatafile", b"="), Kind.NRRD: (b"datafile", b":")}
    if found.kind not in keys:
        return

    key, sign = keys[found.kind]
    with open_regular(path) as file:
        head = file.read(_TEXT_HEADER_BYTES)
    if found.kind is Kind.NRRD:
        # What follows the empty line is voxels, in which anything may stand.
        head = head.replace(b"\r\n", b"\n").split(b"\n\n")[0]

    for line in head.split(b"\n"):
        name, _, value = line.partition(sign)
        if name.lower().replace(b" ", b"") != key:
            continue
        target = value.strip().decode("utf-8", "surrogateescape")
        if target.upper() != "LOCAL":
            _refuse_target(path, target)
        return


def _refuse_target(path: Path, target: str) -> None:
    if not target or Path(target).name != target or target.upper().startswith("LIST"):
        raise FileFormatError(
            f"{path} keeps its voxels in another place ({target!r})",
            hint="put header and voxels into one file, or side by side",
        )
    try:
        with open_regular(path.with_name(target)):
            pass
    except (FileFormatError, ValueError) as error:
        raise FileFormatError(f"{path} names voxels that cannot be read: {error}") from None
