"""`[train.augment]`: every probability and range of the augmentation. A probability of 0 switches a transform off."""

from typing import Annotated

from pydantic import Field

from hemseg_cli.config.section import Section

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]


class AugmentConfig(Section):
    """`[train.augment]`. In-plane: within the slice. Intensities are in units of the normalised image (a unit window spans -1 to 1)."""

    mirror_p: tuple[Probability, Probability, Probability] = Field((0.5, 0.5, 0.5), description="probability of mirroring along R, A, S")
    rotation_p: Probability = Field(0.0, description="probability of an in-plane rotation")
    rotation_deg: float = Field(15.0, ge=0, le=180, description="largest rotation, degrees, either way")
    scale_p: Probability = Field(0.0, description="probability of in-plane scaling")
    scale: Range = Field((0.8, 1.25), description="range of the scale factor; above 1 enlarges")
    elastic_p: Probability = Field(0.0, description="probability of an in-plane elastic deformation")
    elastic_voxels: float = Field(4.0, ge=0, description="standard deviation of the displacements at the control points, voxels")
    elastic_grid: int = Field(6, ge=3, description="control points along each side of the patch")
    noise_p: Probability = Field(0.0, description="probability of Gaussian noise")
    noise_std: Range = Field((0.0, 0.1), description="range of its standard deviation")
    blur_p: Probability = Field(0.0, description="probability of an in-plane Gaussian blur")
    blur_sigma: Range = Field((0.5, 1.0), description="range of its sigma, voxels")
    brightness_p: Probability = Field(0.0, description="probability of a shift of all intensities")
    brightness: Range = Field((-0.1, 0.1), description="range of the shift")
    contrast_p: Probability = Field(0.0, description="probability of a change of contrast about the mean")
    contrast: Range = Field((0.75, 1.25), description="range of the contrast factor")
    gamma_p: Probability = Field(0.0, description="probability of a gamma curve over the patch's own range")
    gamma: Range = Field((0.7, 1.5), description="range of the exponent")
    low_resolution_p: Probability = Field(0.0, description="probability of in-plane down- and upsampling")
    low_resolution: Range = Field((0.5, 1.0), description="range of the share of the resolution that is left")
