"""Put together what a run trains on, its network and its numbers, from the config."""

import functools
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.cases import Case
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, LabelClass, nested_class
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.threads import use_threads
from hemseg_cli.models.registry import build_network, check_patch, full_config, require_model
from hemseg_cli.training.batches import (
    BatchPlan,
    Loading,
    shared_batch_size,
)
from hemseg_cli.training.cache import PreparedCase, prepared_cases, preprocess_of
from hemseg_cli.training.data_sets import DataSetCases, run_classes
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.ema import WeightMean
from hemseg_cli.training.fine_tuning import freeze_encoder, take_weights
from hemseg_cli.training.loader_workers import loader_workers
from hemseg_cli.training.losses import Loss, make_loss
from hemseg_cli.training.micro_batch import micro_batch
from hemseg_cli.training.output_bias import set_output_bias
from hemseg_cli.training.precision import training_precision
from hemseg_cli.training.sampling import PatchDataset
from hemseg_cli.training.schedule import LearningRateSchedule, make_optimizer
from hemseg_cli.training.state import TrainState, step_seed
from hemseg_cli.training.validation import run_settings

if TYPE_CHECKING:
    from hemseg_cli.config.schema import TrainConfig


@dataclass(frozen=True)
class TrainSetup:
    """What is trained on: the patches of every epoch, the loss, and the scans of the val split.

    `classes`: one output channel each, by voxel value.
    """

    loading: Loading
    plan: BatchPlan
    loss: Loss
    validation: Sequence[PreparedCase]
    classes: tuple[LabelClass, ...] = HEMORRHAGE_ONLY


def check_network(config: Config) -> None:
    """Raise UsageError for what the model cannot do, before anything is made."""
    train = config.train
    classes = run_classes(config)
    if train.recipe == "paper" and len(classes) > 1:
        raise UsageError(
            f"recipe paper trains on one class, and {config.data.dataset} has "
            f"{', '.join(each.key for each in classes)}: the published setup has no losses, "
            "sampling or scores for several",
            hint="--recipe strong, or import the data set with --classes hemorrhage=1-N",
        )
    _check_activation(train, classes)
    model_config = full_config(train.model, train.network, train.patch, len(classes))
    check_patch(train.model, model_config, train.patch)
    if train.micro_batch is not None:
        with torch.device("meta"):
            network = build_network(train.model, model_config, len(train.windows))
        micro_batch(train, network, torch.device("meta"))


def _check_activation(train: "TrainConfig", classes: Sequence[LabelClass]) -> None:
    """Refuse softmax where one class holds another: each of its voxels would be of one of them."""
    nested = nested_class(classes)
    if train.activation == "softmax" and nested is not None:
        kind, parent = nested
        raise UsageError(
            f"train.activation = softmax puts one class on a voxel, and {kind} is a kind of "
            f"{parent}: both are classes here",
            hint="--set train.activation=sigmoid",
        )


def share_batch(config: Config, processes: Processes) -> Config:
    """Raise `train.batch_size` to a multiple of the number of processes, and say so."""
    wanted = config.train.batch_size
    size = shared_batch_size(wanted, processes.size)
    if size == wanted:
        return config
    if processes.is_main:
        console.say(
            f"train.batch_size = {wanted} over {processes.size} processes: {size} patches a step, "
            f"{size // processes.size} in each"
        )
    train = config.train.model_copy(update={"batch_size": size})
    return config.model_copy(update={"train": train})


def make_setup(
    config: Config, parts: Sequence[DataSetCases], device: torch.device, processes: Processes
) -> TrainSetup:
    """Prepare the scans of each data set, and put together what the loop needs.

    HemsegError where no scan is left to validate on, or none of them has any hemorrhage: the Dice
    of empty masks against empty labels is 1, whatever the network has learnt.
    """
    train = config.train
    classes = run_classes(config)
    kept, validated = [], []
    for part in parts:
        val_cases = part.cases.val[: train.validation_cases]
        prepared = _prepare(part.config, [*part.cases.train, *val_cases], processes, classes)
        kept += [prepared[case.scan] for case in part.cases.train if case.scan in prepared]
        validated += [prepared[case.scan] for case in val_cases if case.scan in prepared]
    _check_validation(validated)
    _warn_of_size(train, kept)

    patches_of = functools.partial(_patches_of, kept, train)
    plan = BatchPlan(len(patches_of(0)), train.batch_size, processes)
    if not len(plan):
        raise HemsegError(
            f"{len(patches_of(0))} patches do not fill one batch of {train.batch_size}",
            hint="lower train.batch_size",
        )

    workers = loader_workers(config, device, processes)
    return TrainSetup(
        Loading(patches_of, workers),
        plan,
        make_loss(train, processes),
        validated,
        classes,
    )


