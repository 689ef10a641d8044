import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.models.archive import read_card, read_models, write_archive
from hemseg_cli.models.checkpoint import network_of, write_checkpoint
from hemseg_cli.models.registry import build_network
from tests.models.reading import read_one

SMALL = {
    "spatial_dims": 3,
    "out_channels": 1,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 0,
}


def _checkpoint() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "model": build_network("unet", SMALL, 1).state_dict(),
        "model_name": "unet",
        "model_config": SMALL,
        "preprocess": {
            "spacing_mm": [None, None, None],
            "windows": [{"low": 0.0, "high": 80.0, "mean": 40.0, "std": 40.0}],
        },
        "patch": [16, 16, 8],
        "in_channels": 1,
        "step": 3,
        "epoch": 1,
        "predict": {"threshold": 0.4},
        "optimiser": {"state": "is not shared"},
    }


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.zip"
    write_archive(path, [_checkpoint()], files={"metrics.json": b"{}"})
    return path


def _with_members(
    source: Path, target: Path, change: dict[str, bytes | None], *, rehash: bool = False
) -> Path:
    """A copy of an archive with some members replaced (None: left out)."""
    import hashlib

    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, data in change.items():
        members.pop(name, None)
        if data is not None:
            members[name] = data
    if rehash:
        hashes = {
            name: hashlib.sha256(data).hexdigest()
            for name, data in members.items()
            if name != "SHA256SUMS.json"
        }
        members["SHA256SUMS.json"] = json.dumps(hashes).encode()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target


def test_network_and_settings_come_back_exactly(archive: Path) -> None:
    sent, got = _checkpoint(), read_one(archive)
    image = torch.randn(1, 1, 16, 16, 8)
    with torch.inference_mode():
        assert torch.equal(network_of(got)(image), network_of(sent)(image))
    assert {key: got[key] for key in ("patch", "predict", "preprocess", "epoch")} == {
        key: sent[key] for key in ("patch", "predict", "preprocess", "epoch")
    }
    assert "optimiser" not in got


def test_network_whose_blocks_have_two_names_is_stored_once_and_comes_back(tmp_path: Path) -> None:
    config = {
        "channels": [4, 8, 8],
        "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
        "kernels": [[3, 3, 1], [3, 3, 3], [3, 3, 3]],
        "supervised_levels": 1,
    }
    network = build_network("dynunet", config, 1)
    sent = {
        **_checkpoint(),
        "model": network.state_dict(),
        "model_name": "dynunet",
        "model_config": config,
    }
    write_archive(tmp_path / "dyn.zip", [sent], files={})
    got = read_one(tmp_path / "dyn.zip")
    assert got["model"].keys() == sent["model"].keys()
    assert all(torch.equal(got["model"][key], sent["model"][key]) for key in sent["model"])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (tmp_path / "dyn.zip").stat().st_size < 4 * parameters + 40_000


@pytest.mark.parametrize("aliases", [{"a": "absent"}, ["a"], {"a": 1}])
def test_alias_of_a_weight_that_is_not_there_is_refused(
    archive: Path, tmp_path: Path, aliases: object
) -> None:
    with zipfile.ZipFile(archive) as opened:
        stated = json.loads(opened.read("model.json"))
    stated["networks"][0]["aliases"] = aliases
    with pytest.raises(FileFormatError, match=r"bad\.zip"):
        read_one(
            _with_members(
                archive,
                tmp_path / "bad.zip",
                {"model.json": json.dumps(stated).encode()},
                rehash=True,
            )
        )


def test_same_checkpoint_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "again.zip", [_checkpoint()], files={"metrics.json": b"{}"})
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_checkpoint_and_archive_are_told_apart(archive: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "best.pt", _checkpoint())
    assert read_one(tmp_path / "best.pt")["epoch"] == read_one(archive)["epoch"] == 1


