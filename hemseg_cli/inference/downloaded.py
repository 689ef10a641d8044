"""List the downloaded models with what their archives say of themselves: `hemseg models`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hemseg_cli.config import Config
from hemseg_cli.core.classes import HEMORRHAGE_ONLY, classes_from_plain
from hemseg_cli.core.console import Table
from hemseg_cli.core.errors import HemsegError
from hemseg_cli.core.printable import printable
from hemseg_cli.models.archive import read_card, read_stated_settings
from hemseg_cli.models.checkpoint_settings import CheckpointSettings
from hemseg_cli.models.registry import MODELS
from hemseg_cli.models.remote import CachedModel, cached_models, models_folder


@dataclass(frozen=True)
class DownloadedModel:
    """One archive. `dice`: mean of the evaluation that it carries, over `scans` scans.

    `licence`: what its notice says of the terms.
    """

    address: str
    sha256: str
    bytes: int
    networks: tuple[str, ...]
    classes: tuple[str, ...]
    dataset: str
    dice: float | None
    scans: int | None
    licence: str


@dataclass(frozen=True)
class DownloadedModels:
    """The models in the folder; `failures`: address -> why the archive cannot be read."""

    folder: Path
    models: Sequence[DownloadedModel]
    failures: Mapping[str, str]

    @property
    def failed(self) -> bool:
        """Whether an archive cannot be read."""
        return bool(self.failures)

    def payload(self) -> dict[str, Any]:
        """The list as plain values."""
        return {
            "folder": str(self.folder),
            "models": [asdict(model) for model in self.models],
            "failures": dict(self.failures),
        }

    def tables(self) -> list[Table]:
        """One row per model, and the archives that cannot be read."""
        columns = ("model", "networks", "classes", "trained on", "Dice", "scans", "MB", "sha256")
        rows = [
            [
                model.address,
                ", ".join(model.networks),
                ", ".join(model.classes),
                model.dataset,
                "-" if model.dice is None else f"{model.dice:.3f}",
                "-" if model.scans is None else str(model.scans),
                f"{model.bytes / 1e6:.1f}",
                model.sha256[:12],
            ]
            for model in self.models
        ]
        caption = (
            "terms: --json, or README.md in each archive"
            if rows
            else "none yet: hemseg predict --run https://.../model.zip#sha256=...   downloads one"
        )
        right = frozenset({"Dice", "scans", "MB"})
        found = [
            Table(f"Models in {self.folder}", columns, rows, caption=caption, right=right),
        ]
        if self.failures:
            damaged = [[address, reason] for address, reason in self.failures.items()]
            found.append(Table("Not readable", ("model", "reason"), damaged))
        return found


def list_models(config: Config) -> DownloadedModels:
    """List the downloaded models; an archive that cannot be read is named among the failures."""
    folder = models_folder(config)
    models, failures = [], {}
    for cached in cached_models(folder):
        try:
            models.append(_describe(cached))
        except HemsegError as error:
            failures[cached.address] = error.message
    return DownloadedModels(folder, models, failures)


def _describe(cached: CachedModel) -> DownloadedModel:
    settings = read_stated_settings(cached.file)
    card = read_card(cached.file)
    dice, scans = _dice(card.get("metrics.json", ""))

    return DownloadedModel(
        address=printable(cached.address),
        sha256=cached.sha256,
        bytes=cached.file.stat().st_size,
        networks=tuple(MODELS[one.model_name].title for one in settings),
        classes=_classes(settings[0]),
        dataset=printable(settings[0].dataset or "-"),
        dice=dice,
        scans=scans,
        licence=printable(" ".join(card.get("NOTICE.txt", "").split())) or "-",
    )


def _classes(settings: CheckpointSettings) -> tuple[str, ...]:
    plain = settings.classes
    classes = HEMORRHAGE_ONLY if plain is None else classes_from_plain(plain, place="the archive")
    return tuple(printable(each.key) for each in classes)


def _dice(text: str) -> tuple[float | None, int | None]:
    """Mean Dice and number of scans of the archive's metrics; None where it states none."""
    try:
        metrics = json.loads(text)["metrics"]["dice"]
        mean, scans = metrics["mean"], metrics["n"]
    except (ValueError, KeyError, TypeError):
        return None, None
    if not isinstance(mean, float | int) or not isinstance(scans, int):
        return None, None
    return float(mean), scans
