"""What holds for the source as a whole: no import cycle, no long function, nothing for tests alone.

Layers are held by import-linter, lines and docstrings by ruff.
"""

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "hemseg_cli"
SOURCES = {file: file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py"))}
MODULES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): text
    for file, text in SOURCES.items()
}


def _module_of(name: str) -> str:
    """The module that an imported name is, or lies in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def _imports(module: str) -> set[str]:
    """The modules of the package that a module loads, also within functions."""
    tree = ast.parse(MODULES[module])
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names = []
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {_module_of(name) for name in names} - {"", module}


def test_no_module_imports_itself_by_way_of_others() -> None:
    # CycleError names the modules of a cycle.
    order = list(TopologicalSorter({name: _imports(name) for name in MODULES}).static_order())
    assert len(order) == len(MODULES)


def test_no_function_is_longer_than_60_lines() -> None:
    long = [
        f"{file.name}: {node.name}"
        for file, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


def test_no_constant_or_private_function_is_left_unused() -> None:
    words = Counter(word for text in SOURCES.values() for word in re.findall(r"\w+", text))
    unused = []
    for file, text in SOURCES.items():
        for node in ast.parse(text).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.FunctionDef) and not node.decorator_list:
                names = [node.name] if re.match("_(?!_)", node.name) else []
            unused += [f"{file.name}: {name}" for name in names if words[name] == 1]
    assert unused == []
