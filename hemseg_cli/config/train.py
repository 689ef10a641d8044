"""`[train]`: one training run. The numbers of a recipe are presets of these keys (`config/recipes.py`)."""

from typing import Annotated, Any, Literal

from pydantic import Field

from hemseg_cli.config.augment import AugmentConfig, Probability
from hemseg_cli.config.loss import LossConfig
from hemseg_cli.config.nnunet import NnunetConfig
from hemseg_cli.config.section import Section

Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]


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
        "auto", description="of the network's arithmetic; auto: bfloat16 where the hardware gains by it, else float32"
    )
    prior: float = Field(
        0.0, ge=0, lt=1, description="probability of hemorrhage that the network starts from; 0: as its weights happen to fall, near 0.5"
    )
    clip_norm: float = Field(0.0, ge=0, description="the gradient is scaled down to this norm; 0: never")
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the running mean of the weights per step; 0: no mean is kept")
    validation_every: int = Field(1, ge=1, description="epochs between validations on whole scans; the last epoch is always validated")
    validation_grid: Literal["native", "network"] = Field(
        "native", description="grid on which validation is scored: the scan's own, or the resampled one that the network sees"
    )
    validation_weighting: Literal["gaussian", "constant"] = Field("constant", description="weights of overlapping windows in validation")
    choose: Literal["none", "mask", "all"] = Field(
        "all",
        description="settings of prediction chosen on the val split: none; threshold and smallest component (mask); "
        "also overlap, weighting and mirrored copies, when training is done and as a tenth of its time allows (all)",
    )
    choose_cases: int = Field(8, ge=1, description="scans of the val split on which they are compared")
    validation_cases: int | None = Field(None, ge=1, description="scans of the val split that are validated on; none: all")
    patience: int | None = Field(None, ge=1, description="validations without a better Dice after which training stops; none: never")
    save_minutes: float = Field(5.0, ge=0, description="minutes between saves of last.pt; it is also saved on every stop and new best")
    non_finite_batches: int = Field(5, ge=1, description="batches in a row with a loss that is not finite after which training stops")
    tensorboard: bool = Field(False, description="also write TensorBoard events (extra tensorboard)")
    spacing_mm: tuple[NotNegative, NotNegative, NotNegative] = Field(
        (0.0, 0.0, 0.0), description="voxel spacing along R, A, S that scans are resampled to, mm; 0 keeps the scan's own"
    )
    keep_spacing_within: float = Field(
        1.0, ge=1, description="an axis whose own spacing is within this factor of spacing_mm is not resampled; 1: always resampled"
    )
    windows: tuple[tuple[float, float] | tuple[float, float, float, float], ...] = Field(
        ((0.0, 80.0),),
        min_length=1,
        description="one input channel each: [low, high] HU scaled to -1..1, or [low, high, subtract, divide by]",
    )
    stored_type: Literal["float16", "float32"] = Field("float16", description="number type of the preprocessed images on disk")
    skip_bad_scans: bool = Field(False, description="train without the scans that cannot be preprocessed, instead of stopping")
    patch: tuple[Count, Count, Count] = Field((256, 256, 16), description="patch along R, A, S, voxels")
    pad_to: tuple[Size, Size, Size] = Field(
        (0, 0, 0), description="smaller scans are first padded to this, on both sides, voxels; 0: to the patch"
    )
    padding: Literal["air", "zero"] = Field("air", description="what is padded: air, or 0 after normalisation")
    batch_size: int = Field(2, ge=1, description="patches per step, over all devices")
    patches_at_once: int | None = Field(
        None,
        ge=1,
        description="patches of a batch that go through the network together, the others after them, for less memory; "
        "none: the whole batch, on a CPU what is fastest",
    )
    patches_per_scan: int = Field(4, ge=1, description="patches cut from each scan in an epoch")
    patch_order: Literal["mixed", "by_scan"] = Field(
        "mixed", description="mixed: the patches of all scans shuffled; by_scan: those of a scan follow each other"
    )
    foreground_share: Probability = Field(0.5, description="share of patches whose centre lies on hemorrhage, where the scan has any")
    background_centres: Literal["background", "anywhere"] = Field(
        "background", description="where the centres of the other patches lie: on voxels without hemorrhage, or anywhere"
    )
    jitter: Probability = Field(0.0, description="how far a foreground centre is moved at random, as a share of half the patch")
    optimiser: Literal["adamw", "sgd"] = Field("adamw", description="optimiser; sgd has Nesterov momentum")
    lr: float = Field(1e-3, gt=0, description="learning rate at its highest")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd, first beta of adamw")
    schedule: Literal["poly", "cosine", "step", "constant"] = Field("poly", description="how the learning rate falls")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the training in which the learning rate rises from a hundredth")
    poly_power: float = Field(0.9, gt=0, description="exponent of schedule poly")
    step_epochs: int = Field(10, ge=1, description="epochs between the falls of schedule step")
    step_factor: float = Field(0.9, gt=0, le=1, description="factor of each fall of schedule step")
    loss: LossConfig = Field(default_factory=LossConfig, description="the loss")
    augment: AugmentConfig = Field(default_factory=AugmentConfig, description="augmentation of training patches")
    nnunet: NnunetConfig = Field(default_factory=NnunetConfig, description="nnU-Net's own trainer (model nnunet)")
