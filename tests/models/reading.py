"""Reading a model file that holds one network."""

from pathlib import Path
from typing import Any

from hemseg_cli.models.archive import read_models


def read_one(path: Path) -> dict[str, Any]:
    """The one checkpoint in a file."""
    [checkpoint] = read_models(path)
    return checkpoint
