"""The whole file: one field per section."""

from pydantic import Field

from hemseg_cli.config.compute import ComputeConfig, RunsConfig
from hemseg_cli.config.data import ConvertConfig, DataConfig, FetchConfig
from hemseg_cli.config.evaluate import EvaluateConfig
from hemseg_cli.config.predict import PredictConfig
from hemseg_cli.config.report import ReportConfig
from hemseg_cli.config.section import Section
from hemseg_cli.config.train import TrainConfig


class Config(Section):
    """`hemseg.toml`."""

    data: DataConfig = Field(default_factory=DataConfig, description="where the data set lies")
    runs: RunsConfig = Field(default_factory=RunsConfig, description="where runs are kept")
    compute: ComputeConfig = Field(default_factory=ComputeConfig, description="the machine")
    fetch: FetchConfig = Field(default_factory=FetchConfig, description="hemseg fetch-labels")
    convert: ConvertConfig = Field(default_factory=ConvertConfig, description="hemseg convert")
    train: TrainConfig = Field(default_factory=TrainConfig, description="hemseg train")
    predict: PredictConfig = Field(default_factory=PredictConfig, description="hemseg predict")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="hemseg evaluate")
    report: ReportConfig = Field(default_factory=ReportConfig, description="hemseg report")
