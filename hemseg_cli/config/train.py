"""`[train]`: one training run. The numbers of a recipe are presets of these keys (`config/recipes.py`)."""

from typing import Literal

from pydantic import Field

from hemseg_cli.config.section import Section


class TrainConfig(Section):
    """`[train]`."""

    model: str = Field("dynunet", description="network; hemseg train --list shows them")
    recipe: Literal["strong", "paper"] = Field("strong", description="preset of every other number: strong, or the published setup")
    epochs: int = Field(300, ge=1, description="passes over the train split")
    max_minutes: float | None = Field(None, gt=0, description="stop after this many minutes, the schedule stretched to fit; none: no limit")
    seed: int = Field(42, ge=0, description="every random number derives from (seed, epoch, index)")
    fold: int | None = Field(None, ge=0, description="fold kept for validation in cross-validation; none: the published split")
    folds: int = Field(5, ge=2, description="number of folds, grouped by patient")
    tensorboard: bool = Field(False, description="also write TensorBoard events (extra tensorboard)")
