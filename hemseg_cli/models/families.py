"""The families of models: networks that our training loop trains, and nnU-Net with its own trainer.

A family knows how its models are trained, resumed, checked, and loaded for
prediction. Everything else asks the family of a model (`require_model(name).family`) and names no
family itself. The functions live in the rooms of training and inference, which stand above this
one, and load torch: each is named as `module:attribute` and imported when it is called.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from hemseg_cli.config import Config
    from hemseg_cli.config.schema import PredictConfig


class Family(Protocol):
    """What the rest of hemseg asks of a kind of model."""

    @property
    def exports_onnx(self) -> bool:
        """Whether its networks take prepared patches, so that an ONNX file of one is of use."""

    @property
    def checkpoint(self) -> str:
        """The checkpoint that predicts unless the user names one: best or last."""

    def train(
        self, config: "Config", *, run: str | None, resume: bool, keep_finished: bool = False
    ) -> Any:
        """Train into a run directory, or go on where the run stopped; returns a `TrainResult`.

        `keep_finished`: that of a run with nothing left to train too, instead of an error.
        """

    def check_weights(self, settings: Any, weights: Mapping[str, "torch.Tensor"]) -> None:
        """FileFormatError unless the weights are those of the network that the settings describe.

        Costs no memory for the network, and runs no code that the settings name.
        """

    def load(
        self,
        checkpoint: Mapping[str, Any],
        config: "PredictConfig",
        device: "torch.device",
        memory_mb: int | None,
    ) -> Any:
        """The network of a checkpoint, ready to predict (`inference.ensemble.ScanNetwork`)."""


@dataclass(frozen=True)
class LazyFamily:
    """A family whose functions are imported when they are called, each named `module:attribute`."""

    training: str
    weight_check: str
    loading: str
    exports_onnx: bool = True
    checkpoint: str = "best"

    def train(
        self, config: "Config", *, run: str | None, resume: bool, keep_finished: bool = False
    ) -> Any:
        """As `Family.train`."""
        return imported(self.training)(config, run=run, resume=resume, keep_finished=keep_finished)

    def check_weights(self, settings: Any, weights: Mapping[str, "torch.Tensor"]) -> None:
        """As `Family.check_weights`."""
        imported(self.weight_check)(settings, weights)

    def load(
        self,
        checkpoint: Mapping[str, Any],
        config: "PredictConfig",
        device: "torch.device",
        memory_mb: int | None,
    ) -> Any:
        """As `Family.load`."""
        return imported(self.loading)(checkpoint, config, device, memory_mb)


NETWORK: Family = LazyFamily(
    training="hemseg_cli.training.train:train_network",
    weight_check="hemseg_cli.models.weights:check_network_weights",
    loading="hemseg_cli.inference.ensemble:load_own_network",
)
NNUNET: Family = LazyFamily(
    training="hemseg_cli.training.nnunet_run:train_nnunet_run",
    weight_check="hemseg_cli.models.nnunet_plans:check_nnunet_weights",
    loading="hemseg_cli.inference.nnunet:load_nnunet_network",
    exports_onnx=False,
    checkpoint="last",  # nnU-Net itself predicts with its final weights
)


def imported(name: str) -> Callable[..., Any]:
    """The attribute that `module:attribute` names."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function
