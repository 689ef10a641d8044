"""The training recipes: presets of the keys of `[train]`, in one readable place.

`preset(recipe, model)` is the lowest layer above the defaults: the file, the environment, `--set` and options win over it.
"""

from typing import Any


def preset(recipe: str, model: str) -> dict[str, Any]:
    """The keys of `[train]` that a recipe sets for a model; nested tables as nested dicts. Unknown recipe: empty."""
    del model
    return {"strong": {}, "paper": {"epochs": 200}}.get(recipe, {})
