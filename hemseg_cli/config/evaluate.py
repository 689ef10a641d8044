"""`[evaluate]`: metrics, intervals, comparison."""

from typing import Literal

from pydantic import Field

from hemseg_cli.config.section import Section


class EvaluateConfig(Section):
    """`[evaluate]`."""

    split: Literal["train", "val", "test"] = Field("test", description="split that is scored")
    bootstrap: int = Field(1000, ge=100, description="bootstrap resamples")
    confidence: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    seed: int = Field(47, ge=0, description="seed of the bootstrap")
    method: Literal["percentile", "bca"] = Field("percentile", description="bootstrap interval")
    protocol: Literal["native", "paper"] = Field(
        "native", description="native: native grid, mm, patients resampled; paper: as the published table was made"
    )
    nsd_tolerance_mm: float = Field(2.0, gt=0, description="tolerance of the normalised surface Dice, mm")
