"""Damaged and hostile files of every kind: each is read or refused with one of our errors.

Some of each kind; `benchmarks/fuzz.py` tries thousands, and measures time and memory.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults.fuzzing import KINDS

EXAMPLES = 60


@pytest.mark.parametrize("kind", KINDS)
def test_undamaged_file_of_each_kind_is_read(kind: str, tmp_path: Path) -> None:
    tried = KINDS[kind](tmp_path)

    assert tried.attempt(tmp_path, tried.whole)


@pytest.mark.parametrize("kind", KINDS)
def test_any_file_is_read_or_refused_with_an_error_of_ours(kind: str, tmp_path: Path) -> None:
    tried = KINDS[kind](tmp_path)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=st.data())
    def attempt(content: st.DataObject) -> None:
        tried.attempt(tmp_path, content.draw(tried.contents))

    attempt()
