"""`[train.nnunet]`: what nnU-Net's own trainer is told; epochs, minutes and seed are those of `[train]`."""

from typing import Literal

from pydantic import Field

from hemseg_cli.config.section import Section


class NnunetConfig(Section):
    """`[train.nnunet]`."""

    plans: Literal["default", "resenc-m", "resenc-l"] = Field("default", description="planner: default, or residual encoder M or L")
    configuration: Literal["3d_fullres", "2d"] = Field("3d_fullres", description="nnU-Net configuration")
    memory_gb: float | None = Field(
        None, gt=0, description="GPU memory that the plan aims at, GB; none: the planner's own (8, or 24 for L)"
    )
    iterations_per_epoch: int = Field(250, ge=1, description="training batches per epoch")
    validation_iterations: int = Field(50, ge=1, description="validation batches per epoch")
    mirror: bool = Field(True, description="average over mirrored copies in prediction, as nnU-Net does")
    overlap: float = Field(0.5, ge=0, lt=1, description="share of a window that overlaps the next one in prediction")
