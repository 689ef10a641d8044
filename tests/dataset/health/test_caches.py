"""What the caches hold, told apart by data set, kind and age, and what is freed."""

import os
import time
from pathlib import Path

import pytest

from hemseg_cli.config import Config, load
from hemseg_cli.dataset.health.caches import clean, folder_bytes, gigabytes, list_caches

DAY_S = 86_400


def write(path: Path, size: int, *, days: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    moment = time.time() - days * DAY_S
    os.utime(path, (moment, moment))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    cache = tmp_path / "data" / "a" / ".cache"
    write(cache / "0123abcd" / "s1-77" / "image.npy", 1000, days=9)
    write(cache / "4567cdef" / "s1-77" / "image.npy", 2000, days=2)
    write(cache / "slices" / "ID_000000001.dcm", 300, days=1)
    write(cache / "source" / "labels.zip", 40)
    write(tmp_path / "data" / "b" / ".cache" / "89ab" / "s-1" / "label.npy", 5)
    write(tmp_path / "data" / "b" / "train" / "label" / "s.nii.gz", 7)
    return load(None, options={"data.root": str(tmp_path / "data")}, environ={})


def test_each_folder_is_listed_with_its_kind_size_and_age(config: Config) -> None:
    found = {
        (one.dataset, one.path.name): (one.kind, one.bytes, one.files, round(one.age_days))
        for one in list_caches(config.data.root)
    }
    assert found == {
        ("a", "4567cdef"): ("preprocessed", 2000, 1, 2),
        ("a", "0123abcd"): ("older preprocessing", 1000, 1, 9),
        ("a", "slices"): ("slices", 300, 1, 1),
        ("a", "source"): ("label files", 40, 1, 0),
        ("b", "89ab"): ("preprocessed", 5, 1, 0),
    }
    result = clean(config, remove=False)
    assert (result.bytes, result.bytes_freed, result.failed) == (3345, 0, False)
    assert len(result.tables()[0].rows) == 5


def test_what_is_chosen_is_freed_and_nothing_else(config: Config) -> None:
    root = config.data.root
    result = clean(config, remove=True, dataset="a", older_than_days=5)
    assert result.bytes_freed == 1000
    assert [one.path.name for one in result.entries] == ["0123abcd"]
    assert clean(config, remove=True).bytes_freed == 2345
    assert list_caches(root) == []
    assert (root / "b" / "train" / "label" / "s.nii.gz").is_file()


def test_a_link_in_a_cache_is_not_followed(config: Config, tmp_path: Path) -> None:
    write(tmp_path / "mine" / "precious.npy", 10)
    cache = config.data.root / "b" / ".cache"
    (cache / "linked").symlink_to(tmp_path / "mine")
    (cache / "89ab" / "linked").symlink_to(tmp_path / "mine")
    assert folder_bytes(cache) == 5
    clean(config, remove=True)
    assert (tmp_path / "mine" / "precious.npy").is_file()


def test_sizes_are_written_in_megabytes_below_half_a_gigabyte() -> None:
    assert [gigabytes(n) for n in (0, 400_000, 499_999_999, 18_100_000_000)] == [
        "0.0 MB",
        "0.4 MB",
        "500.0 MB",
        "18.1 GB",
    ]
