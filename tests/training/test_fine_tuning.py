import shutil
from pathlib import Path

import pytest
import torch

from hemseg_cli.config import load
from hemseg_cli.core.classes import PREDEFINED
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.inference.export import export
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.models.registry import build_network
from hemseg_cli.training.fine_tuning import freeze_encoder, take_weights
from hemseg_cli.training.train import train
from tests.training.scans import config_for
from tests.training.small_run import assert_same_state, small_config, small_data

_CONSTANT = ("train.schedule=constant", "train.ema_share=0", "train.choose=none", "train.warmup=0")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trained")
    small_data(root)
    train(small_config(root, *_CONSTANT), run="first")
    return root


def test_a_finished_run_goes_on_as_if_it_had_been_trained_longer(trained: Path) -> None:
    longer = small_config(trained, *_CONSTANT, "train.epochs=4")
    whole = train(longer, run="whole")
    shutil.copytree(trained / "runs" / "first", trained / "runs" / "extended")
    extended = train(longer, run="extended", resume=True)
    assert extended.epochs == 4
    assert_same_state(extended.run, whole.run)
    assert "epochs = 4" in extended.run.config_file.read_text()


def test_fewer_epochs_extend_nothing(trained: Path) -> None:
    with pytest.raises(HemsegError, match="another configuration"):
        train(small_config(trained, *_CONSTANT, "train.epochs=1"), run="first", resume=True)


def test_training_starts_from_the_weights_of_a_run_or_an_archive(trained: Path) -> None:
    config = small_config(trained, *_CONSTANT)
    archive = trained / "model.zip"
    export(config, run="first", out=archive)
    first = read_checkpoint(RunDirectory(trained / "runs" / "first").checkpoint("best"))
    for number, source in enumerate(("first", str(archive))):
        tuned = small_config(
            trained,
            *_CONSTANT,
            f"train.start_from='{source}'",
            "train.lr=1e-12",
            "train.epochs=1",
            "train.weight_decay=0",
        )
        run = train(tuned, run=f"tuned{number}").run
        model = read_checkpoint(run.checkpoint("best"))["model"]
        for key, value in first["model"].items():
            assert torch.allclose(model[key], value, atol=1e-5), key


def test_the_learning_rate_is_a_tenth_unless_it_is_stated() -> None:
    usual = load(environ={}).train.lr
    assert load(assignments=["train.start_from=a"], environ={}).train.lr == pytest.approx(
        usual / 10
    )
    stated = load(assignments=["train.start_from=a", "train.lr=0.5"], environ={})
    assert stated.train.lr == 0.5


def test_output_channels_are_matched_by_the_keys_of_classes(trained: Path) -> None:
    checkpoint = read_checkpoint(RunDirectory(trained / "runs" / "first").checkpoint("best"))
    config = {**checkpoint["model_config"], "out_channels": 2}
    network = build_network("dynunet", config, checkpoint["in_channels"])
    before = network.state_dict()["output_block.conv.conv.weight"].clone()
    take_weights(network, checkpoint, (PREDEFINED[6], PREDEFINED[0]))
    after = network.state_dict()["output_block.conv.conv.weight"]
    assert torch.equal(after[1], checkpoint["model"]["output_block.conv.conv.weight"][0])
    assert torch.equal(after[0], before[0])


def test_a_frozen_encoder_does_not_change(trained: Path) -> None:
    config = small_config(
        trained, *_CONSTANT, "train.start_from=first", "train.freeze=encoder", "train.epochs=1"
    )
    run = train(config, run="frozen").run
    first = read_checkpoint(RunDirectory(trained / "runs" / "first").checkpoint("best"))["model"]
    model = read_checkpoint(run.checkpoint("last"))["network"]
    changed = {key for key in first if not torch.equal(first[key], model[key])}
    assert not any(key.startswith(("input_block", "downsamples", "bottleneck")) for key in changed)
    assert any(key.startswith("upsamples") for key in changed)


def test_an_encoder_that_is_not_known_is_refused() -> None:
    with pytest.raises(UsageError, match="which weights of attention-unet"):
        freeze_encoder(torch.nn.Linear(1, 1), "attention-unet")


def test_weights_of_another_model_are_refused(trained: Path) -> None:
    config = small_config(
        trained, *_CONSTANT, "train.start_from=first", network=("train.model=segresnet",)
    )
    with pytest.raises(HemsegError, match=r"holds a dynunet.*segresnet"):
        train(
            config.model_copy(
                update={"train": config.train.model_copy(update={"patch": (16, 16, 8)})}
            )
        )


@pytest.mark.parametrize("setting", ["train.start_from=other", "train.freeze=encoder"])
def test_nnunet_says_that_it_cannot_be_fine_tuned(tmp_path: Path, setting: str) -> None:
    config = config_for(tmp_path / "data", "train.model=nnunet", setting)
    with pytest.raises(UsageError, match=r"nnU-Net's own trainer begins anew"):
        train(config, run="none")
