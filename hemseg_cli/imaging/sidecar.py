"""The sidecar of a converted image: `<scan>.json`, what is known beyond the NIfTI header.

It is written and read by one dataclass, and it names the image it belongs to by shape, affine and
a hash of the voxels: a sidecar beside another image (edited, resampled, or somebody else's file of
the same name) is never believed.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.geometry import Affine
from hemseg_cli.imaging.nifti import Volume, nifti_stem

SIDECAR_FORMAT = 1

GeometryKind = Literal["label", "true"]
"""label: ITK's grid, which drops a gantry tilt's shear; true: an upright grid."""

_AFFINE_ATOL_MM = 1e-3  # NIfTI stores an affine in single precision
_MAX_BYTES = 4 * 2**20  # thousands of slices, each with a long file name, take less
_SHOULD_BE = "hemseg convert --force   writes the image and its sidecar anew"

Positive = Annotated[float, Field(gt=0)]
Row = tuple[float, float, float, float]


@dataclass(frozen=True)
class Sidecar:
    """What `convert` knows of an image. Lengths in mm, angles in degrees, intensities in HU.

    `affine` is the image's own (index to RAS mm); `true_affine` keeps the shear of a tilted gantry,
    and `voxel_volume_mm3` is its determinant. `gantry_tilt_deg` is the scan's where `tilt_deg` is 0
    because the image was resampled upright. `source_slices` are file names or slice ids in the
    order of the image, `slice_positions_mm` their places along the normal from the first one;
    `interpolated`: uneven steps were made even. `voxels_hash` binds the sidecar to its image.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    scan: str
    patient: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[Positive, Positive, Positive]
    tilt_deg: float
    slice_distance_mm: Positive
    voxel_volume_mm3: Positive
    affine: tuple[Row, Row, Row, Row]
    true_affine: tuple[Row, Row, Row, Row]
    hu_min: int
    hu_max: int
    share_air: float
    share_brain: float
    share_bone: float
    source_slices: tuple[str, ...]
    slices_given: int
    slice_positions_mm: tuple[float, ...]
    interpolated: bool
    geometry: GeometryKind
    warnings: tuple[str, ...]
    gantry_tilt_deg: float | None = None
    voxels_hash: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the sidecar as plain values, with the version of its format."""
        return {"format": SIDECAR_FORMAT} | dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any, place: str) -> "Sidecar":
        """Check plain values; FileFormatError names `place` and the key that is wrong."""
        if not isinstance(values, dict):
            raise FileFormatError(f"{place} is not a sidecar: not a JSON object", hint=_SHOULD_BE)
        version = values.get("format")
        if version != SIDECAR_FORMAT:
            raise FileFormatError(
                f"{place} is not a sidecar of format {SIDECAR_FORMAT} (format = {version!r:.40})",
                hint=_SHOULD_BE,
            )

        given = {key: value for key, value in values.items() if key != "format"}
        try:
            return TypeAdapter(cls).validate_python(given)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(str(part) for part in first["loc"])[:80]
            raise FileFormatError(
                f"{place} is not a sidecar: {key}: {first['msg']}", hint=_SHOULD_BE
            ) from None

    def bound_to(self, array: NDArray[Any]) -> "Sidecar":
        """Return the sidecar with the hash of the image's voxels."""
        return dataclasses.replace(self, voxels_hash=voxels_hash(array))

    def mismatch(self, shape: tuple[int, ...], affine: Affine) -> str:
        """Say how an image's grid differs from the sidecar's; empty where it does not."""
        if tuple(shape) != self.shape:
            return f"its shape is {tuple(shape)}, the sidecar's {self.shape}"
        difference = float(np.abs(affine - np.array(self.affine)).max())
        if not difference <= _AFFINE_ATOL_MM * max(1.0, math.sqrt(max(self.shape))):
            return f"its affine differs from the sidecar's by {difference:.3g} mm"
        return ""


def matrix_rows(affine: Affine) -> tuple[Row, Row, Row, Row]:
    """Return an affine as rows of plain numbers, rounded to 1e-9."""
    rows = np.round(affine, 9).tolist()
    return cast(tuple[Row, Row, Row, Row], tuple(tuple(row) for row in rows))


def voxels_hash(array: NDArray[Any]) -> str:
    """Hash type and voxels of an image [i, j, k], whatever its order in memory."""
    # The file's own byte order and axis order: reading and writing give one hash.
    plain = np.ascontiguousarray(array.T.astype(array.dtype.newbyteorder("<"), copy=False))
    digest = hashlib.blake2b(str(plain.dtype.str).encode(), digest_size=16)
    digest.update(plain.data.cast("B"))
    return digest.hexdigest()


def sidecar_path(image_path: Path) -> Path:
    """Name the sidecar: `x.nii.gz` or `x.nii` -> `x.json`."""
    return image_path.with_name(nifti_stem(image_path) + ".json")


def read_sidecar(image_path: Path) -> Sidecar | None:
    """Read the sidecar beside an image, None where there is none.

    FileFormatError names the file where it is not one of ours: not UTF-8, not JSON, another form
    or format version, NaN, or far too large.
    """
    path = sidecar_path(image_path)
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > _MAX_BYTES:
            raise FileFormatError(f"{path} is too large for a sidecar", hint=_SHOULD_BE)
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise FileFormatError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not valid JSON: {error}", hint=_SHOULD_BE) from None
    return Sidecar.from_dict(values, str(path))


def find_sidecar(image_path: Path, volume: Volume) -> tuple[Sidecar | None, str]:
    """Return the sidecar of a volume that was just read from `image_path`, and a warning.

    The sidecar is None where there is none or where it does not belong to this very image; the
    warning then says why it was ignored. Nothing is raised: a sidecar never stops a scan.
    """
    try:
        sidecar = read_sidecar(image_path)
    except FileFormatError as error:
        return None, f"sidecar ignored: {error.message}"
    if sidecar is None:
        return None, ""

    differs = sidecar.mismatch(volume.array.shape, volume.affine)
    if not differs and voxels_hash(volume.array) != sidecar.voxels_hash:
        differs = "its voxels are not those that were converted"
    if differs:
        name = sidecar_path(image_path).name
        return None, f"sidecar ignored: {name} does not belong to the image: {differs}"
    return sidecar, ""
