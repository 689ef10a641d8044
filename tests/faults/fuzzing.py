"""Files of every kind that strangers send, damaged or built to harm, and the readers they meet.

The tests here try some, `benchmarks/fuzz.py` thousands.
"""

import copy
import io
import json
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from hypothesis import strategies as st

from hemseg_cli.config.loading import validate_file
from hemseg_cli.core.cases import Case, read_cases, write_cases
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.dataset.labels.manifest import read_manifest
from hemseg_cli.imaging.dicom.elements import quiet_pydicom
from hemseg_cli.imaging.dicom.slice import read_frames
from hemseg_cli.imaging.image_file import read_image
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.nifti import Volume, write_volume
from hemseg_cli.imaging.sidecar import read_sidecar
from hemseg_cli.models.archive import read_archive, write_archive
from hemseg_cli.models.checkpoint import network_of, read_checkpoint
from tests import dicom_files
from tests.inference.small_model import NETWORK, PATCH
from tests.sidecars import sidecar_of

MOST_INSERTED_BYTES = 64

# What tables, JSON and TOML may hold where something else is expected.
_HOSTILE = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 10**30),
            *(0.0, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan")),
            *("", " ", "x" * 5000, "../up", "/etc/passwd", "a\\b", "\0", "\x1b[2J", "\udce4"),
            *("=1+1", "@x", "nan", "1e999", "0x10", "\u0661", "file:///etc/passwd", "~", "$HOME"),
            *([], {}, [[]], [{}], [1] * 2000, [None], {"": {}}, {"__class__": "os.system"}),
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=40),
    st.integers(1, 80).map(lambda depth: _nested(depth)),
).map(copy.deepcopy)  # what was drawn is altered again


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with a few changed, cut out, doubled or put in, or cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(1, MOST_INSERTED_BYTES))
        match draw(st.sampled_from(["flip", "zero", "cut", "insert", "double", "end"])):
            case "flip" if data:
                data[at] ^= draw(st.integers(1, 255))
            case "zero":
                data[at : at + length] = bytes(len(data[at : at + length]))
            case "cut":
                del data[at : at + length]
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=length))
            case "double":
                data[at:at] = data[at : at + length]
            case _:
                del data[at:]
    return bytes(data)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list | tuple)
        else ()
    )
    return [path, *(place for key, value in inside for place in _places(value, (*path, key)))]


@st.composite
def altered(draw: st.DrawFn, tree: Any, *, whole: bool = True) -> Any:
    """The nested tables and lists with one to three values replaced, left out or added."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = [place for place in _places(changed) if place or whole]
        if not places:
            break
        place = draw(st.sampled_from(places))
        if not place:
            return draw(_HOSTILE)
        inside = changed
        for key in place[:-1]:
            inside = inside[key]
        if not isinstance(inside, dict | list):
            continue
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                inside[place[-1]] = draw(_HOSTILE)
            case "remove":
                del inside[place[-1]]
            case _ if isinstance(inside, dict):
                inside[draw(st.text(max_size=12))] = draw(_HOSTILE)
            case _:
                inside.append(draw(_HOSTILE))
    return changed


def _json(tree: Any) -> bytes:
    return json.dumps(tree, default=str).encode()


# --- The kinds ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One kind of file: its name on the disk, whole bytes, bytes to try, and what reads it."""

    name: str
    whole: bytes
    contents: st.SearchStrategy[bytes]
    read: Callable[[Path], object]

    def attempt(self, folder: Path, content: bytes) -> bool:
        """Read the bytes as a file of this kind; whether they were taken.

        Whatever is not a HemsegError is a fault and is raised.
        """
        path = folder / self.name
        path.write_bytes(content)
        try:
            self.read(path)
        except HemsegError as error:
            said = str(error)
        else:
            return True
        # What is wrong is said, and a terminal is told nothing by it.
        assert said.strip()
        assert "\x1b" not in said
        assert said.encode()
        return False


def _model_values() -> dict[str, Any]:
    import torch

    from hemseg_cli.imaging.preprocess import Preprocess
    from hemseg_cli.models.registry import build_network

    torch.manual_seed(0)
    return {
        "model": build_network("unet", NETWORK, 1).state_dict(),
        "model_name": "unet",
        "model_config": dict(NETWORK),
        "preprocess": Preprocess((None, None, None)).to_dict(),
        "patch": list(PATCH),
        "in_channels": 1,
        "step": 1,
        "epoch": 1,
        "predict": {"threshold": 0.5},
    }