def test_changed_byte_is_found_by_its_hash(archive: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        weights = bytearray(opened.read("model-0.safetensors"))
    weights[-1] ^= 1
    with pytest.raises(FileFormatError, match=r"model-0\.safetensors was changed"):
        read_one(
            _with_members(
                archive, tmp_path / "changed.zip", {"model-0.safetensors": bytes(weights)}
            )
        )


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_damage_is_one_of_our_errors_or_changes_nothing(
    archive: Path, data: st.DataObject
) -> None:
    content = bytearray(archive.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    damaged = archive.with_name("damaged.zip")
    damaged.write_bytes(
        bytes(content[: data.draw(st.integers(0, len(content)))])
        if data.draw(st.booleans())
        else bytes(content)
    )
    try:
        got = read_one(damaged)["model"]
    except FileFormatError as error:
        said = str(error)
        got = _checkpoint()["model"]
    else:
        said = str(damaged)
    sent = _checkpoint()["model"]
    assert str(damaged) in said
    assert all(torch.equal(got[key], sent[key]) for key in sent)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"../escape": b"x"}, r"'\.\./escape' does not belong"),
        ({"model.pkl": b"x"}, "does not belong"),
        ({"model.json": None}, "has no model.json"),
        ({"model.json": b"[1]"}, "not a JSON object"),
        ({"model.json": b"{"}, "not valid JSON"),
        ({"model.json": b'{"format": 9}'}, "format 9 is not known"),
        ({"model.json": b'{"format": 2}'}, "lists no networks"),
        ({"model.json": b'{"format": 2, "networks": []}'}, "lists no networks"),
        ({"model.json": b'{"format": 2, "networks": 3}'}, "lists no networks"),
        ({"model.json": b'{"format": 2, "networks": [3]}'}, "not a list of tables"),
        ({"model.json": b'{"format": 2, "networks": [3, 3]}'}, "lists 2 networks"),
        ({"model-31.safetensors": b""}, "lists 1 networks, the archive has weights of 2"),
        ({"model-32.safetensors": b""}, "does not belong"),
        (
            {"model.json": b'{"format": 2, "networks": [{"format": 2, "model_name": "x"}]}'},
            r"model\.json: model_config: Field required",
        ),
        ({"model-0.safetensors": b"not safetensors"}, "is not readable"),
    ],
)
def test_hostile_or_foreign_member_is_named(
    archive: Path, tmp_path: Path, change: dict[str, bytes | None], message: str
) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_one(_with_members(archive, tmp_path / "bad.zip", change, rehash=True))


@pytest.mark.parametrize("channels", [[4, 16], [2**20, 2**20]])
def test_settings_of_another_or_a_monstrous_network_are_refused_before_it_is_built(
    archive: Path, tmp_path: Path, channels: list[int]
) -> None:
    with zipfile.ZipFile(archive) as opened:
        stated = json.loads(opened.read("model.json"))
    stated["networks"][0]["model_config"]["channels"] = channels
    with pytest.raises(FileFormatError, match="the weights are not those of unet"):
        read_one(
            _with_members(
                archive,
                tmp_path / "bad.zip",
                {"model.json": json.dumps(stated).encode()},
                rehash=True,
            )
        )


def test_packed_member_is_refused_so_that_nothing_can_unpack_to_more(
    archive: Path, tmp_path: Path
) -> None:
    with (
        zipfile.ZipFile(archive) as opened,
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in opened.namelist():
            bomb.writestr(name, b"\0" * (20 << 20) if name == "metrics.json" else opened.read(name))
    with pytest.raises(FileFormatError, match="is packed or larger"):
        read_one(tmp_path / "bomb.zip")


def test_no_archive_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(HemsegError, match="no model archive") as caught:
        read_one(tmp_path / "absent.zip")
    assert "hemseg export" in caught.value.hint


def test_networks_of_an_ensemble_come_back_in_their_order(tmp_path: Path) -> None:
    sent = [{**_checkpoint(), "epoch": number} for number in range(3)]
    sent[1]["model"] = {key: value + 1 for key, value in sent[1]["model"].items()}
    write_archive(tmp_path / "all.zip", sent, files={"README.md": b"# A card"})

    got = read_models(tmp_path / "all.zip")
    assert [network["epoch"] for network in got] == [0, 1, 2]
    for ours, theirs in zip(got, sent, strict=True):
        assert all(torch.equal(ours["model"][key], theirs["model"][key]) for key in theirs["model"])
    assert read_card(tmp_path / "all.zip")["README.md"] == "# A card"


@pytest.mark.parametrize("count", [0, 33])
def test_number_of_networks_is_bounded(tmp_path: Path, count: int) -> None:
    with pytest.raises(HemsegError, match="holds 1 to 32 networks"):
        write_archive(tmp_path / "a.zip", [_checkpoint()] * count, files={})


def test_every_listed_network_can_be_written_and_read(tmp_path: Path) -> None:
    config = {"feature_size": 12, "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]}
    swin = {
        **_checkpoint(),
        "model": build_network("swin-unetr", config, 1).state_dict(),
        "model_name": "swin-unetr",
        "model_config": config,
    }
    write_archive(tmp_path / "swin.zip", [swin], files={})
    assert read_one(tmp_path / "swin.zip")["model"].keys() == swin["model"].keys()
