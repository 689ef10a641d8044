"""`hemseg.toml` as strict, frozen models: `schema` holds every key.

Precedence, highest first: a command's option, `--set`, `HEMSEG_SECTION__KEY`, the file's table of
the model (`[train.models.NAME]`), the file's other keys, the recipe's preset, a field's default.
"""

from hemseg_cli.config.loading import load, validate_file
from hemseg_cli.config.of_run import config_of_run, data_of
from hemseg_cli.config.schema import Config
from hemseg_cli.config.writing import dump, plain, template

__all__ = [
    "Config",
    "config_of_run",
    "data_of",
    "dump",
    "load",
    "plain",
    "template",
    "validate_file",
]
