"""Name every file in a folder of predictions."""

from dataclasses import dataclass
from pathlib import Path

from hemseg_cli.core.run_directory import VOLUMES_FILE
from hemseg_cli.inference.formats import NIFTI, OutputFormat

_RECORDS = ".cases"


@dataclass(frozen=True)
class OutputFolder:
    """The names in one folder of predictions.

    `suffix`: what stands behind a scan's name in the mask's (none inside a run).
    """

    path: Path
    suffix: str = ""

    @property
    def volumes_file(self) -> Path:
        """One row per scan."""
        return self.path / VOLUMES_FILE

    @property
    def lesions_file(self) -> Path:
        """One row per lesion."""
        return self.path / "lesions.csv"

    @property
    def records(self) -> Path:
        """The folder of the scans' records."""
        return self.path / _RECORDS

    @property
    def keeps_network_masks(self) -> bool:
        """Whether masks on the network's own grid are kept: inside a run, which is evaluated."""
        return not self.suffix

    def output(self, name: str, row: OutputFormat) -> Path:
        """The file or folder of a scan in a format."""
        suffix = self.suffix if row.is_mask else ""
        return self.path / f"{name}{suffix}{row.suffix}"

    def mask(self, name: str) -> Path:
        """The mask of a scan as NIfTI, which is always there."""
        return self.output(name, NIFTI)

    def network_mask(self, name: str) -> Path:
        """The mask on the network's own grid, for `evaluate --protocol paper`."""
        return self.path / "network" / f"{name}.nii.gz"

    def probability(self, name: str, key: str = "") -> Path:
        """The probabilities of a scan: of the class `key`, or the highest of all."""
        of_class = f"_{key}" if key else ""
        return self.path / "probability" / f"{name}{of_class}_probability.nii.gz"

    def upright_image(self, name: str) -> Path:
        """The scan on an upright grid."""
        return self.path / "upright" / f"{name}_upright.nii.gz"

    def upright_mask(self, name: str) -> Path:
        """The mask on an upright grid."""
        return self.path / "upright" / f"{name}_upright_mask.nii.gz"

    def preview(self, name: str) -> Path:
        """The picture of a scan."""
        return self.path / "preview" / f"{name}.png"

    def record(self, name: str) -> Path:
        """What was done for a scan."""
        return self.records / f"{name}.json"
