"""`hemseg clean` at the command line: it lists, and frees with a word alone."""

import json
import os
import time
from pathlib import Path

import pytest

from hemseg_cli.app import run


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two data sets with a cache each, of which the second is a year old."""
    monkeypatch.chdir(tmp_path)
    files = {}
    for dataset in ("new", "old"):
        file = tmp_path / "data" / dataset / ".cache" / "0123456789ab" / "a.npy"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * 1000)
        files[dataset] = file
    a_year_ago = time.time() - 365 * 86_400
    os.utime(files["old"], (a_year_ago, a_year_ago))
    return files


def _cleaned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    capsys.readouterr()
    assert run(["clean", *arguments, "--json"]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def test_without_a_word_nothing_is_freed(
    caches: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = _cleaned(capsys)
    assert (answer["bytes"], answer["bytes_freed"]) == (2000, 0)
    assert all(file.is_file() for file in caches.values())


@pytest.mark.parametrize(
    ("arguments", "freed"),
    [(("--older-than", "30"), "old"), (("--dataset", "new"), "new")],
)
def test_age_and_data_set_choose_what_is_freed(
    caches: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    freed: str,
) -> None:
    assert _cleaned(capsys, *arguments, "--yes")["bytes_freed"] == 1000
    assert {name for name, file in caches.items() if not file.exists()} == {freed}


def test_all_of_it_is_freed_and_a_second_call_finds_nothing(
    caches: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cleaned(capsys, "--yes")["bytes_freed"] == 2000
    assert _cleaned(capsys)["bytes"] == 0
