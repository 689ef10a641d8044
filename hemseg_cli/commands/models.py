"""`hemseg models`."""

from hemseg_cli import options
from hemseg_cli.core.result import Result


@options.common
def models(common: options.Common) -> Result:
    """List the models that were downloaded: data, classes, test figures, terms, hash.

    hemseg predict --run ADDRESS#sha256=HEX downloads one.
    """
    config = common.config()

    from hemseg_cli.inference.downloaded import list_models

    return list_models(config)
