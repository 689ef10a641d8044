"""The index of an archive of slices, made once and kept in a file beside the data set."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hemseg_cli.core.errors import CaseError, HemsegError
from hemseg_cli.dataset.labels.manifest import SLICE_ID
from hemseg_cli.dataset.slices.zip_index import Member, SliceIndex


def check_slice_id(slice_id: str) -> str:
    """Return the id, if it is one; CaseError otherwise.

    No path and no lookup is made from anything else.
    """
    if not SLICE_ID.fullmatch(slice_id):
        raise CaseError(f"slice id {slice_id[:80]!r} is not 9 hexadecimal digits")
    return slice_id


def missing_slice(slice_id: str, place: str) -> CaseError:
    """Make the error for a slice that the source does not have."""
    return CaseError(
        f"slice {slice_id} is not in {place}",
        hint="hemseg convert --dry-run   counts what is missing",
    )


class KeptIndex:
    """The index of the archive at `place`, built once and kept in `file`.

    Travels to a worker as the file's name alone.
    """

    def __init__(self, place: str, file: Path, build: Callable[[], SliceIndex]) -> None:
        self._place, self._file = place, file
        self._index = SliceIndex.load(file)
        if self._index is None:
            build().save(file)

    def find(self, slice_id: str) -> Member | None:
        """Return the member of a slice, None where there is none."""
        if self._index is None:
            self._index = SliceIndex.load(self._file)
        if self._index is None:
            raise HemsegError(
                f"the index {self._file} of {self._place} went away", hint="run the command again"
            )
        return self._index.find(check_slice_id(slice_id))

    def member(self, slice_id: str) -> Member:
        """Return the member of a slice; CaseError where there is none."""
        member = self.find(slice_id)
        if member is None:
            raise missing_slice(slice_id, self._place)
        return member

    def members(self, slice_ids: Sequence[str]) -> list[Member]:
        """Return the members of those slices that are there."""
        return [member for member in map(self.find, slice_ids) if member is not None]

    def missing(self, slice_ids: Sequence[str]) -> list[str]:
        """Return the ids without a member."""
        return [slice_id for slice_id in slice_ids if self.find(slice_id) is None]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_index": None}
