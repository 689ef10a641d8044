from pathlib import Path

import pytest

from hemseg_cli.core import console
from tests.training.small_run import small_data


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the small data set, and a quiet console."""
    console.configure(quiet=True)
    small_data(tmp_path)
    return tmp_path
