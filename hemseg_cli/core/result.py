"""What every command's library function returns."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from hemseg_cli.core.console import Table


@runtime_checkable
class Result(Protocol):
    """The result of a command: one JSON object, the same as tables, and whether cases failed.

    Its class keeps the failures themselves as `failures: dict[str, str]`, scan -> reason.
    """

    @property
    def failed(self) -> bool:
        """Whether some case could not be done, so that the command ends with exit code 1."""
        ...

    def payload(self) -> dict[str, Any]:
        """Return what `--json` prints: plain values only."""
        ...

    def tables(self) -> Sequence[Table]:
        """Return what a person sees."""
        ...
