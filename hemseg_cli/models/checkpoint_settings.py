"""The settings of a trained network: one checked form for a checkpoint (`.pt`) and a model archive.

A file may come from anywhere. Every value is plain, finite, of exactly its type and within bounds,
so that nothing read from a file can ask for hours or for terabytes later.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from hemseg_cli.core.classes import (
    HEMORRHAGE_ONLY,
    MOST_CLASSES,
    LabelClass,
    classes_from_plain,
)
from hemseg_cli.core.errors import FileFormatError

FORMAT = 2
"""Version of both files; a file of another version is refused."""

_LARGEST_NUMBER = 1e7
_MOST_VALUES = 20_000
_MOST_DEPTH = 8
_LONGEST_TEXT = 4 << 20  # nnU-Net's plans are kept as JSON text
_MOST_PATCH_VOXELS = 1 << 27  # 512 x 512 x 512
_MOST_CALIBRATION_SCANS = 10_000


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Accept a table of plain, finite, bounded values; ValueError names the first that is not."""
    seen = 0

    def check(value: Any, place: str, depth: int) -> None:
        nonlocal seen

        # Bounds first: a table nested without end is refused before it is walked through.
        seen += 1
        if seen > _MOST_VALUES or depth > _MOST_DEPTH:
            raise ValueError("too many values, or nested too deeply")

        if isinstance(value, dict):
            for key, item in value.items():
                if not isinstance(key, str) or len(key) > 200:
                    raise ValueError(f"{place} has a key that is no short text")
                check(item, f"{place}.{key}", depth + 1)
        elif isinstance(value, list | tuple):
            for item in value:
                check(item, place, depth + 1)
        elif isinstance(value, str):
            if len(value) > _LONGEST_TEXT:
                raise ValueError(f"{place} is a text of {len(value)} letters")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if not -_LARGEST_NUMBER <= value <= _LARGEST_NUMBER:  # also refuses what is no number
                raise ValueError(f"{place} = {str(value)[:40]} is not within {_LARGEST_NUMBER:.0e}")
        elif value is not None and not isinstance(value, bool):
            raise ValueError(f"{place} is a {type(value).__name__}, no plain value")

    check(values, "the table", 0)
    return values


def _patch_fits(patch: list[int]) -> list[int]:
    if math.prod(patch) > _MOST_PATCH_VOXELS:
        raise ValueError(f"more than {_MOST_PATCH_VOXELS} voxels")
    return patch


PlainTable = Annotated[dict[str, Any], AfterValidator(_plain)]
Hounsfield = Annotated[float, Field(ge=-1e5, le=1e5)]
Axis = Annotated[int, Field(ge=0, le=2)]
SpacingMm = Annotated[float, Field(ge=0.1, le=100)]
Patch = Annotated[
    list[Annotated[int, Field(ge=1, le=4096)]],
    Field(min_length=3, max_length=3),
    AfterValidator(_patch_fits),
]


class _Settings(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class WindowSettings(_Settings):
    """One input channel: HU clipped to [low, high], minus `mean`, divided by `std`."""

    low: Hounsfield
    high: Hounsfield
    mean: Hounsfield
    std: Annotated[float, Field(gt=0, le=1e5)]

    @model_validator(mode="after")
    def _is_open(self) -> "WindowSettings":
        if not self.low < self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}")
        return self


class PreprocessSettings(_Settings):
    """As `imaging.preprocess.Preprocess`; empty for a model that prepares its scans itself."""

    spacing_mm: Annotated[list[SpacingMm | None], Field(min_length=3, max_length=3)] | None = None
    windows: Annotated[list[WindowSettings], Field(min_length=1, max_length=64)] | None = None
    keep_within: Annotated[float, Field(ge=1, le=100)] = 1.0
    alignment: Literal["first-voxel", "monai"] = "first-voxel"
    thin_slices: Literal["average", "sample"] = "sample"


class PredictionSettings(_Settings):
    """How the run predicts unless the user says otherwise; other plain values may stand beside."""

    model_config = ConfigDict(extra="allow")

    overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    tta: bool | None = None
    weighting: Literal["gaussian", "constant"] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    min_component_ml: Annotated[float, Field(ge=0, le=1e4)] | None = None

    @model_validator(mode="after")
    def _others_are_plain(self) -> "PredictionSettings":
        _plain(dict(self.model_extra or {}))
        return self