def make_state(
    config: Config,
    setup: TrainSetup,
    device: torch.device,
    processes: Processes,
    start: Mapping[str, Any] | None = None,
) -> TrainState:
    """Build a new network with its optimiser and schedule, on the device.

    From the seed alone, or from the weights of the checkpoint `start`.
    """
    train = config.train
    preprocess = preprocess_of(train)
    classes = setup.classes
    model_config = full_config(train.model, train.network, train.patch, len(classes))

    # The same weights in every process and on every device: drawn on the CPU, from the seed.
    torch.manual_seed(step_seed(train.seed))
    network = build_network(train.model, model_config, len(preprocess.windows))
    if train.output_bias > 0:
        shape = (1, len(preprocess.windows), *train.patch)
        set_output_bias(network, train.output_bias, shape, len(classes))
    precision = training_precision(train, network, device)
    if start is not None:
        take_weights(network, start, classes)
    if train.freeze is not None:
        freeze_encoder(network, train.model)
    network.to(device)
    if train.channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    # Coarser outputs that have no weight in the loss leave their heads without a gradient, which
    # DistributedDataParallel has to be told of.
    supervised = train.loss.deep_supervision > 0
    forward: nn.Module = network if supervised else FinestOutput(network)
    parallel = processes.parallel(
        compiled(forward, device) if train.compile else forward,
        device,
        idle_weights=not require_model(train.model).convolutional or not supervised,
    )

    optimizer = make_optimizer(network, train, fused=device.type in ("cpu", "cuda"))
    i, j, k = train.patch
    return TrainState(
        config=config,
        network=network,
        parallel=parallel,
        mean=WeightMean(network, train.ema_share),
        optimizer=optimizer,
        schedule=LearningRateSchedule(optimizer, train, train.epochs * len(setup.plan)),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        device=device,
        precision=precision,
        micro_batch=micro_batch(train, network, device),
        preprocess=preprocess,
        patch=(i, j, k),
        model_config=model_config,
        predict=run_settings(config).to_dict(),
        classes=classes,
    )


class FinestOutput(nn.Module):
    """The finest of a network's outputs, as a list of one where the network gives several."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return [n, classes, i, j, k]."""
        output = self.network(images)
        finest: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
        return finest


def compiled(network: nn.Module, device: torch.device) -> nn.Module:
    """Compile a network with `torch.compile`; without a compiler it stays as it is, which is said.

    torch generates C++ for a CPU, and Triton kernels, which need a C compiler too, for a GPU.
    """
    missing = [] if any(map(shutil.which, ("cc", "gcc", "clang", "c++", "g++"))) else ["C compiler"]
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        missing.append("Triton")
    if missing:
        console.say(f"train.compile = true is left out: there is no {' and no '.join(missing)}")
        return network
    result: nn.Module = torch.compile(network)  # type: ignore[assignment]  # typed as a callable
    return result


def use_device(config: Config, device: torch.device) -> None:
    """Set torch's switches for a device: TF32, deterministic algorithms, tuned convolutions.

    cuDNN times its algorithms once a shape and takes the fastest; all batches have one shape. The
    fastest is not always deterministic, so `train.deterministic` switches that off.
    """
    train = config.train
    use_threads(config.compute.threads)
    torch.set_float32_matmul_precision("high" if train.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = train.tf32
    torch.backends.cudnn.benchmark = device.type == "cuda" and not train.deterministic
    torch.use_deterministic_algorithms(train.deterministic, warn_only=True)
    if device.type == "cuda":
        # Pinned memory and new tensors belong to the current device, which is GPU 0 at first.
        torch.cuda.set_device(device)


def _patches_of(cases: Sequence[PreparedCase], train: "TrainConfig", epoch: int) -> PatchDataset:
    return PatchDataset(cases, train, train.patch, seed=train.seed, epoch=epoch)


def _prepare(
    config: Config,
    cases: Sequence[Case],
    processes: Processes,
    classes: Sequence[LabelClass],
) -> dict[str, PreparedCase]:
    """Preprocess in the main process first; the others find the scans in the cache."""
    preprocess = preprocess_of(config.train)
    if processes.size > 1:
        processes.broadcast(lambda: len(prepared_cases(config, cases, preprocess, classes)))
    return {case.scan: case for case in prepared_cases(config, cases, preprocess, classes)}


def _check_validation(cases: Sequence[PreparedCase]) -> None:
    if not cases:
        raise HemsegError(
            "no scan of the val split can be used",
            hint="hemseg doctor --data   says what is wrong with them",
        )
    if not any(case.foreground_voxels for case in cases):
        raise HemsegError(
            f"none of the {len(cases)} labels of the val split has any hemorrhage: every Dice "
            "would be that of empty masks",
            hint="hemseg doctor --data   checks the labels; --fold 0   validates on other scans",
        )


def _warn_of_size(train: "TrainConfig", cases: Sequence[PreparedCase]) -> None:
    """Warn of a patch larger than a scan: it is legal, and most of it is padding."""
    small = [
        case
        for case in cases
        if any(size > n for size, n in zip(train.patch, case.shape, strict=True))
    ]
    if small:
        shape = min(
            (case.shape for case in small), key=lambda shape: shape[0] * shape[1] * shape[2]
        )
        console.warn(
            f"train.patch = {list(train.patch)} is larger than {len(small)} of {len(cases)} "
            f"training scans on the network's grid (the smallest is {list(shape)}): they are padded"
        )
