"""Every section and key of `hemseg.toml`: strict, frozen models, checked by pydantic.

Each field has a description with its unit, which `hemseg config init` prints as a comment.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from hemseg_cli.config.values import expanded, expanded_path
from hemseg_cli.core.data_directory import DataDirectory


class Section(BaseModel):
    """One table of `hemseg.toml`.

    Every field has a description with its unit, which `hemseg config init` prints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Folder = Annotated[Path, AfterValidator(expanded_path)]
"""A path in which `~` and variables are written out."""
Place = Annotated[str, AfterValidator(expanded)]
"""The same, or a URL or a name."""
Probability = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(gt=0)]
Range = tuple[float, float]


class AugmentConfig(Section):
    """`[train.augment]`. In-plane: within the slice.

    Intensities are in units of the normalised image (a unit window spans -1 to 1).
    """

    mirror_p: tuple[Probability, Probability, Probability] = Field(
        (0.5, 0.5, 0.5), description="probability of mirroring along R, A, S"
    )
    rotation_p: Probability = Field(0.0, description="probability of an in-plane rotation")
    rotation_deg: float = Field(
        15.0, ge=0, le=180, description="largest rotation, degrees, either way"
    )
    scale_p: Probability = Field(0.0, description="probability of in-plane scaling")
    scale: Range = Field((0.8, 1.25), description="range of the scale factor; above 1 enlarges")
    elastic_p: Probability = Field(
        0.0, description="probability of an in-plane elastic deformation"
    )
    elastic_voxels: float = Field(
        4.0,
        ge=0,
        description="standard deviation of the displacements at the control points, voxels",
    )
    elastic_grid: int = Field(6, ge=3, description="control points along each side of the patch")
    noise_p: Probability = Field(0.0, description="probability of Gaussian noise")
    noise_hu: Range = Field((0.0, 5.0), description="range of its standard deviation, HU")
    blur_p: Probability = Field(0.0, description="probability of an in-plane Gaussian blur")
    blur_sigma: Range = Field((0.5, 1.0), description="range of its sigma, voxels")
    brightness_p: Probability = Field(0.0, description="probability of a shift of all intensities")
    brightness: Range = Field((-0.1, 0.1), description="range of the shift")
    contrast_p: Probability = Field(
        0.0, description="probability of a change of contrast about the mean"
    )
    contrast: Range = Field((0.75, 1.25), description="range of the contrast factor")
    gamma_p: Probability = Field(
        0.0, description="probability of a gamma curve over the patch's own range"
    )
    gamma: Range = Field((0.7, 1.5), description="range of the exponent")
    low_resolution_p: Probability = Field(
        0.0, description="probability of in-plane down- and upsampling"
    )
    low_resolution: Range = Field(
        (0.5, 1.0), description="range of the share of the resolution that is left"
    )


