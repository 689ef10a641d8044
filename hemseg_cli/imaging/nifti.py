"""NIfTI files: read as an array with its affine, written whole or not at all. gzip by ISA-L.

The only place that reads a NIfTI header. NIfTI-1 and NIfTI-2 in either byte order, plain or
gzipped whatever the suffix says. Lengths come out in millimetres: `xyzt_units` of micrometres and
metres are converted (NIfTI-1 standard, `NIFTI_UNITS_*`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.files import atomic_path
from hemseg_cli.imaging.bounded_files import BoundedReader, open_regular
from hemseg_cli.imaging.geometry import Affine, check_spacing, is_sheared

_GZIP_LEVEL = 2
"""ISA-L's levels are 0 to 3; on head CT 2 is 5 to 7 % larger than zlib 6, 20 times faster, and
smaller than 3.
"""
_GZIP_WINDOW_BITS = 31  # a gzip header and the full window
_CHUNK_BYTES = 1 << 20
_NIFTI1_BYTES, _NIFTI2_BYTES = 348, 540
_HEAD_BYTES = 544  # the longer header, and the extension flag behind it
_MOST_VOXELS = 2**30  # 1024 x 1024 x 1024
_UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units & 7: unknown, metre, mm, micron
_EXPORT_HINT = "convert the DICOM series again (dcm2niix), or give its folder to hemseg"
_HINT = "images are .nii or .nii.gz; DICOM folders go through convert"

_PLACE_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
    *("pixdim", "xyzt_units"),
)


@dataclass(frozen=True)
class Volume:
    """Hold an image with its place in the world.

    `array` is [i, j, k], `affine` goes from index to RAS mm (see `geometry`).
    """

    array: NDArray[Any]
    affine: Affine


@dataclass(frozen=True)
class NiftiHeader:
    """Hold what a NIfTI header says, checked: `affine` to RAS mm, voxels from byte `offset` on.

    `scale`: slope and intercept of the stored numbers, None where they are meant as they are.
    `raw`: nibabel's header, for the fields that place a grid.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    scale: tuple[float, float] | None
    affine: Affine
    raw: Any

    @property
    def voxel_count(self) -> int:
        """How many voxels the file holds."""
        return math.prod(self.shape)

    @property
    def file_bytes(self) -> int:
        """How long the file is, unpacked, by its own account."""
        return self.offset + self.voxel_count * self.dtype.itemsize

    @property
    def has_sform(self) -> bool:
        """Whether the sform is set."""
        return int(self.raw["sform_code"]) > 0

    @property
    def has_qform(self) -> bool:
        """Whether the qform is set."""
        return int(self.raw["qform_code"]) > 0

    def volume_shape(self, name: str) -> tuple[int, int, int]:
        """Return the three sizes of a volume, trailing ones dropped; FileFormatError otherwise."""
        shape = self.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]

        if len(shape) != 3:
            raise FileFormatError(
                f"{name} has {len(self.shape)} dimensions {self.shape}, not 3",
                hint="give one volume per file",
            )
        return shape[0], shape[1], shape[2]


def read_volume(path: Path) -> Volume:
    """Read a 3-D `.nii` or `.nii.gz`; the array keeps the stored type unless the header scales it.

    The affine is the sform where its code is set, else the qform. Raises FileFormatError naming the
    file: not there, no regular file, not NIfTI, cut off, not 3-D, without voxels, not numbers, or
    without a usable affine or spacing. No more is read or unpacked than the header announces, and
    nothing where that is larger than any head CT or than half of the free memory.
    """
    with open_regular(path) as file:
        reader = BoundedReader(str(path), file)
        head = reader.head(_HEAD_BYTES)
        header = parse_header(str(path), head)
        shape = header.volume_shape(str(path))
        _refuse_too_large(path, header)

        data = bytearray(head[: header.file_bytes])
        if header.file_bytes > len(data):
            data += reader.exactly(header.file_bytes - len(data))
        reader.check_sum()

    stored = np.frombuffer(data, header.dtype, header.voxel_count, header.offset)
    return Volume(_scaled(stored, header).reshape(shape, order="F"), header.affine)