def _saved(values: Any) -> bytes:
    import torch

    data = io.BytesIO()
    torch.save(values, data)
    return data.getvalue()


def _read_checkpoint(path: Path) -> None:
    network_of(read_checkpoint(path))


def _read_archive(path: Path) -> None:
    for values in read_archive(path):
        network_of(values)


def _checkpoints(folder: Path) -> Kind:
    from hemseg_cli.models.checkpoint import write_checkpoint

    path = folder / "whole.pt"
    write_checkpoint(path, _model_values())
    import torch

    values = torch.load(path, weights_only=True)
    settings = {key: value for key, value in values.items() if key != "model"}
    weights = altered(dict(values["model"])).map(lambda model: values | {"model": model})
    contents = st.one_of(
        damaged(path.read_bytes()),
        altered(settings)
        .map(lambda tree: {"model": values["model"], **tree} if isinstance(tree, dict) else tree)
        .map(_saved),
        weights.map(_saved),
    )
    return Kind("model.pt", path.read_bytes(), contents, _read_checkpoint)


def _archives(folder: Path) -> Kind:
    import hashlib

    path = folder / "whole.zip"
    write_archive(path, [_model_values()], files={"metrics.json": b"{}"})
    with zipfile.ZipFile(path) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}

    def packed(changed: dict[str, bytes]) -> bytes:
        # Hashes that fit, so that it is the content which has to be refused.
        hashes = {
            name: hashlib.sha256(data).hexdigest()
            for name, data in changed.items()
            if name != "SHA256SUMS.json"
        }
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name, content in {**changed, "SHA256SUMS.json": _json(hashes)}.items():
                archive.writestr(name, content)
        return data.getvalue()

    def with_member(name: str, content: bytes) -> bytes:
        return packed({**members, name: content})

    stated = json.loads(members["model.json"])
    contents = st.one_of(
        damaged(path.read_bytes()),
        altered(stated).map(lambda tree: with_member("model.json", _json(tree))),
        *(
            damaged(content).map(lambda data, name=name: with_member(name, data))
            for name, content in members.items()
            if name != "SHA256SUMS.json"
        ),
    )
    return Kind("model.zip", path.read_bytes(), contents, _read_archive)


def _tables(folder: Path) -> Kind:
    path = folder / "whole.csv"
    cases = [
        Case(f"scan{n}", f"p{n}", "train", 30, f"train/label/scan{n}.nii.gz", truth_ml=1.5 * n)
        for n in range(3)
    ]
    write_cases(path, cases)
    rows = [line.split(",") for line in path.read_text().splitlines()]

    def text(tree: Any) -> bytes:
        lines = tree if isinstance(tree, list) else [tree]
        cells = (line if isinstance(line, list) else [line] for line in lines)
        joined = "\n".join(",".join(str(cell) for cell in line) for line in cells)
        return joined.encode("utf-8", "surrogateescape" if joined.isascii() else "replace")

    contents = st.one_of(damaged(path.read_bytes()), altered(rows).map(text))
    return Kind("cases.csv", path.read_bytes(), contents, read_cases)


_CONFIG = """\
[data]
root = "data"
dataset = "own"
[train]
model = "unet"
epochs = 3
lr = 0.001
patch = [32, 32, 8]
windows = [[0.0, 80.0]]
[train.models.unet]
network = {channels = [4, 8], strides = [2]}
[predict]
overlap = 0.5
format = "nifti"
[compute]
workers = 0
"""


def _configs(_folder: Path) -> Kind:
    def written(tree: Any) -> bytes:
        try:
            return tomli_w.dumps(tree).encode("utf-8", "replace")
        except (TypeError, ValueError, AttributeError):  # what TOML cannot hold
            return str(tree).encode("utf-8", "replace")

    contents = st.one_of(
        damaged(_CONFIG.encode()), altered(tomllib.loads(_CONFIG), whole=False).map(written)
    )
    return Kind("hemseg.toml", _CONFIG.encode(), contents, validate_file)


def _volume() -> Volume:
    array = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
    return Volume(array, np.diag([0.5, 0.5, 5.0, 1.0]))


