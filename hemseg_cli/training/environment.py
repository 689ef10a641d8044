"""Write `environment.json`: what a run was trained with, to find out why two runs differ."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import hemseg_cli
from hemseg_cli.core.executor import default_workers
from hemseg_cli.core.files import write_text
from hemseg_cli.core.packages import package_version
from hemseg_cli.core.urls import without_secrets

_PACKAGES = ("torch", "monai", "numpy", "scipy", "SimpleITK", "nibabel", "nnunetv2")


def environment(device: torch.device, *, processes: int) -> dict[str, Any]:
    """Versions, device, command line, git commit of the source, as plain values."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [without_secrets(word) for word in sys.argv],
        "hemseg": hemseg_cli.__version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            name: version for name in _PACKAGES if (version := package_version(name)) is not None
        },
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cores": default_workers(),
        "torch_threads": torch.get_num_threads(),
        "processes": processes,
    }


def write_environment(path: Path, values: dict[str, Any]) -> None:
    """Add one start to the file: the first is the run's, each later one a resume."""
    starts: list[Any] = []
    if path.is_file():
        try:
            starts = json.loads(path.read_text(encoding="utf-8"))["starts"]
        except (ValueError, KeyError, TypeError):
            starts = []
    write_text(
        path,
        json.dumps(
            {
                **values,
                "starts": [*starts, {key: values[key] for key in ("started", "command", "device")}],
            },
            indent=2,
        ),
    )


def _git_commit() -> str | None:
    """The commit of the source tree that is running, None where it is installed without one."""
    source = Path(hemseg_cli.__file__).resolve().parent
    if not (source.parent / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(source), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
            env={**os.environ},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