def read_header(path: Path) -> tuple[tuple[int, ...], Affine]:
    """Read shape and affine alone. For `.nii.gz` only the first bytes are unpacked."""
    header = read_nifti_header(path)
    return header.shape, header.affine


def read_nifti_header(path: Path) -> NiftiHeader:
    """Read the header of a `.nii` or `.nii.gz`, from the first bytes alone.

    What `write_volume` takes as `like`.
    """
    with open_regular(path) as file:
        return parse_header(str(path), BoundedReader(str(path), file).head(_HEAD_BYTES))


def parse_header(name: str, head: bytes) -> NiftiHeader:
    """Parse the first `_HEAD_BYTES` bytes (fewer: the file is shorter) of a NIfTI file.

    FileFormatError naming `name`: no single-file NIfTI header, voxels that are no numbers, no
    voxels at all, no usable affine, an absurd spacing.
    """
    from nibabel.spatialimages import HeaderDataError

    raw = _raw_header(name, head)
    # The one place where a damaged header's NaN meets numpy: it is refused below, not warned of.
    with np.errstate(invalid="ignore", over="ignore"):
        try:
            header = NiftiHeader(
                tuple(int(n) for n in raw.get_data_shape()),
                raw.get_data_dtype(),
                int(raw["vox_offset"]),
                _scale(raw),
                np.asarray(raw.get_best_affine(), dtype=np.float64),
                raw,
            )
        except (HeaderDataError, np.linalg.LinAlgError) as error:
            raise FileFormatError(f"{name} has no usable affine or type: {error}") from None
        except KeyError as error:
            raise FileFormatError(f"{name} has an unknown type of voxel: {error}") from None
        except (ValueError, OverflowError) as error:
            raise FileFormatError(f"{name} is not a NIfTI file: {error}", hint=_HINT) from None

        return _checked(name, header)


def has_nifti_magic(head: bytes) -> bool:
    """Tell whether a file begins with the header of a single-file NIfTI, version 1 or 2."""
    return head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0"


def _raw_header(name: str, head: bytes) -> Any:
    """Return nibabel's header of the version that the bytes are, with its small faults mended."""
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    if not has_nifti_magic(head):
        raise FileFormatError(
            f"{name} is not a NIfTI file: no single-file NIfTI header", hint=_HINT
        )

    is_second = head[4:8] == b"n+2\0"
    kind: Any = nib.Nifti2Header if is_second else nib.Nifti1Header
    size = _NIFTI2_BYTES if is_second else _NIFTI1_BYTES
    try:
        raw = kind(head[:size], check=False)
    except (HeaderDataError, WrapStructError, ValueError) as error:
        raise FileFormatError(f"{name} is not a NIfTI file: {error}", hint=_HINT) from None

    # Old tools leave the sign of the qform's third axis at 0, which the standard reads as 1.
    steps = raw["pixdim"]
    if steps[0] not in (-1, 1):
        steps[0] = 1
    steps[1:4] = np.abs(steps[1:4])
    return raw


def _scale(raw: Any) -> tuple[float, float] | None:
    slope, intercept = raw.get_slope_inter()
    if slope is None or (slope == 1 and not intercept):
        return None
    return float(slope), float(intercept or 0.0)


