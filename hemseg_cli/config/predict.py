"""`[predict]`: sliding window, post-processing, outputs."""

from typing import Literal

from pydantic import Field

from hemseg_cli.config.section import Section


class PredictConfig(Section):
    """`[predict]`. Keys without a value are as the run chose them on its validation split (else 0.25, false, constant, 0.5 and 0 mL)."""

    checkpoint: Literal["best", "last"] = Field("best", description="checkpoint of the run")
    split: Literal["train", "val", "test"] = Field("test", description="split that is predicted when no input is named")
    overlap: float | None = Field(None, ge=0, lt=1, description="share of a window that overlaps the next one; none: as the run chose")
    tta: bool | None = Field(None, description="average over mirrored copies; none: as the run chose")
    weighting: Literal["gaussian", "constant"] | None = Field(
        None, description="weights of overlapping windows, gaussian or constant; none: as the run chose"
    )
    threshold: float | None = Field(
        None, gt=0, lt=1, description="probability from which a voxel is hemorrhage; none: as the run chose on validation"
    )
    min_component_ml: float | None = Field(
        None, ge=0, description="smaller connected components are removed, mL; none: as the run chose on validation"
    )
    crop: bool = Field(True, description="compute the box of the head only, and no window without head")
    crop_margin_mm: float = Field(20.0, ge=0, description="margin around the box of the head (what lies 8 mm below the skin), mm")
    window: Literal["largest", "patch"] = Field(
        "largest", description="windows of fully convolutional networks: the largest in plane that memory allows, or the training patch"
    )
    batch: int = Field(1, ge=1, description="windows computed at once")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the network; auto: bfloat16 where the hardware gains by it"
    )
    format: Literal["nifti", "dicom-seg"] = Field(
        "nifti", description="file format of masks; dicom-seg: DICOM SEG beside the NIfTI, for DICOM input (extra dicom)"
    )
    save_probabilities: bool = Field(False, description="also write the probabilities (8 bit, scale in the header)")
    previews: bool = Field(True, description="also write one PNG per scan")
