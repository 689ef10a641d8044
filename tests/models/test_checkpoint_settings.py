"""Settings and weights of strangers: refused by name, without the memory that they ask for."""

import copy
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.models.archive import write_archive
from hemseg_cli.models.checkpoint import write_checkpoint
from hemseg_cli.models.checkpoint_settings import FORMAT, read_settings
from hemseg_cli.models.registry import build_network
from tests.models.reading import read_one

UNET = {
    "spatial_dims": 3,
    "out_channels": 1,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 0,
}
WINDOW = {"low": 0.0, "high": 80.0, "mean": 40.0, "std": 40.0}


def honest() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "model": build_network("unet", UNET, 1).state_dict(),
        "model_name": "unet",
        "model_config": UNET,
        "preprocess": {"spacing_mm": [None, None, 5.0], "windows": [WINDOW]},
        "patch": [16, 16, 8],
        "in_channels": 1,
        "step": 3,
        "epoch": 1,
        "predict": {"threshold": 0.4, "overlap": 0.5, "tta": True, "weighting": "gaussian"},
        "padding": "air",
        "mirrored": [0],
    }


def write(file: Path, values: dict[str, Any]) -> Path:
    if file.suffix == ".pt":
        write_checkpoint(file, values)
    else:
        write_archive(file, [values], files={})
    return file


WRONG: list[tuple[str, Any]] = [
    ("model_name", 3),
    ("model_name", ""),
    ("model_name", None),
    ("model_name", "u-net"),
    ("model_name", "os:system"),
    ("model_name", "\x1b[2J"),
    ("model_config", [1, 2]),
    ("model_config", "UNet"),
    ("model_config", {"channels": float("nan")}),
    ("model_config", {"channels": {"deep": [[[[[[[[[[1]]]]]]]]]]}}),
    ("preprocess", []),
    ("preprocess", {"spacing_mm": [1, 1]}),
    ("preprocess", {"spacing_mm": [1, 1, 0]}),
    ("preprocess", {"spacing_mm": [1, 1, 1e-9]}),
    ("preprocess", {"spacing_mm": ["1", 1, 1]}),
    ("preprocess", {"windows": []}),
    ("preprocess", {"windows": [{**WINDOW, "std": 0.0}]}),
    ("preprocess", {"windows": [{**WINDOW, "std": float("inf")}]}),
    ("preprocess", {"windows": [{**WINDOW, "low": 90.0}]}),
    ("preprocess", {"windows": [{**WINDOW, "mean": float("nan")}]}),
    ("preprocess", {"windows": {"low": 0}}),
    ("preprocess", {"keep_within": "much"}),
    ("patch", [16, 16]),
    ("patch", 16),
    ("patch", [16, 16, 8.5]),
    ("patch", [16, -16, 8]),
    ("patch", [4096, 4096, 4096]),
    ("patch", [True, True, True]),
    ("in_channels", 0),
    ("in_channels", True),
    ("in_channels", "1"),
    ("in_channels", 10**8),
    ("step", -1),
    ("epoch", "first"),
    ("predict", 7),
    ("predict", {"threshold": 0.0}),
    ("predict", {"threshold": float("nan")}),
    ("predict", {"threshold": "0.5"}),
    ("predict", {"overlap": 1.0}),
    ("predict", {"overlap": -0.1}),
    ("predict", {"tta": "yes"}),
    ("predict", {"weighting": "heavy"}),
    ("predict", {"min_component_ml": float("inf")}),
    ("predict", {"something": float("inf")}),
    ("padding", "water"),
    ("mirrored", [3]),
    ("mirrored", [0, 1, 2, 0]),
    ("mirrored", True),
    ("classes", {"value": 1}),
]


@pytest.mark.parametrize("ending", ["pt", "zip"])
@pytest.mark.parametrize(
    ("key", "value"), WRONG, ids=[f"{key}-{n}" for n, (key, _) in enumerate(WRONG)]
)
def test_wrong_value_is_refused_by_name_in_both_files(
    tmp_path: Path, ending: str, key: str, value: object
) -> None:
    file = tmp_path / f"model.{ending}"
    if ending == "pt":
        write(file, {**honest(), key: value})
    else:  # an archive of this name may not be one that hemseg would write
        write(file, honest())
        change_settings(file, {key: value})
    with pytest.raises(FileFormatError, match=rf"model\.{ending}.*({key}|train\.model|somebody)"):
        read_one(file)


@pytest.mark.parametrize("ending", ["pt", "zip"])
def test_honest_file_is_read_as_it_was_written(tmp_path: Path, ending: str) -> None:
    sent, got = honest(), read_one(write(tmp_path / f"model.{ending}", honest()))
    assert {key: value for key, value in got.items() if key in sent and key != "model"} == {
        key: value for key, value in sent.items() if key != "model"
    }
    assert all(torch.equal(got["model"][key], sent["model"][key]) for key in sent["model"])


