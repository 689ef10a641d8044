"""Validation: whole scans through the sliding window, scored on the grid that the user asked for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hemseg_cli.evaluation.metrics import dice
from hemseg_cli.imaging.nifti import read_header, read_volume
from hemseg_cli.imaging.orientation import match_axes
from hemseg_cli.imaging.preprocess import restore_probability
from hemseg_cli.inference.settings import Settings, chosen_settings
from hemseg_cli.inference.sliding_window import sliding_window
from hemseg_cli.training.distributed import Processes
from hemseg_cli.training.state import TrainState

if TYPE_CHECKING:
    from hemseg_cli.core.cases import Case
    from hemseg_cli.training.cache import PreparedCase

DEFAULT_THRESHOLD = 0.5
THRESHOLDS = (0.3, 0.4, DEFAULT_THRESHOLD, 0.6, 0.7)
# A threshold other than 0.5 has to gain this much mean Dice, or a small val split would choose by
# noise.
SMALLEST_DICE_GAIN = 0.005


@dataclass(frozen=True)
class ValidatedCase:
    """One scan: `dice` by threshold, `loss` = 1 - soft Dice."""

    scan: str
    dice: dict[float, float]
    loss: float


@dataclass(frozen=True)
class Validation:
    """All scans: means over them."""

    cases: tuple[ValidatedCase, ...]

    @property
    def dice(self) -> float:
        """Mean Dice at probability 0.5."""
        return self.dice_at(DEFAULT_THRESHOLD)

    def dice_at(self, threshold: float) -> float:
        """Mean Dice at another threshold of `THRESHOLDS`."""
        return float(np.mean([case.dice[threshold] for case in self.cases]))

    @property
    def loss(self) -> float:
        """Mean of 1 - soft Dice."""
        return float(np.mean([case.loss for case in self.cases]))

    def best_threshold(self) -> float:
        """The threshold with the best mean Dice; 0.5 unless another is clearly better."""
        best = max(THRESHOLDS, key=self.dice_at)
        return best if self.dice_at(best) > self.dice + SMALLEST_DICE_GAIN else DEFAULT_THRESHOLD


def validate(
    state: TrainState, cases: "Sequence[PreparedCase]", processes: Processes
) -> Iterator[Validation | None]:
    """Validate the averaged weights on `cases`, shared out over the processes.

    Yields None after each round of scans (one per process), so that the caller can stop in between,
    and the result at the end. Random generators are left as they were.
    """
    network = state.mean.network.eval()
    mine: list[ValidatedCase] = []
    for start in range(0, len(cases), processes.size):
        if start + processes.rank < len(cases):
            mine.append(_validate_case(state, network, cases[start + processes.rank]))
        yield None
    by_rank = processes.gather(mine)
    yield Validation(
        tuple(
            by_rank[index % processes.size][index // processes.size] for index in range(len(cases))
        )
    )


def predict_settings(state: TrainState, validation: Validation | None) -> dict[str, Any]:
    """The settings of prediction that a checkpoint carries.

    Those validated with, and the threshold that validation chose.
    """
    settings = _settings(state).to_dict()
    if (
        validation is not None
        and state.config.train.tune != "none"
        and state.config.predict.threshold is None
    ):
        settings["threshold"] = validation.best_threshold()
    return settings


def _settings(state: TrainState) -> Settings:
    return chosen_settings(
        state.config.predict, {"weighting": state.config.train.validation_weighting}
    )


def _validate_case(
    state: TrainState, network: torch.nn.Module, case: "PreparedCase"
) -> ValidatedCase:
    settings = _settings(state)
    image = torch.from_numpy(np.array(case.image, dtype=np.float32))
    lowest = [(window.low - window.mean) / window.std for window in state.preprocess.windows]
    occupied = (image > torch.tensor(lowest).view(-1, 1, 1, 1) + 1e-3).any(dim=0)
    probability = sliding_window(
        network,
        image,
        patch=state.patch,
        overlap=settings.overlap,
        weighting=settings.weighting,
        device=state.device,
        precision=state.precision,
        occupied=occupied if occupied.any() else None,
        pad_value=float(image.min()) if state.config.train.padding == "air" else 0.0,
    ).numpy()
    if state.config.train.validation_grid == "native":
        probability = restore_probability(probability, case.grid)
        truth = _native_truth(state.config.data.folder, case.case)
    else:
        truth = np.asarray(case.label) > 0
    return _score(case.scan, probability, truth)


def _score(scan: str, probability: NDArray[np.float32], truth: NDArray[np.bool_]) -> ValidatedCase:
    overlap, both = float(probability[truth].sum()), float(probability.sum()) + float(truth.sum())
    return ValidatedCase(
        scan,
        {threshold: dice(probability >= threshold, truth) for threshold in THRESHOLDS},
        1.0 - 2.0 * overlap / both if both > 0 else 0.0,
    )


def _native_truth(folder: Path, case: "Case") -> NDArray[np.bool_]:
    shape, affine = read_header(folder / case.image)
    label = match_axes(read_volume(folder / case.label), shape, affine, what=f"label {case.label}")
    return np.asarray(label.array > 0)
