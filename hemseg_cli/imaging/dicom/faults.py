"""What is wrong with a scan, gathered: each reason once, with the slices that it holds for."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from hemseg_cli.core.errors import CaseError
from hemseg_cli.core.names import first_few

_NAMED_AT_MOST = 12
_ALL_NAMED_UP_TO = 3
_HINT = "export or download the series again, unchanged"


class Faults:
    """Gather the faults of one scan, so that one error names them all."""

    def __init__(self) -> None:
        self._slices: dict[str, list[str]] = defaultdict(list)
        self._hint = ""

    def __bool__(self) -> bool:
        return bool(self._slices)

    def add(self, reason: str, names: Iterable[str], hint: str = "") -> None:
        """Note one reason for these slices."""
        self._slices[reason] += names
        self._hint = self._hint or hint

    def raise_if_any(self, scan: str) -> None:
        """Raise CaseError that names the scan, each reason, its slices, and what may help."""
        if self._slices:
            reasons = (f"{why}: {named(names)}" for why, names in self._slices.items())
            raise CaseError(f"{scan}: " + "; ".join(reasons), hint=self._hint or _HINT)


def counted(names: Sequence[str], total: int) -> str:
    """Say which slices: by name where they are few, else how many of how many."""
    if len(names) <= _ALL_NAMED_UP_TO:
        return named(names)
    return f"{len(names)} of {total} slices"


def named(names: Iterable[str]) -> str:
    """Name the first slices, each once, and how many more there are."""
    return first_few(list(dict.fromkeys(names)), _NAMED_AT_MOST)
