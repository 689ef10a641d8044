"""The models that `hemseg train --list` shows."""

from typing import Any, ClassVar

from hemseg_cli.core import console
from hemseg_cli.models.registry import listed_models

_COLUMNS = ("name", "model", "parameters", "source", "published Dice %")
_CAPTION = "parameters: default configuration, one input channel; published: HemSeg-200 test split"


class ModelList:
    """Every model that a user can name, as the result of a command."""

    failed: ClassVar[bool] = False

    def payload(self) -> dict[str, Any]:
        """Return one object per model."""
        keys = ("name", "title", "parameters", "source", "reference_dice")
        return {"models": [{key: getattr(model, key) for key in keys} for model in listed_models()]}

    def tables(self) -> list[console.Table]:
        """Return one row per model."""
        rows = [
            [
                model.name,
                model.title,
                f"{model.parameters / 1e6:.1f} M" if model.parameters else "by plan",
                model.source,
                f"{model.reference_dice:.2f}" if model.reference_dice else "-",
            ]
            for model in listed_models()
        ]
        right = frozenset({"parameters", "published Dice %"})
        return [console.Table("Models", _COLUMNS, rows, caption=_CAPTION, right=right)]