class ComputeConfig(Section):
    """`[compute]`."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto, cpu, cuda, cuda:N or mps",
    )
    workers: int | None = Field(
        None, ge=0, description="worker processes; none: one per core; 0: the command's own process"
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="threads that compute on the CPU; none: as many as the cores that are idle, "
        "within the quota of a container",
    )
    scheduler: str | None = Field(
        None, description="address of a Dask scheduler, tcp://host:port (extra dask)"
    )
    memory_mb: int | None = Field(
        None, ge=256, description="memory that prediction may take, MB; none: half of what is free"
    )


class RunsConfig(Section):
    """`[runs]`."""

    root: Folder = Field(Path("runs"), description="folder of the run directories")
    models: Folder | None = Field(
        None, description="folder of the downloaded models; none: the user's own"
    )


class DataConfig(Section):
    """`[data]`."""

    root: Folder = Field(Path("data"), description="folder that holds the data sets")
    dataset: str = Field(
        "hemseg-200",
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="hemseg-200, hemseg-500, or the name of a data set of your own below data.root",
    )

    train_on: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")], ...] = Field(
        (),
        description="data sets that are trained on together, each with the classes that it labels; "
        "the first is the one that the run works on; none: dataset alone",
    )
    allow_contamination: bool = Field(
        False, description="train on several data sets also where one has test scans of another"
    )
    cache: Path | None = Field(
        None, description="folder of the preprocessed scans; none: .cache in the data set"
    )

    @model_validator(mode="after")
    def _first_is_the_data_set(self) -> "DataConfig":
        """Let the first of several data sets be the one that everything else reads."""
        if self.train_on and "dataset" not in self.model_fields_set:
            object.__setattr__(self, "dataset", self.train_on[0])  # frozen, and not yet given out
        return self

    @property
    def folder(self) -> Path:
        """`<root>/<dataset>`."""
        return self.root / self.dataset

    @property
    def cases_file(self) -> Path:
        """The case table."""
        return self.directory.cases_file

    @property
    def directory(self) -> DataDirectory:
        """Every file name inside the data set."""
        return DataDirectory(self.folder)


class FetchConfig(Section):
    """`[fetch]`."""

    source: Place | None = Field(
        None,
        description=(
            "mirror URL, archive file or folder; none: the published files, by their commit"
        ),
    )
    splits: Literal["official", "patient"] = Field(
        "official",
        description="the published splits, or the same repaired so that no patient stands in two",
    )
    timeout_s: float = Field(
        30.0, gt=0, description="seconds without a byte after which a connection is given up"
    )
    retries: int = Field(5, ge=0, description="how often a broken download is taken up again")
    backoff_s: float = Field(
        1.0, ge=0, description="seconds before the first retry, doubled before each further one"
    )
    redirect_hosts: tuple[str, ...] = Field(
        (),
        description=(
            "hosts to which a download may be redirected, besides its own, GitHub's, Kaggle's"
            " and Google storage"
        ),
    )


class ConvertConfig(Section):
    """`[convert]`."""

    dicom: Place | None = Field(
        None, description="DICOM folder, zip file, https://...zip, or kaggle"
    )
    layout: Literal["rsna", "series"] = Field(
        "rsna",
        description=(
            "rsna: slices by id, per manifest; series: any tree of DICOM files, one NIfTI per"
            " series"
        ),
    )
    out: Folder | None = Field(
        None, description="output folder of layout series; none: <data.root>/<data.dataset>"
    )
    uneven: Literal["refuse", "resample"] = Field(
        "refuse", description="uneven slice steps; resample needs layout series or geometry true"
    )
    geometry: Literal["label", "true"] = Field(
        "label",
        description=(
            "label: the label's grid; true: tilted scans resampled upright, with their labels"
            " into a data set <dataset>-true"
        ),
    )
    repair: bool = Field(
        True,
        description="undo 12-bit rollover and set padding to air; false: the values of the "
        "published chain to the letter",
    )
    keep_slices: bool = Field(
        False,
        description="keep the slices of a remote source after their scan is written (0.5 MB each)",
    )
    kaggle_url: str = Field("https://www.kaggle.com", description="base URL of the Kaggle API")
    connections: int = Field(4, ge=1, le=16, description="connections to a remote zip")


class EvaluateConfig(Section):
    """`[evaluate]`."""

    split: Literal["train", "val", "test"] = Field("test", description="split that is scored")
    bootstrap: int = Field(1000, ge=100, description="bootstrap resamples")
    confidence: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    seed: int = Field(47, ge=0, description="seed of the bootstrap")
    method: Literal["studentised", "percentile", "bca"] = Field(
        "studentised", description="bootstrap interval; always studentised below 20 patients"
    )
    protocol: Literal["native", "paper"] = Field(
        "native",
        description=(
            "native: native grid, mm, patients resampled; paper: as the published table was made"
        ),
    )
    nsd_tolerance_mm: float = Field(
        2.0, gt=0, description="tolerance of the normalised surface Dice, mm"
    )
    nsd_tolerance_by_slice_mm: tuple[tuple[Millimetres, Millimetres], ...] = Field(
        (),
        description=(
            "another tolerance from a slice distance on, both mm: [[4, 5]] is 5 mm where slices "
            "lie 4 mm apart or more; none: one tolerance for all scans"
        ),
    )

    @field_validator("nsd_tolerance_by_slice_mm")
    @classmethod
    def _distances_ascend(
        cls, value: tuple[tuple[float, float], ...]
    ) -> tuple[tuple[float, float], ...]:
        starts = [start for start, _ in value]
        if starts != sorted(set(starts)):
            raise ValueError("slice distances have to ascend, as in [[3, 4], [6, 7]]")
        return value

    @property
    def nsd_tolerances_mm(self) -> float | tuple[tuple[float, float], ...]:
        """One tolerance for all scans, or (slice distance from, tolerance) from 0 on, mm."""
        if not self.nsd_tolerance_by_slice_mm:
            return self.nsd_tolerance_mm
        return ((0.0, self.nsd_tolerance_mm), *self.nsd_tolerance_by_slice_mm)


class LossConfig(Section):
    """`[train.loss]`."""

    dice: float = Field(1.0, ge=0, description="weight of the soft Dice loss")
    cross_entropy: float = Field(0.0, ge=0, description="weight of the cross-entropy")
    focal: float = Field(0.0, ge=0, description="weight of the focal loss")
    focal_gamma: float = Field(2.0, ge=0, description="focusing exponent of the focal loss")
    positive_weight: float = Field(
        1.0, gt=0, description="weight of a hemorrhage voxel in cross-entropy and focal loss"
    )
    dice_over_batch: bool = Field(
        False, description="one Dice over the whole batch; false: the mean of one per patch"
    )
    dice_smooth: float = Field(
        1e-5, gt=0, description="added to numerator and denominator of the Dice"
    )
    deep_supervision: float = Field(
        0.5,
        ge=0,
        le=1,
        description="weight of each coarser output relative to the one before; 0: only the finest",
    )


class NnunetConfig(Section):
    """`[train.nnunet]`."""

    plans: Literal["default", "resenc-m", "resenc-l"] = Field(
        "default", description="planner: default, or residual encoder M or L"
    )
    configuration: Literal["3d_fullres", "2d"] = Field(
        "3d_fullres", description="nnU-Net configuration"
    )
    memory_gb: float | None = Field(
        None,
        gt=0,
        description=(
            "GPU memory that the plan aims at, GB; none: the planner's own (8, or 24 for L)"
        ),
    )
    iterations_per_epoch: int = Field(250, ge=1, description="training batches per epoch")
    validation_iterations: int = Field(50, ge=1, description="validation batches per epoch")
    mirror: bool = Field(
        True,
        description=(
            "average over mirrored scans (test-time augmentation) in prediction, as nnU-Net does"
        ),
    )
    overlap: float = Field(
        0.5, ge=0, lt=1, description="share of a window that overlaps the next one in prediction"
    )


NameRule = Literal["folder", "patient", "accession", "series"]


class PredictConfig(Section):
    """`[predict]`.

    Keys without a value are as the run chose them on its validation split (else 0.25, false,
    constant, 0.5 and 0 mL).
    """

    checkpoint: Literal["best", "last"] | None = Field(
        None,
        description="checkpoint of the run; none: best, and last for nnU-Net, "
        "which predicts with its final weights",
    )
    split: Literal["train", "val", "test"] = Field(
        "test", description="split that is predicted when no input is named"
    )
    overlap: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of a window that overlaps the next one; none: as the run chose",
    )
    tta: bool | None = Field(
        None,
        description="average over scans mirrored along the axes that training mirrored "
        "(test-time augmentation); none: as the run chose",
    )
    weighting: Literal["gaussian", "constant"] | None = Field(
        None,
        description="weights of overlapping windows, gaussian or constant; none: as the run chose",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=(
            "probability from which a voxel is hemorrhage; none: as the run chose on validation"
        ),
    )
    class_thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = Field(
        None,
        description=(
            "thresholds of several classes, in order of their values; none: as the run chose"
        ),
    )
    min_component_ml: float | None = Field(
        None,
        ge=0,
        description=(
            "smaller connected components are removed, mL; none: as the run chose on validation"
        ),
    )
    crop: bool | None = Field(
        None,
        description="compute the box of the head only, and no window without head; "
        "none: as the run was trained to (recipe paper: no, else yes)",
    )
    crop_margin_mm: float = Field(
        20.0,
        ge=0,
        description="margin around the box of the head (what lies 8 mm below the skin), mm",
    )
    intracranial: bool | None = Field(
        None,
        description="keep what lies in the intracranial space only, where the skull shows it; "
        "none: as the run (recipe paper: no, else yes)",
    )
    window: Literal["largest", "patch"] | None = Field(
        None,
        description="windows of fully convolutional networks: the largest in plane that memory "
        "allows, or the training patch; none: as the run (recipe paper: patch, else largest)",
    )
    batch: int = Field(1, ge=1, description="windows computed at once")
    precision: Literal["auto", "float32", "bfloat16", "float16"] | None = Field(
        None,
        description=(
            "arithmetic of the network; auto: bfloat16 or float16 where the hardware gains; "
            "none: as the run (recipe paper: float32, else auto)"
        ),
    )
    format: str = Field(
        "nifti",
        description="formats of output, comma-separated: nifti (always written), nifti-per-class; "
        "for DICOM input dicom-seg, dicom-sr (with dicom-seg; extra dicom), dicom-pdf",
    )
    keep_identity: bool = Field(
        False,
        description="DICOM output and volumes.csv say who the patient is, as the source does: "
        "name, id, birth date, sex, accession number, study id, date and time",
    )
    settle_s: float = Field(
        10.0,
        ge=0,
        le=86_400,
        description="seconds without a change after which --watch takes a study as whole",
    )
    upright: bool = Field(
        False,
        description="also write scan and mask resampled upright and at even steps, whose header "
        "shows the true mL in every viewer",
    )
    name_by: NameRule = Field(
        "folder",
        description="what names the masks of DICOM series: folder (or zip), patient, accession "
        "(both with keep_identity), series (number and a digest); image files keep their names",
    )
    save_probabilities: bool = Field(
        False, description="also write the probabilities (8 bit, scale in the header)"
    )
    previews: bool = Field(True, description="also write one PNG per scan")


class ReportConfig(Section):
    """`[report]`."""

    title: str = Field("Intracerebral hemorrhage segmentation", description="title of the page")
    split: Literal["train", "val", "test"] | None = Field(
        None,
        description=(
            "split whose evaluation is shown; none: test, else the one split that every run "
            "was evaluated on"
        ),
    )
    viewer_cases: int = Field(
        45,
        ge=0,
        le=200,
        description="scans in the slice viewer, spread from worst to best Dice; 0.3 to 1 MB each",
    )
    viewer_matrix: int = Field(
        256, ge=64, le=512, description="largest width and height of a slice in the viewer, pixels"
    )


Count = Annotated[int, Field(ge=1)]
Size = Annotated[int, Field(ge=0)]
NotNegative = Annotated[float, Field(ge=0)]


class TrainConfig(Section):
    """`[train]`."""

    model: str = Field("dynunet", description="network; hemseg train --list shows them")
    factory: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="your own network, module:callable, called with in_channels and train.network; "
        "takes the place of train.model",
    )
    start_from: str | None = Field(
        None,
        description="run or model archive whose weights the training starts from; lr is then a "
        "tenth unless it is set",
    )
    freeze: Literal["encoder"] | None = Field(
        None, description="weights that stay as they are: encoder; none: all are trained"
    )
    recipe: Literal["strong", "paper"] = Field(
        "strong", description="preset of every other number: strong, or the published setup"
    )
    epochs: int = Field(300, ge=1, description="passes over the train split")
    max_minutes: float | None = Field(
        None,
        gt=0,
        description="stop after this many minutes, the schedule stretched to fit; none: no limit",
    )
    seed: int = Field(42, ge=0, description="every random number derives from (seed, epoch, index)")
    fold: Annotated[int, Field(ge=0)] | Literal["all"] | None = Field(
        None,
        description=(
            "fold kept for validation in cross-validation, or all, one after the other; none:"
            " the published split"
        ),
    )
    folds: int = Field(5, ge=2, description="number of folds, grouped by patient")
    network: dict[str, Any] = Field(
        default_factory=dict,
        description="arguments of the network that differ from its defaults, e.g. "
        "channels = [16, 32, 64]; of the model that this file names",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description=(
            "of the network's arithmetic; auto: bfloat16 or float16 where the hardware gains, and "
            "on a CPU where the gradients allow it; else float32"
        ),
    )
    output_bias: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "probability of hemorrhage that the network starts from; 0: as its weights happen"
            " to fall, near 0.5"
        ),
    )
    clip_norm: float = Field(
        0.0, ge=0, description="the gradient is scaled down to this norm; 0: never"
    )
    ema_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="the weights are averaged over this share of the training; 0: no mean is kept",
    )
    tf32: bool = Field(True, description="TF32 for float32 products on a GPU; false: full float32")
    deterministic: bool = Field(
        False, description="deterministic algorithms alone, where there are some; slower on a GPU"
    )
    channels_last: bool = Field(False, description="memory format channels_last_3d")
    compile: bool = Field(False, description="torch.compile, where there is a compiler")
    validation_every: int = Field(
        1,
        ge=1,
        description="epochs between validations on whole scans; the last epoch is always validated",
    )
    grid_alignment: Literal["first-voxel", "monai"] = Field(
        "first-voxel",
        description="where the network's grid lies: its first voxel on the scan's, "
        "or where MONAI's Spacing puts it",
    )
    validation_grid: Literal["native", "network"] = Field(
        "native",
        description=(
            "grid on which validation is scored: the scan's own, or the resampled one that "
            "the network sees"
        ),
    )
    validation_crop: bool = Field(
        True, description="validate on the box of the head; false: on the whole scan, as published"
    )
    validation_weighting: Literal["gaussian", "constant"] = Field(
        "constant", description="weights of overlapping windows in validation"
    )
    choose: Literal["none", "mask", "all"] = Field(
        "all",
        description=(
            "settings of prediction chosen on the val split: none; threshold and smallest "
            "component (mask); "
            "also overlap, weighting and mirrored scans (test-time augmentation), when "
            "training is done and as a tenth of its time allows (all)"
        ),
    )
    choose_cases: int | None = Field(
        24,
        ge=1,
        description="scans of the val split, of all volumes, on which they are compared; none: all",
    )
    calibrate: bool = Field(
        True,
        description=(
            "store how far predicted volumes lie from the true ones on the val split (from 20 "
            "scans on), and how scans look: predict then gives intervals and flags scans that "
            "look otherwise"
        ),
    )
    validation_cases: int | None = Field(
        None, ge=1, description="scans of the val split that are validated on; none: all"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="validations without a better Dice after which training stops; none: never",
    )
    save_minutes: float = Field(
        5.0,
        ge=0,
        description="minutes between saves of last.pt; it is also saved on every stop and new best",
    )
    non_finite_batches: int = Field(
        5,
        ge=1,
        description="batches in a row with a loss that is not finite after which training stops",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (),
        description="where the training is shown, too: tensorboard (extra tensorboard); "
        "wandb, mlflow (extra tracking), which send its figures to their servers",
    )
    picture_every: int | None = Field(
        None,
        ge=1,
        description="validations between pictures of one val scan, with the contours of label and "
        "mask, in train/pictures; none: no pictures",
    )
    spacing_mm: tuple[NotNegative, NotNegative, NotNegative] = Field(
        (0.0, 0.0, 0.0),
        description=(
            "voxel spacing along R, A, S that scans are resampled to, mm; 0 keeps the scan's own"
        ),
    )
    keep_spacing_within: float = Field(
        1.0,
        ge=1,
        description=(
            "an axis whose own spacing is within this factor of spacing_mm is not resampled; "
            "1: always resampled"
        ),
    )
    thin_slices: Literal["average", "sample"] = Field(
        "average",
        description="voxels much thinner than spacing_mm are averaged over its extent, or a point "
        "among them is interpolated (sample)",
    )
    windows: tuple[tuple[float, float] | tuple[float, float, float, float], ...] = Field(
        ((0.0, 80.0),),
        min_length=1,
        description=(
            "one input channel each: [low, high] HU scaled to -1..1, or [low, high, subtract,"
            " divide by]"
        ),
    )
    stored_type: Literal["float16", "float32"] = Field(
        "float16", description="number type of the preprocessed images on disk"
    )
    skip_bad_scans: bool = Field(
        False,
        description="train without the scans that cannot be preprocessed, instead of stopping",
    )
    patch: tuple[Count, Count, Count] = Field(
        (256, 256, 16), description="patch along R, A, S, voxels"
    )
    pad_to: tuple[Size, Size, Size] = Field(
        (0, 0, 0),
        description=(
            "smaller scans are first padded to this, on both sides, voxels; 0: to the patch"
        ),
    )
    padding: Literal["air", "zero"] = Field(
        "air", description="what is padded: air, or 0 after normalisation"
    )
    batch_size: int = Field(2, ge=1, description="patches per step, over all devices")
    size: Literal["auto", "standard", "large"] = Field(
        "auto",
        description="of dynunet and dynunet-res where patch and network are the recipe's: large "
        "(7 levels, patches of 320 x 256 x 20), standard, or large on a GPU of 24 GB and more",
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description=(
            "patches of a batch that go through the network together, the others after them, "
            "for less memory; "
            "none: the whole batch, on a CPU what is fastest"
        ),
    )
    patches_per_scan: int = Field(4, ge=1, description="patches cut from each scan in an epoch")
    patch_order: Literal["mixed", "by_scan"] = Field(
        "mixed",
        description=(
            "mixed: the patches of all scans shuffled; by_scan: those of a scan follow each other"
        ),
    )
    small_lesion_power: float = Field(
        0.0,
        ge=0,
        le=2,
        description="scans are drawn in proportion to 1 / (mL of hemorrhage) to this power, so "
        "that small lesions are seen more often; 0: each scan as often",
    )
    foreground_share: Probability = Field(
        0.5, description="share of patches whose centre lies on hemorrhage, where the scan has any"
    )
    background_centres: Literal["background", "tissue", "anywhere"] = Field(
        "background",
        description=(
            "centres of the other patches: voxels without hemorrhage, of these only where the "
            "normalised image is above 0 (tissue), or anywhere"
        ),
    )
    jitter: Probability = Field(
        0.0,
        description="how far a foreground centre is moved at random, as a share of half the patch",
    )
    optimiser: Literal["adamw", "sgd"] = Field(
        "adamw", description="optimiser; sgd has Nesterov momentum"
    )
    lr: float = Field(1e-3, gt=0, description="learning rate at its highest")
    weight_decay: float = Field(0.01, ge=0, description="weight decay")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd, first beta of adamw")
    schedule: Literal["poly", "cosine", "step", "constant"] = Field(
        "poly", description="how the learning rate falls"
    )
    warmup: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training in which the learning rate rises from a hundredth",
    )
    poly_power: float = Field(0.9, gt=0, description="exponent of schedule poly")
    step_epochs: int = Field(10, ge=1, description="epochs between the falls of schedule step")
    step_factor: float = Field(0.9, gt=0, le=1, description="factor of each fall of schedule step")
    activation: Literal["sigmoid", "softmax"] = Field(
        "sigmoid",
        description="of the outputs; sigmoid: each class for itself, classes may overlap; "
        "softmax: at most one class on a voxel (nnunet always trains with it)",
    )
    loss: LossConfig = Field(default_factory=LossConfig, description="the loss")
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="augmentation of training patches"
    )
    nnunet: NnunetConfig = Field(
        default_factory=NnunetConfig, description="nnU-Net's own trainer (model nnunet)"
    )

    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        exclude=True,  # merged into the other keys by the time that the config is used
        description="keys of [train] that hold for one model alone, a table for each: "
        "[train.models.unet] lr = 0.01",
    )

    @model_validator(mode="after")
    def _factory_names_the_model(self) -> "TrainConfig":
        """Let `factory` stand for the model, so that everything else reads one name."""
        if self.factory is not None:
            object.__setattr__(self, "model", self.factory)  # frozen, and not yet given out
        return self


class Config(Section):
    """`hemseg.toml`."""

    data: DataConfig = Field(default_factory=DataConfig, description="where the data set lies")
    runs: RunsConfig = Field(default_factory=RunsConfig, description="where runs are kept")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="the machine")
    fetch: FetchConfig = Field(default_factory=FetchConfig, description="hemseg fetch-labels")
    convert: ConvertConfig = Field(default_factory=ConvertConfig, description="hemseg convert")
    train: TrainConfig = Field(default_factory=TrainConfig, description="hemseg train")
    predict: PredictConfig = Field(default_factory=PredictConfig, description="hemseg predict")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="hemseg evaluate")
    report: ReportConfig = Field(default_factory=ReportConfig, description="hemseg report")
