"""Bounded reading of strangers' files: gzip members, ends, pipes and devices."""

import gzip
import os
import threading
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.imaging.bounded_files import BoundedReader, open_regular


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.binary(max_size=3000), min_size=1, max_size=8),
    st.integers(0, 9),
    st.integers(1, 5000),
    st.booleans(),
)
def test_members_read_in_pieces_are_what_gzip_unpacks(
    parts: list[bytes], level: int, piece: int, pack: bool
) -> None:
    whole = b"".join(parts)
    data = b"".join(gzip.compress(part, level) for part in parts) if pack else b"\0" + whole
    reader = BoundedReader.of_bytes("x", data)
    assert reader.is_packed == pack
    found = b""
    while part := reader.head(piece):
        found += part
    assert found == (gzip.decompress(data) if pack else data)


def test_eighty_thousand_empty_members_are_read_in_linear_time_and_little_memory() -> None:
    data = gzip.compress(b"") * 80_000 + gzip.compress(b"the end")
    tracemalloc.start()
    assert BoundedReader.of_bytes("x", data).head(100) == b"the end"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(data)


def test_a_member_behind_a_long_one_is_found() -> None:
    first = os.urandom(3 * 2**20)
    data = gzip.compress(first, 1) + gzip.compress(b"second")
    reader = BoundedReader.of_bytes("x", data)
    assert bytes(reader.exactly(len(first))) == first
    assert reader.head(50) == b"second"


def test_no_more_is_unpacked_than_is_asked_for() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(256)) + packer.flush()
    tracemalloc.start()
    BoundedReader.of_bytes("x", bomb).exactly(1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("cut", [1, 8, 12])
def test_a_file_that_ends_too_early_is_named(cut: int) -> None:
    data = gzip.compress(os.urandom(100))[:-cut]
    reader = BoundedReader.of_bytes("scan.nii.gz", data)
    with pytest.raises(FileFormatError, match=r"scan\.nii\.gz is cut off"):
        reader.exactly(101)


def test_a_wrong_checksum_is_found_where_the_file_ends() -> None:
    data = bytearray(gzip.compress(b"voxels"))
    data[-8] ^= 0xFF
    reader = BoundedReader.of_bytes("x", bytes(data))
    assert reader.head(3) == b"vox"
    with pytest.raises(FileFormatError, match="damaged"):
        reader.exactly(100)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    messages: list[str] = []

    def read() -> None:
        try:
            with open_regular(tmp_path / "pipe.nii"):
                pass
        except FileFormatError as error:
            messages.append(error.message)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert messages == [f"{tmp_path}/pipe.nii is no regular file but a pipe"]


@pytest.mark.parametrize("path", [Path("/dev/zero"), Path("/")])
def test_devices_and_folders_are_refused(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"no {path} on this system")
    with (
        pytest.raises(FileFormatError, match=r"no regular file but a (device|folder)"),
        open_regular(path),
    ):
        pass


@pytest.mark.parametrize("name", ["gone.nii", "a\0b.nii"])
def test_a_name_without_a_file_is_our_error(tmp_path: Path, name: str) -> None:
    with (
        pytest.raises(FileFormatError, match=r"does not exist|cannot read"),
        open_regular(tmp_path / name),
    ):
        pass
