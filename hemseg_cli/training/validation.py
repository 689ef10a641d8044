"""Validate on whole scans: sliding window, then scores on the grid that the user asked for."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.config import Config
from hemseg_cli.core.cases import volume_stratum
from hemseg_cli.evaluation.metrics import dice
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.imaging.nifti import read_header
from hemseg_cli.imaging.orientation import match_axes
from hemseg_cli.imaging.preprocess import restore_probability
from hemseg_cli.inference.settings import PUBLISHED, Settings, chosen_settings
from hemseg_cli.inference.sliding_window import sliding_window
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.picture import contour_picture
from hemseg_cli.training.state import TrainState

if TYPE_CHECKING:
    from hemseg_cli.core.cases import Case
    from hemseg_cli.training.cache import PreparedCase

DEFAULT_THRESHOLD = 0.5
_STRATUM_COLUMNS = {
    "<1": "val_dice_below_1_ml",
    "1-5": "val_dice_1_to_5_ml",
    "5-30": "val_dice_5_to_30_ml",
    ">=30": "val_dice_from_30_ml",
}
STRATUM_COLUMNS = tuple(_STRATUM_COLUMNS.values())
_AIR_TOLERANCE = 1e-3  # of normalised values, for their storage in float16


@dataclass(frozen=True)
class ValidatedCase:
    """One scan: its Dice at probability 0.5, `loss` = 1 - soft Dice, and its true volume.

    Of several classes the means over those that its data set labels; `by_class`: their Dice.
    """

    scan: str
    dice: float
    loss: float
    truth_ml: float
    by_class: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """All scans of a validation: means over them."""

    cases: tuple[ValidatedCase, ...]
    picture: NDArray[np.uint8] | None = None  # of one scan, in the main process

    @property
    def dice(self) -> float:
        """Mean Dice at probability 0.5."""
        return float(np.mean([case.dice for case in self.cases]))

    @property
    def loss(self) -> float:
        """Mean of 1 - soft Dice."""
        return float(np.mean([case.loss for case in self.cases]))

    def dice_by_class(self) -> dict[str, float]:
        """Mean Dice of each class at probability 0.5, over the scans whose data set labels it."""
        by_class: dict[str, list[float]] = {}
        for case in self.cases:
            for key, value in case.by_class.items():
                by_class.setdefault(key, []).append(value)
        return {key: float(np.mean(values)) for key, values in by_class.items()}

    def dice_by_stratum(self) -> dict[str, float]:
        """Mean Dice by column of the history, for each volume stratum that has a scan."""
        by_column: dict[str, list[float]] = {}
        for case in self.cases:
            column = _STRATUM_COLUMNS[volume_stratum(case.truth_ml)]
            by_column.setdefault(column, []).append(case.dice)
        return {column: float(np.mean(values)) for column, values in by_column.items()}


def validate(
    state: TrainState, cases: "Sequence[PreparedCase]", processes: Processes
) -> Iterator[Validation | None]:
    """Validate the averaged weights on `cases`, shared out over the processes.

    Yields None after each round of scans (one per process), so that the caller can stop in between,
    and the result at the end. Random generators are left as they were. One scan is scored on the
    CPU while the network computes the next one.
    """
    network = state.mean.network.eval()
    shown, picture = _shown_case(state, cases, processes), None
    scores: list[Future[ValidatedCase]] = []
    with ThreadPoolExecutor(1) as pool:
        for start in range(0, len(cases), processes.size):
            if start + processes.rank < len(cases):
                case = cases[start + processes.rank]
                probability = _validate_case(state, network, case)
                scores.append(pool.submit(_score_case, state, case, probability))
                if start + processes.rank == shown:
                    picture = contour_picture(case, probability, DEFAULT_THRESHOLD)
                # One volume waits at most: a val split of them would not fit into memory.
                if len(scores) > 1:
                    scores[-2].result()
            yield None
        mine = [score.result() for score in scores]

    by_rank = processes.gather(mine)
    yield Validation(
        tuple(
            by_rank[index % processes.size][index // processes.size] for index in range(len(cases))
        ),
        picture,
    )


def _shown_case(
    state: TrainState, cases: "Sequence[PreparedCase]", processes: Processes
) -> int | None:
    """Choose the scan of which the main process draws a picture, the same in every validation.

    The first of its scans with hemorrhage; None where it is not this validation's turn.
    """
    train = state.config.train
    number = state.progress.epoch // train.validation_every
    if train.picture_every is None or not processes.is_main or number % train.picture_every:
        return None
    mine = range(0, len(cases), processes.size)
    return next((index for index in mine if cases[index].foreground_voxels), None)


def predict_settings(state: TrainState) -> dict[str, Any]:
    """The settings of prediction that were validated with, for a checkpoint to carry."""
    return run_settings(state.config).to_dict()


def run_settings(config: Config) -> Settings:
    """Return how a run validates, and predicts as long as nothing better was chosen.

    Recipe `paper` does both as the published scripts do.
    """
    stored = PUBLISHED if config.train.recipe == "paper" else Settings()
    weighting = {"weighting": config.train.validation_weighting}
    return chosen_settings(config.predict, stored.to_dict() | weighting)


def _validate_case(
    state: TrainState, network: torch.nn.Module, case: "PreparedCase"
) -> NDArray[np.float32]:
    """Predict one scan: the probability on the network's grid, float32 [classes, i, j, k]."""
    settings, train = run_settings(state.config), state.config.train
    image = torch.from_numpy(np.array(case.image, dtype=np.float32))

    # Where every channel is at the low end of its window there is air, and nothing to find.
    lowest = [(window.low - window.mean) / window.std for window in state.preprocess.windows]
    occupied = (image > torch.tensor(lowest).view(-1, 1, 1, 1) + _AIR_TOLERANCE).any(dim=0)
    box = box_of(occupied) if train.validation_crop else (slice(None),) * 3

    probability = torch.zeros((len(state.classes), *image.shape[1:]))
    probability[:, *box] = sliding_window(
        network,
        image[:, *box],
        patch=state.patch,
        overlap=settings.overlap,
        weighting=settings.weighting,
        device=state.device,
        batch=state.micro_batch if state.device.type == "cuda" else 1,
        precision=state.precision,
        activation=train.activation,
        occupied=occupied[box] if settings.crop and occupied.any() else None,
        pad_value=float(image.min()) if train.padding == "air" else 0.0,
    )
    return np.asarray(probability.numpy())


