"""`[train]`: one training run. The numbers of a recipe are presets of these keys (`config/recipes.py`)."""

from typing import Annotated, Any, Literal

from pydantic import Field

from hemseg_cli.config.section import Section


class TrainConfig(Section):
    """`[train]`."""

    model: str = Field("dynunet", description="network; hemseg train --list shows them")
    recipe: Literal["strong", "paper"] = Field("strong", description="preset of every other number: strong, or the published setup")
    epochs: int = Field(300, ge=1, description="passes over the train split")
    max_minutes: float | None = Field(None, gt=0, description="stop after this many minutes, the schedule stretched to fit; none: no limit")
    seed: int = Field(42, ge=0, description="every random number derives from (seed, epoch, index)")
    fold: Annotated[int, Field(ge=0)] | Literal["all"] | None = Field(
        None, description="fold kept for validation in cross-validation, or all, one after the other; none: the published split"
    )
    folds: int = Field(5, ge=2, description="number of folds, grouped by patient")
    network: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the network that differ from its defaults, e.g. channels = [16, 32, 64]"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="of the network's arithmetic; auto: bfloat16 on CUDA, float32 elsewhere"
    )
    clip_norm: float = Field(0.0, ge=0, description="the gradient is scaled down to this norm; 0: never")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the running mean of the weights per step; 0: no mean is kept")
    validation_every: int = Field(1, ge=1, description="epochs between validations on whole scans; the last epoch is always validated")
    validation_grid: Literal["native", "network"] = Field(
        "native", description="grid on which validation is scored: the scan's own, or the resampled one that the network sees"
    )
    validation_cases: int | None = Field(None, ge=1, description="scans of the val split that are validated on; none: all")
    patience: int | None = Field(None, ge=1, description="validations without a better Dice after which training stops; none: never")
    save_minutes: float = Field(5.0, ge=0, description="minutes between saves of last.pt; it is also saved on every stop and new best")
    non_finite_batches: int = Field(5, ge=1, description="batches in a row with a loss that is not finite after which training stops")
    tensorboard: bool = Field(False, description="also write TensorBoard events (extra tensorboard)")
