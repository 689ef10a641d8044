"""`[train.loss]`: the parts of the loss and their weights. A weight of 0 leaves a part out."""

from pydantic import Field

from hemseg_cli.config.section import Section


class LossConfig(Section):
    """`[train.loss]`."""

    dice: float = Field(1.0, ge=0, description="weight of the soft Dice loss")
    cross_entropy: float = Field(0.0, ge=0, description="weight of the binary cross-entropy")
    focal: float = Field(0.0, ge=0, description="weight of the focal loss")
    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent of the focal loss")
    positive_weight: float = Field(1.0, gt=0, description="weight of a hemorrhage voxel in cross-entropy and focal loss")
    dice_over_batch: bool = Field(False, description="one Dice over the whole batch; false: the mean of one per patch")
    dice_smooth: float = Field(1e-5, gt=0, description="added to numerator and denominator of the Dice")
    deep_supervision: float = Field(
        0.5, ge=0, le=1, description="weight of each coarser output relative to the one before; 0: only the finest"
    )