def box_of(occupied: torch.Tensor) -> tuple[slice, slice, slice]:
    """The smallest box that holds every True voxel of bool [i, j, k]; all of it where none is."""
    if not occupied.any():
        return slice(None), slice(None), slice(None)
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        places = occupied.any(dim=others[1]).any(dim=others[0]).nonzero()
        spans.append(slice(int(places[0]), int(places[-1]) + 1))
    i, j, k = spans
    return i, j, k


def _score_case(
    state: TrainState, case: "PreparedCase", probability: NDArray[np.float32]
) -> ValidatedCase:
    """Compare a probability on the network's grid with the label, on the grid that is asked for."""
    native = state.config.train.validation_grid == "native"
    label = _native_label(case.data_folder, case.case) if native else np.asarray(case.label)

    # One Dice and one loss for each class that the scan's data set labels.
    scores, losses = {}, []
    masks = case.channels.masks(label)
    for each, one, truth in zip(state.classes, probability, masks, strict=True):
        if truth is None:
            continue
        found = restore_probability(one, case.grid) if native else one
        overlap = float(found[truth].sum())
        both = float(found.sum()) + float(truth.sum())
        scores[each.key] = dice(found >= DEFAULT_THRESHOLD, truth)
        losses.append(1.0 - 2.0 * overlap / both if both > 0 else 0.0)

    means = float(np.mean(list(scores.values()))), float(np.mean(losses))
    return ValidatedCase(case.scan, *means, case.truth_ml, scores)


def _native_label(folder: Path, case: "Case") -> NDArray[Any]:
    shape, affine = read_header(folder / case.image)
    label = match_axes(read_label(folder / case.label), shape, affine, what=f"label {case.label}")
    return label.array
