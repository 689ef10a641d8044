import errno
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from hemseg_cli.core.errors import FileFormatError, HemsegError
from hemseg_cli.models import checkpoint
from hemseg_cli.models.checkpoint import (
    load_weights,
    network_of,
    read_checkpoint,
    write_checkpoint,
)
from hemseg_cli.models.registry import build_network
from hemseg_cli.models.weights import check_finite, check_shapes

CONFIG = {"channels": [4, 8], "strides": [2], "num_res_units": 0}


def values(network: torch.nn.Module, **others: Any) -> dict[str, Any]:
    return {
        "model": network.state_dict(),
        "model_name": "unet",
        "model_config": CONFIG,
        "preprocess": {
            "spacing_mm": [None, None, None],
            "windows": [{"low": 0.0, "high": 80.0, "mean": 40.0, "std": 40.0}],
        },
        "patch": [16, 16, 8],
        "in_channels": 1,
        "step": 12,
        "epoch": 3,
        **others,
    }


def test_network_comes_back_from_the_file_alone(tmp_path: Path) -> None:
    network = build_network("unet", CONFIG, 1).eval()
    write_checkpoint(tmp_path / "a.pt", values(network))
    again = network_of(read_checkpoint(tmp_path / "a.pt"))
    image = torch.randn(1, 1, 16, 16, 8)
    assert not again.training
    assert torch.equal(again(image), network(image))


def test_state_dict_has_monais_keys(tmp_path: Path) -> None:
    from monai.networks.nets import UNet

    write_checkpoint(tmp_path / "a.pt", values(build_network("unet", CONFIG, 1)))
    plain = UNet(3, 1, 1, (4, 8), (2,))
    plain.load_state_dict(torch.load(tmp_path / "a.pt", weights_only=True)["model"])
    assert set(plain.state_dict()) == set(read_checkpoint(tmp_path / "a.pt")["model"])


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.file}",))


def test_pickle_bomb_is_refused_and_does_not_go_off(tmp_path: Path) -> None:
    went_off = tmp_path / "went-off"
    torch.save(values(build_network("unet", CONFIG, 1), extra=Bomb(went_off)), tmp_path / "bomb.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(went_off)))
    for name in ("bomb.pt", "plain.pt"):
        with pytest.raises(FileFormatError, match=f"{name} is (refused|damaged)"):
            read_checkpoint(tmp_path / name)
    assert not went_off.exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())
    assert went_off.exists()  # the bomb was a live one


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"nothing of the kind" * 100, b"\x80\x04."]
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"x\.pt is (damaged|refused)"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95, 0.999])
def test_cut_off_file_is_named(tmp_path: Path, share: float) -> None:
    write_checkpoint(tmp_path / "a.pt", values(build_network("unet", CONFIG, 1)))
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[: int(share * len(data))])
    with pytest.raises(FileFormatError, match=r"a\.pt is damaged"):
        read_checkpoint(tmp_path / "a.pt")


def test_changed_byte_in_the_weights_is_noticed(tmp_path: Path) -> None:
    write_checkpoint(
        tmp_path / "a.pt", values(build_network("unet", CONFIG, 1), weights=torch.zeros(5000))
    )
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(b"\0" * 10000) + 5000] = 7
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(FileFormatError, match=r"a\.pt is damaged"):
        read_checkpoint(tmp_path / "a.pt")


def test_foreign_state_dict_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    torch.save(build_network("unet", CONFIG, 1).state_dict(), tmp_path / "plain.pt")
    with pytest.raises(
        FileFormatError, match=r"plain\.pt is no checkpoint of hemseg: it has no model, model_name"
    ):
        read_checkpoint(tmp_path / "plain.pt")
    with pytest.raises(HemsegError, match=r"no checkpoint .*none\.pt"):
        read_checkpoint(tmp_path / "none.pt")


def test_weights_of_another_network_are_refused() -> None:
    other = build_network(
        "segresnet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}, 1
    )
    with pytest.raises(FileFormatError, match="the weights are not those of unet: Missing key"):
        network_of(values(other))


def test_full_disk_leaves_the_old_file_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.pt"
    write_checkpoint(file, values(build_network("unet", CONFIG, 1)))

    def full(self: checkpoint._Sink, _data: bytes) -> int:
        self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise self.error

    monkeypatch.setattr(checkpoint._Sink, "write", full)
    with pytest.raises(HemsegError, match=r"cannot write .*a\.pt: the disk is full"):
        write_checkpoint(file, values(build_network("unet", CONFIG, 1), epoch=4))
    assert read_checkpoint(file)["epoch"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    "fault", [torch.tensor([float("nan")]), torch.zeros(1).expand(9), torch.eye(2).to_sparse()]
)
def test_names_of_weights_reach_no_terminal_raw(fault: torch.Tensor) -> None:
    network = build_network("unet", CONFIG, 1)
    weights = {"\x1b]0;owned\x07\nhead" + "x" * 1000: fault, **network.state_dict()}
    with pytest.raises(FileFormatError, match="the weight") as caught:
        check_finite(weights)
    with pytest.raises(FileFormatError, match="not those of") as other:
        load_weights(network, values(network, model=weights))
    with pytest.raises(FileFormatError, match="not those of") as third:
        check_shapes(network, weights, "unet")
    for error in (caught, other, third):
        assert error.value.message.replace("\n", "").isprintable()
        assert len(error.value.message) < 400
