"""Every file name inside a data set: the twin of `run_directory`."""

from dataclasses import dataclass
from pathlib import Path

from hemseg_cli.core.cases import Case

EXCLUDED = "excluded"
"""The folder of cases that belong to no split."""


@dataclass(frozen=True)
class DataDirectory:
    """The names inside `<data.root>/<dataset>/`; nothing is created by asking for one."""

    path: Path

    @property
    def cases_file(self) -> Path:
        """The case table: one row per scan."""
        return self.path / "cases.csv"

    @property
    def classes_file(self) -> Path:
        """The classes of the labels; absent where hemorrhage is the only one."""
        return self.path / "classes.toml"

    @property
    def manifest_file(self) -> Path:
        """The slices of each scan, in file order (RSNA data sets)."""
        return self.path / "manifest.jsonl"

    @property
    def conversion_file(self) -> Path:
        """One row per scan that was tried to convert."""
        return self.path / "conversion.csv"

    @property
    def source_file(self) -> Path:
        """Size and hash of the published files, for a data set of the user's own."""
        return self.path / "source.json"

    @property
    def cache(self) -> Path:
        """What can be made anew: preprocessed arrays, downloads; safe to delete."""
        return self.path / ".cache"

    def label_file(self, scan: str, split: str) -> Path:
        """The label of a scan in a split ("" for none)."""
        return self.path / (split or EXCLUDED) / "label" / f"{scan}.nii.gz"

    def image_file(self, scan: str, split: str) -> Path:
        """The image of a scan in a split ("" for none)."""
        return self.path / (split or EXCLUDED) / "image" / f"{scan}.nii.gz"

    def sidecar_file(self, image: Path) -> Path:
        """The geometry, range of HU and source slices of an image, beside it: `<scan>.json`."""
        stem = image.name.removesuffix(".gz").removesuffix(".nii")
        return image.with_name(f"{stem}.json")

    def label_of(self, case: Case) -> Path:
        """The label of a case: where the case table says, else in the folder of its split."""
        return self.path / case.label if case.label else self.label_file(case.scan, case.split)

    def image_of(self, case: Case) -> Path:
        """The image of a case: where the case table says, else beside the folder of its label."""
        if case.image:
            return self.path / case.image
        folder = self.label_of(case).parent
        if folder.name == "label":
            return folder.with_name("image") / f"{case.scan}.nii.gz"
        return self.image_file(case.scan, case.split)
