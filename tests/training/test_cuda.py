"""What only a GPU shows: every network's step, resume and prediction, arithmetic, out of memory.

Run them with `pytest -m cuda` on a machine with an NVIDIA GPU; elsewhere they are skipped.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.devices import gpu_precision
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.run_directory import RunDirectory
from hemseg_cli.inference.ensemble import EnsembleNetwork
from hemseg_cli.inference.predictor import Predictor
from hemseg_cli.models.checkpoint import read_checkpoint
from hemseg_cli.training.data_sets import data_set_cases
from hemseg_cli.training.device_size import training_bytes
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.loader_workers import measured_workers
from hemseg_cli.training.loop import StepDone, run_epochs
from hemseg_cli.training.setup import make_setup, make_state, use_device
from hemseg_cli.training.state import TrainState
from hemseg_cli.training.train import train
from tests.inference.small_model import scan
from tests.torchrun import run_two
from tests.training.small_run import SMALL_DYNUNET, small_config, write_config

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
GPU = ("compute.device=cuda", "train.choose=none")
_STRIDED = "channels=[4, 8, 8], strides=[[2, 2, 1], 2]"

# Each network of the registry, small, with a patch that it takes.
NETWORKS = {
    "unet": ((f"train.network={{{_STRIDED}, num_res_units=1}}",), (16, 16, 4)),
    "vnet": ((), (32, 32, 16)),
    "segresnet": (
        ("train.network={init_filters=8, blocks_down=[1, 1], blocks_up=[1]}",),
        (16, 16, 4),
    ),
    "segresnet-2d": (
        ("train.network={init_filters=8, blocks_down=[1, 1], blocks_up=[1]}",),
        (16, 16, 4),
    ),
    "attention-unet": ((f"train.network={{{_STRIDED}}}",), (16, 16, 4)),
    "unetr": (
        ("train.network={feature_size=4, hidden_size=12, mlp_dim=16, num_heads=2}",),
        (32, 32, 16),
    ),
    "swin-unetr": (
        ("train.network={feature_size=12, num_heads=[1, 1, 2, 2], depths=[1, 1, 1, 1]}",),
        (64, 64, 32),
    ),
    "dynunet": ((SMALL_DYNUNET[1],), (16, 16, 4)),
    "dynunet-res": ((SMALL_DYNUNET[1],), (16, 16, 4)),
}


def _settings(model: str) -> tuple[str, ...]:
    network, patch = NETWORKS[model]
    return (f"train.model={model}", *network, f"train.patch={list(patch)}")


def _losses(place: Path, *assignments: str) -> tuple[TrainState, list[float]]:
    """The losses of the first three steps on the GPU, and the state after them."""
    config = small_config(place, *GPU, *assignments)
    device = torch.device("cuda", 0)
    use_device(config, device)
    setup = make_setup(config, data_set_cases(config), device, Processes())
    state = make_state(config, setup, device, Processes())
    events = run_epochs(state, setup, Processes())
    losses = []
    for event in events:
        if isinstance(event, StepDone):
            assert event.loss is not None
            losses.append(event.loss)
        if len(losses) == 3:
            break
    events.close()
    return state, losses


@pytest.mark.parametrize("model", NETWORKS)
def test_network_trains_resumes_and_predicts(place: Path, model: str) -> None:
    network = _settings(model)
    config = small_config(place, *GPU, "train.epochs=1", network=network)
    result = train(config, run=model)
    assert result.epochs == 1
    longer = small_config(place, *GPU, "train.epochs=2", network=network)
    assert train(longer, run=model, resume=True).epochs == 2

    # The same scan by GPU and CPU, in float32.
    best = result.run.checkpoint("best")
    plain = PredictConfig(precision="float32", crop=False)
    volume = scan((40, 36, 8))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    answers = [
        Predictor.load([best], plain, device=device).probability(volume)
        for device in ("cuda", "cpu")
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_kinds_of_arithmetic_lose_little(place: Path, precision: str) -> None:
    capability = torch.cuda.get_device_capability()
    if precision == "bfloat16" and capability < (8, 0):
        pytest.skip(f"compute capability {capability} has no bfloat16")
    _, exact = _losses(place, "train.precision=float32", "train.tf32=false")
    state, losses = _losses(place, f"train.precision={precision}")
    assert state.scaler.is_enabled() == (precision == "float16")
    assert losses == pytest.approx(exact, rel=0.05)
    assert all(weight.dtype == torch.float32 for weight in state.network.parameters())


def test_auto_is_what_the_card_gains_by(place: Path) -> None:
    state, _ = _losses(place, "train.precision=auto")
    assert state.precision == gpu_precision("auto", torch.cuda.get_device_capability())


def test_gpu_trains_what_a_cpu_does(place: Path) -> None:
    plain = ("train.precision=float32", "train.tf32=false", "train.deterministic=true")
    _, on_gpu = _losses(place, *plain)
    config = small_config(place, *plain, "compute.device=cpu")
    setup = make_setup(config, data_set_cases(config), torch.device("cpu"), Processes())
    state = make_state(config, setup, torch.device("cpu"), Processes())
    events = run_epochs(state, setup, Processes())
    on_cpu = [event.loss for event, _ in zip(events, range(3), strict=False)]  # type: ignore[union-attr]  # the first events are steps
    events.close()
    torch.use_deterministic_algorithms(False)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)


def test_training_out_of_memory_names_what_to_lower(place: Path) -> None:
    config = small_config(place, *GPU, "train.epochs=1")
    free, total = torch.cuda.mem_get_info()
    taken = torch.cuda.memory_allocated() + 64 * 2**20
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, taken / total))
    try:
        large = "train.patch=[512, 512, 16]"
        with pytest.raises(HemsegError, match="out of memory on cuda") as caught:
            train(small_config(place, *GPU, large, "train.batch_size=8"), run="large")
        assert "train.batch_size=4" in caught.value.hint
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    # The process goes on: nothing is left of the attempt.
    assert free > 0
    assert train(config, run="small").epochs == 1


def test_prediction_out_of_memory_halves_the_windows(place: Path) -> None:
    run = train(small_config(place, *GPU, "train.epochs=1"), run="windows").run
    predictor = Predictor.load([run.checkpoint("best")], PredictConfig(), device="cuda")
    network = predictor.networks[0]
    assert isinstance(network, EnsembleNetwork)
    most = network.rule.most_voxels
    real, calls = network.network.forward, [0]

    def forward(image: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 1:
            raise torch.OutOfMemoryError("as a real one")
        answer: torch.Tensor = real(image)
        return answer

    network.network.forward = forward  # type: ignore[method-assign]  # the device is what fails
    predictor.probability(scan((40, 36, 8)))
    assert network.rule.most_voxels < most


def test_estimate_of_memory_is_near_to_what_is_taken(place: Path) -> None:
    settings = ("train.patch=[128, 128, 16]", "train.precision=float32", "train.batch_size=2")
    # The default network, so that activations weigh more than the context.
    config = small_config(place, *GPU, *settings, network=("train.model=dynunet",))
    device = torch.device("cuda", 0)
    setup = make_setup(config, data_set_cases(config), device, Processes())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    state = make_state(config, setup, device, Processes())
    events = run_epochs(state, setup, Processes())
    next(events)
    events.close()
    taken = torch.cuda.max_memory_allocated() - before
    assert taken / 2 < training_bytes(config, 2, 1, device) < taken * 2


def test_workers_are_measured_and_feed_the_gpu(place: Path) -> None:
    config = small_config(place, *GPU)
    unset = config.model_copy(
        update={"compute": config.compute.model_copy(update={"workers": None})}
    )
    device = torch.device("cuda", 0)
    setup = make_setup(unset, data_set_cases(unset), device, Processes())
    state = make_state(unset, setup, device, Processes())
    assert measured_workers(state, setup, Processes()).loading.workers >= 1


def test_two_processes_train_what_one_does(place: Path) -> None:
    """By NCCL on a GPU each; on one GPU together by gloo."""
    # Six patches: whole batches, which two processes share evenly.
    settings = (*GPU, "train.patches_per_scan=2", "train.precision=float32", "train.epochs=1")
    config = small_config(place, *settings)
    file = str(write_config(place, config))
    talk = run_two("train", "--json", "--config", file, "--run", "two")
    assert json.loads(talk)["epochs"] == 1
    one = train(config, run="one").run
    ours, theirs = (
        read_checkpoint(RunDirectory(config.runs.root / name).checkpoint("last"))["network"]
        for name in (one.name, "two")
    )
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-3, atol=1e-4)