Millilitres = Annotated[float, Field(ge=0, le=1e5)]
LookNumber = Annotated[float, Field(ge=-1e7, le=1e7)]
ShortText = Annotated[str, Field(min_length=1, max_length=200)]


class LookSettings(_Settings):
    """As `inference.look.LookRange`: four numbers for each feature of a scan's look."""

    scans: Annotated[int, Field(ge=1)]
    ranges: Annotated[
        dict[ShortText, Annotated[list[LookNumber], Field(min_length=4, max_length=4)]],
        Field(max_length=100),
    ]


class CalibrationSettings(_Settings):
    """As `inference.calibration.Calibration`: predicted and true mL by class and val scan."""

    scans: Annotated[int, Field(ge=0)]
    volumes: Annotated[
        dict[
            ShortText,
            Annotated[
                dict[ShortText, Annotated[list[Millilitres], Field(min_length=2, max_length=2)]],
                Field(max_length=_MOST_CALIBRATION_SCANS),
            ],
        ],
        Field(max_length=MOST_CLASSES + 1),
    ]
    look: LookSettings | None


class CheckpointSettings(_Settings):
    """What rebuilds a network and prepares its input. `network_config` is stored as `model_config`.

    `patch` in voxels along i, j, k; `epoch` and `step` of training; `mirrored`: the axes along
    which training mirrored its patches; `activation`: what turns the logits into probabilities.
    """

    format: Annotated[int, Field(ge=FORMAT, le=FORMAT)]
    model_name: Annotated[str, Field(min_length=1, max_length=200)]
    network_config: PlainTable = Field(alias="model_config")
    preprocess: PreprocessSettings
    patch: Patch
    in_channels: Annotated[int, Field(ge=1, le=64)]
    step: Annotated[int, Field(ge=0)]
    epoch: Annotated[int, Field(ge=0)]
    predict: PredictionSettings | None = None
    padding: Literal["air", "zero"] | None = None
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    mirrored: Annotated[list[Axis], Field(max_length=3)] | None = None
    classes: list[PlainTable] | None = None
    dataset: Annotated[str, Field(max_length=200)] | None = None
    calibration: CalibrationSettings | None = None


SETTING_KEYS = tuple(field.alias or name for name, field in CheckpointSettings.model_fields.items())
"""The keys of a checkpoint that are settings; the others are weights and the state of training."""


def read_settings(values: Mapping[str, Any], place: str, *, hint: str = "") -> CheckpointSettings:
    """Check the settings among `values`; FileFormatError naming `place` and the wrong entry."""
    # The version first: of another one nothing else can be judged.
    version = values.get("format")
    if version != FORMAT:
        raise FileFormatError(
            f"{place}: format {str(version)[:40]!r} is not known to this version of hemseg, "
            f"which reads format {FORMAT}",
            hint="use the version of hemseg that wrote it, or train or export again",
        )

    try:
        settings = CheckpointSettings.model_validate(
            {key: values[key] for key in SETTING_KEYS if key in values}
        )
    except ValidationError as error:
        raise FileFormatError(f"{place}: {sentence_of(error)}", hint=hint) from None
    except RecursionError:
        raise FileFormatError(f"{place}: its settings are nested too deeply", hint=hint) from None

    if settings.classes is not None:
        classes_from_plain(settings.classes, place=f"{place}: classes")
    return settings


def classes_of(checkpoint: Mapping[str, Any]) -> tuple[LabelClass, ...]:
    """The classes that a network tells apart; hemorrhage alone where the checkpoint names none."""
    plain = checkpoint.get("classes")
    return HEMORRHAGE_ONLY if plain is None else classes_from_plain(plain, place="the checkpoint")


def mirrored_of(checkpoint: Mapping[str, Any]) -> tuple[int, ...]:
    """The axes along which training mirrored; all three where the checkpoint does not say."""
    mirrored = checkpoint.get("mirrored")
    return (0, 1, 2) if mirrored is None else tuple(sorted(set(mirrored)))


def sentence_of(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as `entry: what`."""
    # The first fault is enough to mend, and values from a file are not repeated at length.
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part)[:60] for part in first["loc"][:8])
    return f"{place or 'settings'}: {first['msg'][:300]}"
