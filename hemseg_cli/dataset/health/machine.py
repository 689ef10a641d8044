"""Show what this machine has: versions, device, memory, extras, disk."""

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hemseg_cli import __version__
from hemseg_cli.config import Config
from hemseg_cli.core import console
from hemseg_cli.core.executor import default_workers
from hemseg_cli.core.packages import package_version
from hemseg_cli.dataset.health.caches import folder_bytes, gigabytes

PACKAGES = (
    "torch",
    "monai",
    "numpy",
    "scipy",
    "pandas",
    "SimpleITK",
    "nibabel",
    "pydicom",
    "isal",
    "pydantic",
    "typer",
    "matplotlib",
)
# Extra of pyproject.toml -> the distributions that it installs (a test compares the two).
EXTRAS = {
    "nnunet": ("nnunetv2",),
    "dicom": ("highdicom",),
    "codecs": ("pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "python-gdcm"),
    "dask": ("distributed",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "tensorboard": ("tensorboard",),
    "tracking": ("wandb", "mlflow-skinny"),
}
_FOR = {
    "nnunet": "nnU-Net itself",
    "dicom": "DICOM SEG output",
    "codecs": "compressed DICOM",
    "dask": "many machines",
    "onnx": "export to ONNX",
    "tensorboard": "TensorBoard events",
    "tracking": "Weights & Biases and MLflow",
}


@dataclass(frozen=True)
class Extra:
    """An optional part: which of its packages are there, and what installs it."""

    name: str
    purpose: str
    present: dict[str, str]
    missing: tuple[str, ...]

    @property
    def install(self) -> str:
        """The command that adds it."""
        return f"pip install 'hemseg[{self.name}]'"


@dataclass(frozen=True)
class Folder:
    """A folder that commands write to.

    `exists`: as such; `free_bytes` is that of the disk it lies or would lie on.
    """

    name: str
    path: Path
    exists: bool
    writable: bool
    free_bytes: int


@dataclass(frozen=True)
class MachineReport:
    """What `check_machine` found. `versions`: package -> version, None where it is missing."""

    python: str
    system: str
    versions: dict[str, str | None]
    devices: tuple[str, ...]
    torch_problem: str
    cores: int
    memory_total_bytes: int
    memory_free_bytes: int
    extras: tuple[Extra, ...]
    folders: tuple[Folder, ...]
    cache: Path
    cache_bytes: int

    @property
    def failed(self) -> bool:
        """Whether something that every command needs is missing."""
        return not self.ok

    @property
    def ok(self) -> bool:
        """Whether everything that every command needs is there."""
        return not self.torch_problem and None not in self.versions.values()

    def payload(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return {
            "ok": self.ok,
            "hemseg": __version__,
            "python": self.python,
            "system": self.system,
            "versions": self.versions,
            "devices": list(self.devices),
            "torch_problem": self.torch_problem,
            "cores": self.cores,
            "memory_total_bytes": self.memory_total_bytes,
            "memory_free_bytes": self.memory_free_bytes,
            "extras": {
                extra.name: {
                    "present": extra.present,
                    "missing": list(extra.missing),
                    "install": extra.install,
                }
                for extra in self.extras
            },
            "folders": {
                folder.name: asdict(folder) | {"path": str(folder.path)} for folder in self.folders
            },
            "cache": {"path": str(self.cache), "bytes": self.cache_bytes},
        }

    def tables(self) -> list[console.Table]:
        """Return all of it for a person."""
        machine = [
            ["hemseg", __version__],
            ["Python", f"{self.python} on {self.system}"],
            ["device", "; ".join(self.devices) or "none"],
            ["cores", str(self.cores)],
            [
                "memory",
                f"{gigabytes(self.memory_total_bytes)}, {gigabytes(self.memory_free_bytes)} free",
            ],
            [
                "preprocessing cache",
                f"{gigabytes(self.cache_bytes)} in {self.cache} (safe to delete)",
            ],
        ]
        if self.torch_problem:
            machine.append(["PyTorch does not load", self.torch_problem])
        versions = [
            [name, version or "missing: pip install --upgrade hemseg"]
            for name, version in self.versions.items()
        ]
        extras = [
            [
                extra.name,
                extra.purpose,
                "present"
                if not extra.missing
                else f"missing {', '.join(extra.missing)}: {extra.install}",
            ]
            for extra in self.extras
        ]
        folders = [
            [folder.name, str(folder.path), _state(folder), gigabytes(folder.free_bytes)]
            for folder in self.folders
        ]
        return [
            console.Table("Machine", ["", ""], machine),
            console.Table("Packages", ["package", "version"], versions),
            console.Table("Extras", ["extra", "for", ""], extras),
            console.Table(
                "Disk", ["folder", "path", "", "free"], folders, right=frozenset({"free"})
            ),
        ]


def check_machine(config: Config) -> MachineReport:
    """Look at the machine and at the folders that `config` names. Nothing is written."""
    import psutil

    devices, problem = _devices()
    memory = psutil.virtual_memory()
    cache = config.data.directory.cache
    return MachineReport(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions={name: package_version(name) for name in PACKAGES},
        devices=tuple(devices),
        torch_problem=problem,
        cores=default_workers(),
        memory_total_bytes=int(memory.total),
        memory_free_bytes=int(memory.available),
        extras=tuple(_extra(name, packages) for name, packages in EXTRAS.items()),
        folders=(_folder("data", config.data.folder), _folder("runs", config.runs.root)),
        cache=cache,
        cache_bytes=folder_bytes(cache),
    )


def _devices() -> tuple[list[str], str]:
    """Devices by name, and why PyTorch does not load (empty: it does)."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return [], str(error).strip().splitlines()[0]
    names = [
        f"cuda:{n} {torch.cuda.get_device_name(n)}, "
        f"{gigabytes(torch.cuda.get_device_properties(n).total_memory)}"
        for n in range(torch.cuda.device_count())
    ]
    if sys.platform == "darwin" and torch.backends.mps.is_available():
        names.append("mps")
    return [*names, f"cpu ({torch.get_num_threads()} threads)"], ""


def _extra(name: str, packages: Sequence[str]) -> Extra:
    versions = {package: package_version(package) for package in packages}
    return Extra(
        name,
        _FOR[name],
        present={package: version for package, version in versions.items() if version is not None},
        missing=tuple(package for package, version in versions.items() if version is None),
    )


def _folder(name: str, path: Path) -> Folder:
    absolute = path.absolute()
    existing = next(parent for parent in (absolute, *absolute.parents) if parent.is_dir())
    return Folder(
        name,
        path,
        absolute.is_dir(),
        os.access(existing, os.W_OK),
        shutil.disk_usage(existing).free,
    )


def _state(folder: Folder) -> str:
    if not folder.writable:
        return "not writable"
    return "" if folder.exists else "not there yet"
