"""What a run trains on: its scans by split or fold, its networks and numbers, put together from the config."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.cases import Case, cases_in_split, contaminated, patient_folds, read_cases
from hemseg_cli.core.devices import training_precision
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.executor import default_workers
from hemseg_cli.models.registry import build_network, check_patch, full_config, require_model
from hemseg_cli.training.batches import BatchPlan, Loading
from hemseg_cli.training.cache import PreparedCase, prepared_cases, preprocess_of
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.ema import WeightMean
from hemseg_cli.training.losses import Loss, make_loss
from hemseg_cli.training.micro_batch import micro_batch
from hemseg_cli.training.output_bias import set_output_bias
from hemseg_cli.training.sampling import PatchDataset
from hemseg_cli.training.schedule import LearningRateSchedule, make_optimizer
from hemseg_cli.training.state import TrainState, step_seed

if TYPE_CHECKING:
    from hemseg_cli.config.schema import TrainConfig

_MOST_WORKERS = 8


@dataclass(frozen=True)
class TrainSetup:
    """What is trained on: the patches of every epoch and how they are loaded, the loss, and the scans of the val split."""

    loading: Loading
    plan: BatchPlan
    loss: Loss
    validation: "Sequence[PreparedCase]"


def training_cases(config: Config) -> tuple[list[Case], list[Case]]:
    """The scans to train on and to validate on.

    The table's splits, or with `train.fold` all but one and one fold of train + val.

    HemsegError if a split is empty, UsageError if there is no such fold.
    """
    train = config.train
    cases = read_cases(config.data.cases_file)
    if train.fold is None:
        return cases_in_split(cases, "train"), cases_in_split(cases, "val")
    if not isinstance(train.fold, int) or train.fold >= train.folds:
        raise UsageError(
            f"train.fold = {train.fold}: folds are 0 to {train.folds - 1}",
            hint="--fold K --folds N, or --fold all",
        )
    pool = sorted(
        (case for case in cases if case.split in ("train", "val")), key=lambda case: case.scan
    )
    folds = patient_folds(pool, train.folds, seed=train.seed)
    kept, held_out = (
        [case for case in pool if (folds[case.scan] == train.fold) is held]
        for held in (False, True)
    )
    return kept, held_out


def check_config(config: Config) -> None:
    """UsageError for what the model cannot do, HemsegError for a split without scans.

    Before a run is made.
    """
    train = config.train
    model_config = full_config(train.model, train.network, train.patch)
    check_patch(train.model, model_config, train.patch)
    if train.micro_batch is not None:
        with torch.device("meta"):
            network = build_network(train.model, model_config, len(train.windows))
        micro_batch(train, network, torch.device("meta"))
    kept, held_out = training_cases(config)
    _warn_of_contamination(config, [*kept, *held_out])


def make_setup(config: Config, device: torch.device, processes: Processes) -> TrainSetup:
    """Prepare the scans (rank 0 first, the others find them in the cache) and put together what the loop needs."""
    train = config.train
    train_cases, val_cases = training_cases(config)
    if train.validation_cases is not None:
        val_cases = val_cases[: train.validation_cases]
    prepared = _prepare(config, [*train_cases, *val_cases], processes)
    kept = [prepared[case.scan] for case in train_cases if case.scan in prepared]
    validated = [prepared[case.scan] for case in val_cases if case.scan in prepared]
    if not validated:
        raise HemsegError(
            "no scan of the val split can be used",
            hint="hemseg doctor   says what is wrong with them",
        )
    _warn_of_size(train, kept)
    patches_of = functools.partial(_patches_of, kept, train)
    plan = BatchPlan(len(patches_of(0)), train.batch_size, processes)
    if not len(plan):
        raise HemsegError(
            f"{len(patches_of(0))} patches do not fill one batch of {train.batch_size}",
            hint="lower train.batch_size",
        )
    return TrainSetup(
        Loading(patches_of, loader_workers(config, device, processes)),
        plan,
        make_loss(train, processes),
        validated,
    )


def make_state(
    config: Config, setup: TrainSetup, device: torch.device, processes: Processes
) -> TrainState:
    """A new network, from the seed alone, with its optimiser and schedule, on the device."""
    train = config.train
    preprocess = preprocess_of(train)
    model_config = full_config(train.model, train.network, train.patch)
    torch.manual_seed(step_seed(train.seed))
    network = build_network(train.model, model_config, len(preprocess.windows))
    if train.output_bias > 0:
        set_output_bias(network, train.output_bias, (1, len(preprocess.windows), *train.patch))
    network.to(device)
    if device.type == "cuda":
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # not in torch's annotations
    mean = WeightMean(network, train.ema_decay)
    parallel = processes.parallel(
        network, device, idle_weights=not require_model(train.model).convolutional
    )
    precision = training_precision(train.precision, device)
    optimizer = make_optimizer(
        network, train, fused=precision != torch.float16 and device.type in ("cpu", "cuda")
    )
    i, j, k = train.patch
    return TrainState(
        config=config,
        network=network,
        parallel=parallel,
        mean=mean,
        optimizer=optimizer,
        schedule=LearningRateSchedule(optimizer, train, train.epochs * len(setup.plan)),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == torch.float16),
        device=device,
        precision=precision,
        micro_batch=micro_batch(train, network, device),
        preprocess=preprocess,
        patch=(i, j, k),
        model_config=model_config,
    )


def loader_workers(config: Config, device: torch.device, processes: Processes) -> int:
    """`compute.workers`; not set.

    None on a CPU, whose cores compute the network, else the cores of this process's share but one.
    """
    if config.compute.workers is not None:
        return config.compute.workers
    if device.type == "cpu":
        return 0
    return max(1, min(_MOST_WORKERS, default_workers() // processes.size - 1))


def _patches_of(cases: Sequence[PreparedCase], train: "TrainConfig", epoch: int) -> PatchDataset:
    return PatchDataset(cases, train, train.patch, seed=train.seed, epoch=epoch)


def _prepare(
    config: Config, cases: Sequence[Case], processes: Processes
) -> dict[str, PreparedCase]:
    preprocess = preprocess_of(config.train)
    if processes.size > 1:
        processes.broadcast(lambda: len(prepared_cases(config, cases, preprocess)))
    return {case.scan: case for case in prepared_cases(config, cases, preprocess)}


def _warn_of_size(train: "TrainConfig", cases: Sequence[PreparedCase]) -> None:
    """A patch larger than a scan is legal, and costs: most of it is padding."""
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
            f"train.patch = {list(train.patch)} is larger than {len(small)} of {len(cases)} training scans on the network's grid "
            f"(the smallest is {list(shape)}): they are padded"
        )


def _warn_of_contamination(config: Config, cases: Sequence[Case]) -> None:
    """Name the data sets beside this one whose test scans are trained on, as HemSeg-500's train split has those of HemSeg-200."""
    for table in sorted(config.data.root.glob("*/cases.csv")):
        if table != config.data.cases_file:
            tested = [case for case in read_cases(table) if case.split == "test"]
            seen = contaminated(cases, tested)
            if seen:
                console.warn(
                    f"{len(seen)} of the {len(tested)} test scans of {table.parent.name} are trained on here: "
                    f"scores of this run on that test split say nothing ({', '.join(seen[:5])}{' ...' if len(seen) > 5 else ''})"
                )
