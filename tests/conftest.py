"""What every test shares: one thread per process, and the way to the real files."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hemseg_cli.core import console
from hemseg_cli.core.account import name_the_user

# Some tests import MONAI before any command has done so for it.
name_the_user()
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
for _name in [name for name in os.environ if name.startswith("HEMSEG_")]:
    del os.environ[_name]

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real label archives and the real tilted head CT.

    Skips where it does not exist.
    """
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the real files are not here ({SHARED_DATA})")
    return SHARED_DATA


@pytest.fixture(autouse=True)
def _talkative_console() -> Iterator[None]:
    """Give every test a console that is not quiet, prints no JSON and has no log file."""
    console.configure()
    yield
    console.close_log_file()
    console.configure()
