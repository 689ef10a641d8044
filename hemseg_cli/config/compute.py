"""`[compute]` and `[runs]`: the machine, and where runs are kept."""

from pathlib import Path

from pydantic import Field

from hemseg_cli.config.section import Section


class ComputeConfig(Section):
    """`[compute]`."""

    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:N or mps")
    workers: int | None = Field(None, ge=0, description="worker processes; none: one per core; 0: the command's own process")
    scheduler: str | None = Field(None, description="address of a Dask scheduler, tcp://host:port (extra dask)")
    memory_mb: int | None = Field(None, ge=256, description="memory that prediction may take, MB; none: half of what is free")


class RunsConfig(Section):
    """`[runs]`."""

    root: Path = Field(Path("runs"), description="folder of the run directories")
