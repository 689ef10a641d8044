"""The secret of a folder from which the names of its DICOM series are made.

A plain digest of a series UID can be looked up by whoever has a list of UIDs. With a key that
stays in the hidden part of the folder, names in tables and reports say nothing without it; and a
folder that is copied or moved keeps its names.
"""

import hashlib
import hmac
import secrets
from pathlib import Path

from hemseg_cli.core.errors import FileFormatError
from hemseg_cli.core.files import file_lock, read_text, write_text

KEY_FILE = ".names-key"
_KEY_BYTES = 16
_LOCK_WAIT_S = 60.0
_DIGITS = 10


def names_key(folder: Path) -> str:
    """Return the key in `folder`, made at the first call; FileFormatError if it is damaged."""
    path = folder / KEY_FILE
    # Two processes that begin together have to end up with one key.
    with file_lock(folder / ".names-key.lock", wait_s=_LOCK_WAIT_S):
        if not path.exists():
            write_text(path, secrets.token_hex(_KEY_BYTES) + "\n")
            path.chmod(0o600)
        key = read_text(path).strip()

    if len(key) != 2 * _KEY_BYTES:
        raise FileFormatError(
            f"{path} is not the key of series names", hint=f"rm {path}   makes another one"
        )
    return key


def keyed_name(name: str, key: str) -> str:
    """Return `<prefix>-<digest>` with a digest (HMAC, RFC 2104) that only the key gives."""
    prefix, _, _ = name.rpartition("-")
    digest = hmac.new(key.encode(), name.encode("utf-8", "surrogateescape"), hashlib.sha256)
    return f"{prefix}-{digest.hexdigest()[:_DIGITS]}"