@pytest.mark.parametrize("version", [FORMAT - 1, FORMAT + 1, None, "2", 2.5])
@pytest.mark.parametrize("ending", ["pt", "zip"])
def test_other_format_version_is_named(tmp_path: Path, ending: str, version: object) -> None:
    file = write(tmp_path / f"model.{ending}", honest())
    if ending == "pt":
        torch.save({**honest(), "format": version}, file)
    else:
        change_settings(file, {"format": version})
    with pytest.raises(FileFormatError, match=f"which reads format {FORMAT}"):
        read_one(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("ending", ["pt", "zip"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, ending: str, value: float) -> None:
    values = honest()
    key = next(iter(values["model"]))
    values["model"][key].view(-1)[3] = value
    with pytest.raises(FileFormatError, match=f"model.{ending}.*{key} holds numbers that are not"):
        read_one(write(tmp_path / f"model.{ending}", values))


@pytest.mark.parametrize(
    "config",
    [
        {**UNET, "channels": [10**8, 10**8]},
        {**UNET, "channels": [10**7, 10**7]},
        {**UNET, "channels": [4] * 5000, "strides": [1] * 4999},
        {**UNET, "num_res_units": 10**7},
        {**UNET, "num_res_units": 10**6},
        {**UNET, "kernel_size": 10**6 + 1},
        {**UNET, "spatial_dims": 10**6},
        {**UNET, "strides": [0]},
        {**UNET, "channels": None},
        {**UNET, "norm": "os.system"},
        {**UNET, "act": ["relu", {"inplace": "yes", "x": 1}]},
    ],
)
@pytest.mark.parametrize("ending", ["pt", "zip"])
def test_monstrous_or_impossible_network_is_refused_in_seconds(
    tmp_path: Path, ending: str, config: dict[str, Any]
) -> None:
    file = write(tmp_path / f"model.{ending}", {**honest(), "model_config": config})
    with pytest.raises(FileFormatError, match=f"model.{ending}"):
        read_one(file)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("segresnet", {"blocks_down": [10**6], "blocks_up": []}),
        ("segresnet", {"init_filters": 10**7}),
        ("segresnet-2d", {"neighbours": 10**7}),
        ("segresnet-2d", {"neighbours": -1}),
        ("swin-unetr", {"depths": [10**5] * 4}),
        ("swin-unetr", {"window_size": 10**5}),
        ("unetr", {"img_size": [10**6, 10**6, 16]}),
        ("unetr", {"hidden_size": 10**7 - 4}),
        ("vnet", {"dropout_prob_down": 10**6}),
        ("dynunet", {"channels": [10**7] * 6}),
        ("dynunet", {"strides": [[10**6] * 3] * 6}),
    ],
)
def test_monstrous_sizes_of_every_network_are_refused(
    tmp_path: Path, name: str, config: dict[str, Any]
) -> None:
    file = write(tmp_path / "model.pt", {**honest(), "model_name": name, "model_config": config})
    with pytest.raises(FileFormatError, match=r"model\.pt"):
        read_one(file)


def test_patch_that_takes_terabytes_in_a_layer_is_refused(tmp_path: Path) -> None:
    wide = {**UNET, "channels": [256, 8], "strides": [1]}
    values = {**honest(), "model_config": wide, "patch": [512, 512, 256]}
    values["model"] = build_network("unet", wide, 1).state_dict()
    with pytest.raises(FileFormatError, match="numbers in one layer of unet"):
        read_one(write(tmp_path / "model.pt", values))


def test_packed_checkpoint_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.pt", honest())
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w") as target:
        for name in source.namelist():
            data = source.read(name) if "/data/" not in name else b"\0" * (64 << 20)
            target.writestr(name, data, compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(FileFormatError, match=r"bomb\.pt .* is packed"):
        read_one(bomb)


def test_weight_that_stands_for_more_numbers_than_the_file_holds_is_refused(
    tmp_path: Path,
) -> None:
    values = honest()
    key = next(iter(values["model"]))
    values["model"][key] = torch.zeros(1).expand(10**6, 10**6)
    with pytest.raises(FileFormatError, match="larger than what the file holds"):
        read_one(write(tmp_path / "model.pt", values))


@pytest.mark.parametrize(
    "weights",
    [
        [torch.zeros(1)],
        {1: torch.zeros(1)},
        {"a": [1.0]},
        {"a": torch.zeros(2, 2).to_sparse()},
        {"a": None},
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path: Path, weights: Any) -> None:
    torch.save({**honest(), "format": FORMAT, "model": weights}, tmp_path / "model.pt")
    with pytest.raises(FileFormatError, match=r"model\.pt"):
        read_one(tmp_path / "model.pt")


plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**8, -1, 0, 1e-300, "torch.nn.Conv3d", "\x1b[2J"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


def _places(values: object, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree of plain values, its own included."""
    pairs: list[tuple[Any, object]] = []
    if isinstance(values, dict):
        pairs = list(values.items())
    elif isinstance(values, list):
        pairs = list(enumerate(values))
    return [place, *(found for key, item in pairs for found in _places(item, (*place, key)))]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_value_in_any_place_is_read_or_refused_as_a_bad_file(
    tmp_path: Path, data: st.DataObject
) -> None:
    values = honest()
    stated = {key: value for key, value in values.items() if key != "model"}
    place = data.draw(st.sampled_from(_places(stated)[1:]))
    changed = copy.deepcopy(stated)
    target: Any = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = data.draw(plain_values)

    file = tmp_path / "model.pt"
    torch.save({"format": FORMAT, **changed, "model": values["model"]}, file)
    said = str(file)
    try:
        read_one(file)
    except HemsegError as error:
        said = str(error)
    assert "model.pt" in said


def change_settings(file: Path, change: dict[str, Any]) -> None:
    """Change entries of an archive's model.json and state its hash anew."""
    import hashlib

    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    stated = json.loads(members["model.json"])
    stated["networks"][0].update(change)
    members["model.json"] = json.dumps(stated).encode()
    hashes = {
        name: hashlib.sha256(content).hexdigest()
        for name, content in members.items()
        if name != "SHA256SUMS.json"
    }
    members["SHA256SUMS.json"] = json.dumps(hashes).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    file.write_bytes(packed.getvalue())


def test_settings_nested_without_end_are_refused() -> None:
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(FileFormatError):
        read_settings({**honest(), "format": FORMAT, "model_config": {"a": nested}}, "x")
