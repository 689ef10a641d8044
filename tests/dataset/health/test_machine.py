"""`doctor`: what is reported of the machine is what is there."""

import importlib.metadata
import platform
import re
import tomllib
from pathlib import Path

from hemseg_cli.config import load
from hemseg_cli.dataset.health.machine import EXTRAS, PACKAGES, check_machine

PYPROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


def test_extras_are_those_of_the_project_file() -> None:
    extras = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    del extras["test"]
    named = {
        name: tuple(re.split(r"[<>=\[ ]", requirement)[0] for requirement in wanted)
        for name, wanted in extras.items()
    }
    assert named == EXTRAS


def test_packages_are_dependencies_of_the_project() -> None:
    wanted = tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"]
    assert set(PACKAGES) <= {re.split(r"[<>=\[ ]", requirement)[0] for requirement in wanted}


def test_report_states_versions_folders_and_cache(tmp_path: Path) -> None:
    cache = tmp_path / "data" / "mine" / ".cache" / "0123"
    cache.mkdir(parents=True)
    (cache / "image.npy").write_bytes(bytes(1000))
    (cache.parent / "more.bin").write_bytes(bytes(234))
    options = {
        "data.root": str(tmp_path / "data"),
        "data.dataset": "mine",
        "runs.root": str(tmp_path / "deep" / "runs"),
    }
    report = check_machine(load(options=options, environ={})).payload()
    assert report["ok"] is True
    assert report["python"] == platform.python_version()
    assert report["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert report["cache"] == {"path": str(cache.parent), "bytes": 1234}
    assert report["folders"]["data"]["exists"] is True
    assert report["folders"]["runs"]["exists"] is False
    assert report["folders"]["runs"]["free_bytes"] > 0
    assert report["memory_total_bytes"] > report["memory_free_bytes"] > 0
    assert any(device.startswith("cpu") for device in report["devices"])


def test_absent_extra_names_what_installs_it(tmp_path: Path) -> None:
    report = check_machine(load(options={"data.root": str(tmp_path)}, environ={}))
    for extra in report.extras:
        assert set(extra.present) | set(extra.missing) == set(EXTRAS[extra.name])
        assert extra.install == f"pip install 'hemseg[{extra.name}]'"
