"""Choose the settings of a prediction.

What the user set wins over what the run stores, and that over the defaults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from pydantic import ValidationError

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.inference.sliding_window import Weighting


@dataclass(frozen=True)
class Settings:
    """What decides a mask, beside the networks.

    `overlap` is a share of the window, `threshold` a probability, `min_component_ml` in mL.
    `crop`: only the box of the head is computed; `window`: the training patch, or the largest in
    plane that memory allows; `precision`: arithmetic of the network. `class_thresholds`: one for
    each of several classes, in order of value; none: `threshold` for all. `intracranial`: what lies
    outside the intracranial space is no hemorrhage.
    """

    overlap: float = 0.25
    tta: bool = False
    weighting: Weighting = "constant"
    threshold: float = 0.5
    min_component_ml: float = 0.0
    crop: bool = True
    window: Literal["largest", "patch"] = "largest"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    class_thresholds: tuple[float, ...] = ()
    intracranial: bool = True

    def threshold_of(self, channel: int) -> float:
        """Return the threshold of a class, by its place in order of value."""
        return self.class_thresholds[channel] if self.class_thresholds else self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint's `predict` holds them."""
        values = asdict(self)
        values["class_thresholds"] = list(self.class_thresholds)
        return {key: value for key, value in values.items() if value != []}


PUBLISHED = Settings(crop=False, window="patch", precision="float32", intracranial=False)
"""The way that the published baselines predict: the whole scan in windows of the training patch,
overlap 0.25, constant weights, threshold 0.5, all that it finds kept. A run of recipe `paper`
stores it."""


def chosen_settings(config: PredictConfig, stored: Mapping[str, Any] | None) -> Settings:
    """Put the user's settings over those that a checkpoint's `predict` stores, over the defaults.

    FileFormatError where the checkpoint stores a value that `[predict]` does not take (NaN too).
    """
    values: dict[str, Any] = {}
    for field in fields(Settings):
        user = getattr(config, field.name)
        if user is not None:
            values[field.name] = user
        elif stored and stored.get(field.name) is not None:
            values[field.name] = _checked(field.name, stored[field.name])

    # A threshold that the user names holds for every class.
    if config.threshold is not None and config.class_thresholds is None:
        values.pop("class_thresholds", None)
    return Settings(**values)


def joint_settings(settings: Sequence[Settings]) -> Settings:
    """Return the settings of an ensemble's one mask.

    Threshold and smallest component are the means over its networks; it is restricted to the
    intracranial space where each of them is.
    """
    count = len(settings)
    return replace(
        settings[0],
        threshold=sum(one.threshold for one in settings) / count,
        min_component_ml=sum(one.min_component_ml for one in settings) / count,
        class_thresholds=_mean_thresholds(settings),
        intracranial=all(one.intracranial for one in settings),
    )


def _mean_thresholds(settings: Sequence[Settings]) -> tuple[float, ...]:
    """The mean threshold of each class; none where no network has thresholds of its own."""
    classes = max(len(one.class_thresholds) for one in settings)
    return tuple(
        sum(one.threshold_of(channel) for one in settings) / len(settings)
        for channel in range(classes)
    )


def _checked(name: str, value: object) -> Any:
    """The value as `[predict]` would take it, by the same bounds."""
    try:
        return getattr(PredictConfig.model_validate({name: value}), name)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise FileFormatError(
            f"the checkpoint's predict.{name} is {value!r}: {reason}",
            hint=f"--set predict.{name}=VALUE overrules it",
        ) from None