def _checked(name: str, header: NiftiHeader) -> NiftiHeader:
    """Return the header with its affine in mm; FileFormatError where it is of no use."""
    if header.dtype.fields is not None or header.dtype.kind not in "iuf":
        kind = "colour" if header.dtype.fields is not None else f"{header.dtype}"
        raise FileFormatError(f"{name} holds {kind} voxels, not CT numbers", hint=_EXPORT_HINT)
    if header.dtype.itemsize > 8:
        raise FileFormatError(
            f"{name} holds {header.dtype} voxels, not numbers of up to 64 bits", hint=_EXPORT_HINT
        )
    if not header.shape or min(header.shape) < 1:
        size = " x ".join(map(str, header.shape)) or "0"
        raise FileFormatError(f"{name} has no voxels: its size is {size}", hint=_EXPORT_HINT)
    if header.offset < _NIFTI1_BYTES:
        raise FileFormatError(
            f"{name} is not a NIfTI file: voxels begin at byte {header.offset}", hint=_EXPORT_HINT
        )

    affine = header.affine
    if not np.isfinite(affine).all() or not np.linalg.norm(affine[:3, :3], axis=0).all():
        raise FileFormatError(
            f"{name} has no usable affine (sform and qform): {affine.tolist()}", hint=_EXPORT_HINT
        )

    # Only now are the units known to belong to numbers.
    units = int(header.raw["xyzt_units"]) & 7
    if units not in _UNIT_MM:
        raise FileFormatError(
            f"{name} has no known unit of length (xyzt_units {units})", hint=_EXPORT_HINT
        )
    affine = np.diag([*(3 * [_UNIT_MM[units]]), 1.0]) @ affine

    check_spacing(name, affine)
    return NiftiHeader(header.shape, header.dtype, header.offset, header.scale, affine, header.raw)


def _refuse_too_large(path: Path, header: NiftiHeader) -> None:
    """Raise FileFormatError where no scan is that large, or half of the free memory not larger."""
    import psutil

    size = header.file_bytes
    if header.voxel_count > _MOST_VOXELS:
        raise FileFormatError(
            f"{path} would unpack to {size:,} bytes: {header.shape} is larger than any head CT"
        )

    free = psutil.virtual_memory().available
    if size > free // 2:
        raise FileFormatError(
            f"{path} would unpack to {size:,} bytes, and {free:,} bytes of memory are free",
            hint="more memory",
        )


def _scaled(stored: NDArray[Any], header: NiftiHeader) -> NDArray[Any]:
    """Return stored numbers in the machine's byte order, scaled as the header says."""
    from nibabel.volumeutils import apply_read_scaling

    if not stored.dtype.isnative:
        stored = stored.astype(stored.dtype.newbyteorder("="))
    if header.scale is None:
        return stored
    return np.asarray(apply_read_scaling(stored, *header.scale))


def write_volume(
    path: Path, volume: Volume, *, slope: float | None = None, like: NiftiHeader | None = None
) -> None:
    """Write `.nii` or `.nii.gz` atomically, with sform and qform.

    A sheared affine has no qform: its code is then 0. The array's type is stored as it is (bool as
    uint8). `slope`: scale factor put into the header without changing the stored numbers. `like`:
    header of a file on the same grid, whose sform, qform, codes and units are taken over as they
    are instead.
    """
    import nibabel as nib

    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array
    image = nib.Nifti1Image(array, volume.affine, dtype=array.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    if not is_sheared(volume.affine):
        image.set_qform(volume.affine, code=1)

    header = image.header.copy()
    if like is not None:
        for field in _PLACE_FIELDS:
            header[field] = like.raw[field]
    if slope is not None:
        header.set_slope_inter(slope, 0.0)
    header.set_data_offset(352)

    head = header.binaryblock + b"\0\0\0\0"
    # The transposed array is contiguous in the file's own order: nothing is copied.
    voxels = np.ascontiguousarray(array.T).data.cast("B")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for part in _packed(head, voxels) if path.name.endswith(".gz") else (head, voxels):
            file.write(part)


def _packed(*parts: bytes | memoryview) -> Iterator[bytes]:
    """Yield the parts as one gzip stream, without a time in its header.

    The same voxels give the same file.
    """
    from isal import isal_zlib

    packer = isal_zlib.compressobj(_GZIP_LEVEL, isal_zlib.DEFLATED, _GZIP_WINDOW_BITS)
    for part in parts:
        for start in range(0, len(part), _CHUNK_BYTES):
            yield packer.compress(part[start : start + _CHUNK_BYTES])
    yield packer.flush()


def nifti_stem(path: Path) -> str:
    """The file name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")
