"""The completion scripts that we ship are those that the program prints."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPLETIONS = Path(__file__).parents[1] / "completions"


def _hemseg(**environment: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", "from hemseg_cli.app import main; main()"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("shell", "file"), [("bash", "hemseg.bash"), ("zsh", "_hemseg"), ("fish", "hemseg.fish")]
)
def test_shipped_script_is_the_generated_one(shell: str, file: str) -> None:
    assert (COMPLETIONS / file).read_text() == _hemseg(_HEMSEG_COMPLETE=f"source_{shell}")


def test_commands_are_completed() -> None:
    assert _hemseg(
        _HEMSEG_COMPLETE="complete_bash", COMP_WORDS="hemseg co", COMP_CWORD="1"
    ).split() == ["convert", "config"]
