"""Which settings a prediction uses.

What the user set, else what the run chose on its validation split, else the published ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from hemseg_cli.config.schema import PredictConfig
from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.inference.sliding_window import Weighting


@dataclass(frozen=True)
class Settings:
    """The numbers that decide the mask.

    `overlap` is a share of the window, `threshold` a probability, `min_component_ml` in mL.
    """

    overlap: float = 0.25
    tta: bool = False
    weighting: Weighting = "constant"
    threshold: float = 0.5
    min_component_ml: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint's `predict` holds them."""
        return asdict(self)


_KINDS = {
    "overlap": float,
    "tta": bool,
    "weighting": str,
    "threshold": float,
    "min_component_ml": float,
}


def chosen_settings(config: PredictConfig, stored: Mapping[str, Any] | None) -> Settings:
    """The user's settings over those that a checkpoint's `predict` stores, over the defaults.

    FileFormatError on a wrong value.
    """
    values: dict[str, Any] = {}
    for field in fields(Settings):
        user = getattr(config, field.name)
        if user is not None:
            values[field.name] = user
        elif stored and stored.get(field.name) is not None:
            try:
                values[field.name] = _KINDS[field.name](stored[field.name])
            except (TypeError, ValueError):
                raise FileFormatError(
                    f"the checkpoint's predict.{field.name} is {stored[field.name]!r}"
                ) from None
    return Settings(**values)


def joint_settings(members: Sequence[Settings]) -> Settings:
    """What an ensemble uses for its one mask.

    Threshold and smallest component are the members' means.
    """
    return replace(
        members[0],
        threshold=sum(member.threshold for member in members) / len(members),
        min_component_ml=sum(member.min_component_ml for member in members) / len(members),
    )
