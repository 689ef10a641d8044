"""Find the configuration that a run was made with, and the data set that it works on.

One rule for every command that takes a run.
"""

from pathlib import Path

from hemseg_cli.config.loading import validate_file
from hemseg_cli.config.schema import Config, DataConfig


def config_of_run(config: Config, run_config_file: Path) -> Config:
    """The configuration that the run keeps, or `config` where it keeps none.

    ConfigError if the file is no valid one.
    """
    return validate_file(run_config_file) if run_config_file.is_file() else config


def data_of(config: Config, trained: Config) -> DataConfig:
    """The data set that a run works on.

    The one that it was trained on (`trained`), with each `data` key that the user states on top.

    A key is stated in the config file, in a `HEMSEG_DATA__` variable, with `--set` or by an option,
    even if it is stated at its default. A project that was copied or moved keeps the old place in
    its runs: where there is no case table, and the user's own `data.root` has one of that name, it
    is taken.
    """
    stated = {key: getattr(config.data, key) for key in config.data.model_fields_set}
    data = trained.data.model_copy(update=stated)
    if data.cases_file.is_file():
        return data

    moved = data.model_copy(update={"root": config.data.root})
    return moved if moved.cases_file.is_file() else data