@st.composite
def _headers(draw: st.DrawFn, content: bytes) -> bytes:
    """The file with some header fields of any value, in the field's own type."""
    import nibabel as nib

    header = nib.Nifti1Header(content[:348])
    raw = header.structarr
    for name in draw(st.lists(st.sampled_from(raw.dtype.names), min_size=1, max_size=4)):
        field = raw.dtype[name]
        drawn = draw(st.binary(min_size=field.itemsize, max_size=field.itemsize))
        # `dim` and `pixdim` are arrays of numbers: their own shape, not a single number's.
        raw[name] = np.frombuffer(drawn, dtype=field.base).reshape(field.shape)
    return bytes(raw.tobytes()) + content[348:]


def _nifti(folder: Path) -> Kind:
    path = folder / "whole.nii"
    write_volume(path, _volume())
    contents = st.one_of(damaged(path.read_bytes()), _headers(path.read_bytes()))
    return Kind("scan.nii", path.read_bytes(), contents, _read_scan)


def _nifti_gz(folder: Path) -> Kind:
    path = folder / "whole.nii.gz"
    write_volume(path, _volume())
    return Kind("scan.nii.gz", path.read_bytes(), damaged(path.read_bytes()), _read_scan)


def _read_scan(path: Path) -> None:
    read_image(path)
    read_label(path)


_KEYWORDS = (
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("SamplesPerPixel", "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept"),
    *("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Modality"),
    *("SOPInstanceUID", "PixelPaddingValue", "NumberOfFrames", "SliceThickness"),
)
_NUMBER = {"Rows", "Columns", "SamplesPerPixel", "PixelRepresentation"}


def _element(keyword: str) -> st.SearchStrategy[Any]:
    whole = st.one_of(st.integers(0, 65535), st.sampled_from([0, 1, 7, 8, 12, 15, 16, 17, 32, 64]))
    if keyword in _NUMBER or keyword.startswith(("Bits", "High")):
        return st.one_of(st.none(), whole)
    if keyword == "PixelPaddingValue":
        return st.one_of(st.none(), whole)
    number = st.sampled_from(["", "0", "-1", "1e30", "nan", "x", "0.5", "1e-9", "99999999999999"])
    return st.one_of(st.none(), number, st.lists(number, max_size=6))


def _slice(elements: dict[str, Any]) -> bytes:
    try:
        return dicom_files.slice_bytes(3, **elements)
    except Exception:  # pydicom itself refuses to write it
        return dicom_files.slice_bytes(3)


def _dicom(_folder: Path) -> Kind:
    elements = st.lists(st.sampled_from(_KEYWORDS), min_size=1, max_size=4, unique=True).flatmap(
        lambda keywords: st.fixed_dictionaries({each: _element(each) for each in keywords})
    )

    def read(path: Path) -> None:
        with quiet_pydicom():
            read_frames(path.read_bytes(), path.name)

    whole = dicom_files.slice_bytes(3)
    contents = st.one_of(damaged(whole), elements.map(_slice))
    return Kind("slice.dcm", whole, contents, read)


def _sidecars(_folder: Path) -> Kind:
    volume = _volume()
    values = sidecar_of(volume).to_dict()
    contents = st.one_of(damaged(_json(values)), altered(values).map(_json))

    def read(path: Path) -> None:
        found = read_sidecar(path.with_name("scan.nii.gz"))
        assert found is not None
        found.mismatch(volume.array.shape, volume.affine)

    return Kind("scan.json", _json(values), contents, read)


def _manifests(_folder: Path) -> Kind:
    row = {"scan": "0b0e31b57a", "patient": "p", "slices": ["0123456ab", "0123456ac"]}
    line = _json(row) + b"\n"
    other = {"scan": "0b0e31b57b", "patient": "q", "slices": ["0123456ad", "0123456ae"]}
    whole = line + _json(other) + b"\n"
    contents = st.one_of(
        damaged(whole), altered(other).map(lambda tree: line + _json(tree) + b"\n")
    )
    return Kind("manifest.jsonl", whole, contents, read_manifest)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "archive": _archives,
    "checkpoint": _checkpoints,
    "table": _tables,
    "config": _configs,
    "nifti": _nifti,
    "nifti.gz": _nifti_gz,
    "dicom": _dicom,
    "sidecar": _sidecars,
    "manifest": _manifests,
}
