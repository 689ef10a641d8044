"""hemseg: segmentation of intracerebral hemorrhage on head CT, from DICOM to a report.

Research use only. The names below are the Python API (`hemseg_cli.api`); each is loaded when it is
first used, so that `import hemseg_cli` itself costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hemseg_cli.api import (
        Model,
        Segmentation,
        convert,
        evaluate,
        fetch_labels,
        import_dataset,
        load_config,
        predict,
        read_cases,
        report,
        train,
    )
    from hemseg_cli.config import Config
    from hemseg_cli.core.errors import HemsegError
    from hemseg_cli.evaluation.metrics import dice, hd95_mm, iou, nsd

__all__ = [
    "Config",
    "HemsegError",
    "Model",
    "Segmentation",
    "__version__",
    "convert",
    "dice",
    "evaluate",
    "fetch_labels",
    "hd95_mm",
    "import_dataset",
    "iou",
    "load_config",
    "nsd",
    "predict",
    "read_cases",
    "report",
    "train",
]

_ELSEWHERE = {
    "Config": "hemseg_cli.config",
    "HemsegError": "hemseg_cli.core.errors",
    "dice": "hemseg_cli.evaluation.metrics",
    "hd95_mm": "hemseg_cli.evaluation.metrics",
    "iou": "hemseg_cli.evaluation.metrics",
    "nsd": "hemseg_cli.evaluation.metrics",
}


def __getattr__(name: str) -> Any:
    """Load a name of the API when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "hemseg_cli.api")), name)


def __dir__() -> list[str]:
    """List the names of the API too."""
    return sorted({*globals(), *__all__})
