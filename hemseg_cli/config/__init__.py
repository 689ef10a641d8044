"""`hemseg.toml` as strict, frozen models: one file per section, `loading` merges the layers.

Precedence, lowest first: a field's default, the training recipe's preset, the file,
`HEMSEG_SECTION__KEY`, `--set`, a command's option.
"""

from hemseg_cli.config.loading import dump, load, template, validate_file
from hemseg_cli.config.of_run import config_of_run, data_of
from hemseg_cli.config.schema import Config

__all__ = ["Config", "config_of_run", "data_of", "dump", "load", "template", "validate_file"]
