import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hemseg_cli.config import Config
from tests.reporting.workplace import SHAPE, Workplace, write_dataset, write_run


def _workplace(
    folder: Path,
    scans: Sequence[str] = ("0a1b2c3d4e", "1b2c3d4e5f", "2c3d4e5f60", "3d4e5f6071", "4e5f607182"),
    runs: Sequence[str] = ("dynunet-1",),
    shape: tuple[int, int, int] = SHAPE,
    **options: Any,
) -> Workplace:
    write_dataset(folder / "data" / "phantom", scans, shape=shape)
    for n, name in enumerate(runs):
        write_run(folder / "runs" / name, scans, shift=n + 1, shape=shape, **options)
    (folder / "runs" / "latest").symlink_to(runs[-1])
    config = Config.model_validate(
        {
            "data": {"root": folder / "data", "dataset": "phantom"},
            "runs": {"root": folder / "runs"},
        },
        strict=True,
    )
    return Workplace(folder, config)


@pytest.fixture
def make_workplace(tmp_path: Path) -> Callable[..., Workplace]:
    """A data set and runs on disk: `scans` by id, `runs` by name.

    Other keywords go to `write_run`.
    """
    return functools.partial(_workplace, tmp_path)


@pytest.fixture(scope="module")
def make_shared_workplace(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Workplace]:
    """The same for a whole module; each call takes a folder of its own."""
    return lambda **options: _workplace(tmp_path_factory.mktemp("workplace"), **options)
