"""`[predict]`: sliding window, post-processing, outputs."""

from typing import Literal

from pydantic import Field

from hemseg_cli.config.section import Section


class PredictConfig(Section):
    """`[predict]`."""

    checkpoint: Literal["best", "last"] = Field("best", description="checkpoint of the run")
    split: Literal["train", "val", "test"] = Field("test", description="split that is predicted when no input is named")
    overlap: float = Field(0.25, ge=0, lt=1, description="share of a window that overlaps the next one")
    tta: bool = Field(False, description="average over mirrored copies")
    weighting: Literal["gaussian", "constant"] = Field("gaussian", description="weights of overlapping windows")
    threshold: float = Field(0.5, gt=0, lt=1, description="probability from which a voxel is hemorrhage")
    min_component_ml: float = Field(0.0, ge=0, description="smaller connected components are removed, mL")
    format: Literal["nifti", "dicom-seg"] = Field("nifti", description="file format of masks; dicom-seg needs DICOM input and extra dicom")
    save_probabilities: bool = Field(False, description="also write the probabilities (8 bit, scale in the header)")
    previews: bool = Field(True, description="also write one PNG per scan")
