"""The recipes of CONTRIBUTING.md, applied to the letter to a copy of the package."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(
    re.findall(r"^## (Add an? [^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
)
STEP = re.compile(
    r"^(?:New file `(?P<new>[^`]+)`"
    r"|In `(?P<file>[^`]+)`, (?P<where>after|before) `(?P<line>[^`]+)`(?P<doc> and its docstring)?"
    r"|(?P<check>Check)):\n\n```python\n(?P<code>.*?)```",
    re.DOTALL | re.MULTILINE,
)


def _apply(step: re.Match[str], folder: Path) -> None:
    if step["new"]:
        (folder / step["new"]).write_text(step["code"])
        return
    file = folder / step["file"]
    lines = file.read_text().splitlines(keepends=True)
    place = next(n for n, line in enumerate(lines) if line.rstrip("\n") == step["line"])
    if step["where"] == "after":
        place += 1
    if step["doc"] and lines[place].count('"""') == 1:
        place += 1
        while '"""' not in lines[place]:
            place += 1
    if step["doc"]:
        place += 1
    lines.insert(place, step["code"])
    file.write_text("".join(lines))


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_does_what_it_says(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "hemseg_cli", tmp_path / "hemseg_cli")
    steps = list(STEP.finditer(RECIPES[name]))
    assert [bool(step["check"]) for step in steps] == [False] * (len(steps) - 1) + [True]
    for step in steps[:-1]:
        _apply(step, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", steps[-1]["code"]],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr


def test_there_are_five_recipes() -> None:
    assert len(RECIPES) == 5
