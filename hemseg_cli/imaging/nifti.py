"""NIfTI files: read as an array with its affine, written whole or not at all. gzip by ISA-L."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.run_directory import atomic_path
from hemseg_cli.imaging.geometry import Affine

_GZIP_LEVEL = 2  # ISA-L's levels are 0 to 3; on head CT 2 is 5 to 7 % larger than zlib 6, 20 times faster, and smaller than 3
_GZIP_WINDOW = 31  # a gzip header and the full window
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_HEAD = 352  # NIfTI-1 header and the extension flag behind it
_MOST_VOXELS = 2**30  # 1024 x 1024 x 1024


_PLACE = (
    *(
        "qform_code",
        "sform_code",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "qoffset_x",
        "qoffset_y",
        "qoffset_z",
    ),
    *("srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"),
)


@dataclass(frozen=True)
class Volume:
    """An image with its place in the world.

    `array` is [i, j, k], `affine` goes from index to RAS mm (see `geometry`).
    """

    array: NDArray[Any]
    affine: Affine


def read_volume(path: Path) -> Volume:
    """Read a 3-D `.nii` or `.nii.gz`; the array keeps the stored type unless the header scales it.

    The affine is the sform where its code is set, else the qform. Raises FileFormatError naming the
    file: not there, not NIfTI, cut off, not 3-D, not numbers, or without a usable affine.
    """
    image = _parse(path, _read_bytes(path))
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise FileFormatError(
            f"{path} has {len(image.shape)} dimensions {image.shape}, not 3",
            hint="give one volume per file",
        )
    if image.get_data_dtype().fields is not None or image.get_data_dtype().kind not in "iuf":
        raise FileFormatError(
            f"{path} holds {image.get_data_dtype()} voxels (colour or complex), not CT numbers"
        )
    affine = usable_affine(str(path), image.header)
    try:
        array = np.asanyarray(image.dataobj)
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise FileFormatError(
            f"{path} is cut off or damaged: {error}", hint="copy or convert it again"
        ) from None
    return Volume(array.reshape(shape, order="F"), affine)


def read_header(path: Path) -> tuple[tuple[int, ...], Affine]:
    """Shape and affine alone. For `.nii.gz` only the first bytes are unpacked."""
    header = read_nifti_header(path)
    return tuple(int(n) for n in header.get_data_shape()), _affine(str(path), header)


def usable_affine(name: str, header: Any) -> Affine:
    """The affine of nibabel's header: its sform, or else its qform.

    FileFormatError naming `name` where it is not finite or flat.
    """
    affine = _affine(name, header)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise FileFormatError(f"{name} has no usable affine (sform and qform): {affine.tolist()}")
    return affine


def read_nifti_header(path: Path) -> Any:
    """Nibabel's header of a `.nii` or `.nii.gz`, read from the first bytes alone.

    What `write_volume` takes as `like`.
    """
    return _parse(path, _read_head(path), header_only=True)


def write_volume(
    path: Path, volume: Volume, *, slope: float | None = None, like: Any = None
) -> None:
    """Write `.nii` or `.nii.gz` atomically, with sform and qform (a sheared affine has no qform.

    Its code is then 0).

    The array's type is stored as it is (bool as uint8). `slope`: scale factor put into the header
    without changing the stored numbers. `like`: header of a file on the same grid, whose sform,
    qform and their codes are taken over as they are instead.
    """
    import nibabel as nib

    from hemseg_cli.imaging.geometry import is_sheared

    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    image = nib.Nifti1Image(array, volume.affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    if not is_sheared(volume.affine):
        image.set_qform(volume.affine, code=1)
    header = image.header.copy()
    if like is not None:
        for key in _PLACE:
            header[key] = like[key]
    if slope is not None:
        header.set_slope_inter(slope, 0.0)
    header.set_data_offset(352)
    head = header.binaryblock + b"\0\0\0\0"
    voxels = np.ascontiguousarray(array.T).data.cast(
        "B"
    )  # no copy of an array in the file's own order
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for part in _packed(head, voxels) if path.name.endswith(".gz") else (head, voxels):
            file.write(part)


def _packed(*parts: bytes | memoryview) -> Iterator[bytes]:
    """The parts as one gzip stream, without a time in its header.

    The same voxels give the same file.
    """
    from isal import isal_zlib

    packer = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW)
    for part in parts:
        for start in range(0, len(part), _CHUNK):
            yield packer.compress(part[start : start + _CHUNK])
    yield packer.flush()


def read_sidecar(image_path: Path) -> dict[str, Any] | None:
    """The JSON that `convert` puts beside an image (`<scan>.json`), None where there is none."""
    path = sidecar_path(image_path)
    if not path.is_file():
        return None
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FileFormatError(
            f"{path} is not valid JSON: {error}", hint="hemseg convert --force   writes it anew"
        ) from None
    if not isinstance(sidecar, dict):
        raise FileFormatError(
            f"{path} is not a sidecar: not a JSON object",
            hint="hemseg convert --force   writes it anew",
        )
    return sidecar


def sidecar_path(image_path: Path) -> Path:
    """`x.nii.gz` or `x.nii` -> `x.json`."""
    return image_path.with_name(nifti_stem(image_path) + ".json")


def nifti_stem(path: Path) -> str:
    """The file name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _affine(name: str, header: Any) -> Affine:
    """NaN in a damaged header stays."""
    from nibabel.spatialimages import HeaderDataError

    try:
        with np.errstate(invalid="ignore"):
            return np.asarray(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise FileFormatError(f"{name} has no usable affine (sform and qform): {error}") from None


def _read_bytes(path: Path) -> bytes:
    """The file, unpacked as far as its header says that it reaches, if that is no more than a scan: a bomb costs no more than one."""
    try:
        data = path.read_bytes()
        if data[:2] != _GZIP_MAGIC:
            return data
        head = _unpacked(data, _HEAD)
        return _unpacked(data, _announced(path, head)) if len(head) == _HEAD else head
    except (OSError, EOFError, _gzip_error()) as error:
        raise _unreadable(path, error) from None


def _announced(path: Path, head: bytes) -> int:
    """Bytes of the unpacked file by its header.

    FileFormatError where no scan is that large, or half of the free memory not larger.
    """
    import psutil

    header = _parse(path, head, header_only=True)
    try:
        shape = tuple(int(n) for n in header.get_data_shape())
        size: int = int(header["vox_offset"]) + math.prod(shape) * int(
            header.get_data_dtype().itemsize
        )
    except (ValueError, OverflowError) as error:
        raise FileFormatError(f"{path} is not a NIfTI file: {error}") from None
    if math.prod(shape) > _MOST_VOXELS:
        raise FileFormatError(
            f"{path} would unpack to {size:,} bytes: {shape} is larger than any head CT"
        )
    free = psutil.virtual_memory().available
    if size > free // 2:
        raise FileFormatError(
            f"{path} would unpack to {size:,} bytes, and {free:,} bytes of memory are free",
            hint="more memory",
        )
    return max(size, _HEAD)


def _unpacked(data: bytes, size: int) -> bytes:
    """The first `size` bytes of a gzip file of one or more members; fewer where it ends before.

    Its checksum is tested at its end.
    """
    from isal import isal_zlib

    parts: list[bytes] = []
    while size > 0 and data[:2] == _GZIP_MAGIC:
        stream = isal_zlib.decompressobj(_GZIP_WINDOW)
        parts.append(stream.decompress(data, size))
        size -= len(parts[-1])
        if size == 0 and not stream.eof:
            stream.decompress(stream.unconsumed_tail, 1)
        data = stream.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_head(path: Path) -> bytes:
    from isal import igzip

    try:
        opener = igzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")
        with opener as file:
            return bytes(file.read(_HEAD))
    except (OSError, EOFError, _gzip_error()) as error:
        raise _unreadable(path, error) from None


def _parse(path: Path, data: bytes, *, header_only: bool = False) -> Any:
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        if header_only:
            return nib.Nifti1Header(data[:348], check=True)
        with np.errstate(invalid="ignore"):  # NaN in a damaged header: refused by its affine
            return nib.Nifti1Image.from_bytes(data)
    except (
        ImageFileError,
        HeaderDataError,
        WrapStructError,
        ValueError,
        OSError,
        EOFError,
        OverflowError,
    ) as error:
        raise FileFormatError(
            f"{path} is not a NIfTI file: {error}",
            hint="images are .nii or .nii.gz; DICOM folders go through convert",
        ) from None


def _unreadable(path: Path, error: Exception) -> FileFormatError:
    if isinstance(error, FileNotFoundError):
        return FileFormatError(f"{path} does not exist")
    reason = getattr(error, "strerror", None) or str(error)
    return FileFormatError(f"cannot read {path}: {reason}", hint="copy or convert it again")


def _gzip_error() -> type[Exception]:
    """What ISA-L raises on damaged data; its type stub calls the class an instance."""
    from isal import isal_zlib

    return cast(type[Exception], isal_zlib.error)
