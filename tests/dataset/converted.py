"""Archives of slices for the tests of the sources; the bytes need not be DICOM there."""

import random
from pathlib import Path

from hemseg_cli.config import Config
from hemseg_cli.config.schema import ComputeConfig, ConvertConfig, DataConfig, FetchConfig
from tests.dataset.label_files import slice_id, zip_bytes


def slices(count: int = 12, *, size: int = 3000) -> dict[str, bytes]:
    """Slice id -> bytes of a fixed seed, half of them easily packed."""
    chance = random.Random(5)
    return {
        slice_id(7 * n + 1): chance.randbytes(size // 2) + bytes(size // 2) for n in range(count)
    }


def slice_zip(files: dict[str, bytes], *, folder: str = "stage_2_train/", method: int = 8) -> bytes:
    others = {"stage_2_train.csv": b"ID,Label", "stage_2_test/readme.txt": b"x"}
    return zip_bytes(
        {f"{folder}ID_{name}.dcm": data for name, data in files.items()} | others, method=method
    )


def convert_config(root: Path, dicom: object, *, workers: int = 0, **convert: object) -> Config:
    return Config(
        data=DataConfig(root=root, dataset="tiny"),
        fetch=FetchConfig(timeout_s=0.4, retries=2, backoff_s=0.01),
        convert=ConvertConfig(dicom=None if dicom is None else str(dicom), **convert),  # type: ignore[arg-type]
        compute=ComputeConfig(workers=workers),
    )
