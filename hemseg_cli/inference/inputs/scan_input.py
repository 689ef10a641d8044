"""One scan to predict: where it lies, and what it is called."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hemseg_cli.imaging.dicom.tree import Series


@dataclass(frozen=True)
class ScanInput:
    """One scan to predict: an image file, or a DICOM series in the folder or zip `path`.

    `voxel_volume_mm3`: the true one, where the case table has it. `series`: its file names are
    relative to `path`. `named`: given by its own name, not found in a folder. `problem`: why it
    cannot be read, where that is known already.
    """

    name: str
    path: Path
    kind: Literal["image", "dicom"] = "image"
    voxel_volume_mm3: float | None = None
    series: "Series | None" = None
    named: bool = False
    problem: str = ""

    @property
    def files(self) -> list[Path]:
        """The files that it is made of; of a zip the zip."""
        if self.series is None or self.path.is_file():
            return [self.path]
        return [self.path / name for name in self.series.files]
