"""The published label files, pinned: repository, commit, sizes and hashes.

`source.json` says the same of a data set of your own.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from hemseg_cli.core.classes import LabelClass, classes_from_plain
from hemseg_cli.core.errors import FileFormatError

COMMIT = "7b7db5f26af618abecaf141d78b6a23e3f9d01cc"
BASE_URL = f"https://raw.githubusercontent.com/songchangwei/3DCT-SD-IVH-ICH/{COMMIT}"
SOURCE_JSON = "source.json"
MOST_FILE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class HashedFile:
    """A file that is taken only with this size and this hash.

    `path` is relative to the source.
    """

    path: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        """The path without its folders."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class PublishedLabels:
    """The files of one data set.

    `tables`: published CSV files that are laid out beside the manifest where the source has them.
    `classes`: those of the labels, empty where they hold hemorrhage = 1 alone.
    """

    archive: HashedFile
    manifest: HashedFile
    tables: tuple[HashedFile, ...] = ()
    classes: tuple[LabelClass, ...] = ()


PUBLISHED = {
    "hemseg-200": PublishedLabels(
        HashedFile(
            "data/IPH_IVH_label.zip",
            425154,
            "50c8a6784a2133af55d199398b3e1085b633475a488bbe622d1927d3032eedd2",
        ),
        HashedFile(
            "annotion_file_info.jsonl",
            110541,
            "f7f046e60a9d9bfe25fbb1d9d4e080773d9696224c4e3f52d459fbc276f5a09a",
        ),
    ),
    "hemseg-500": PublishedLabels(
        HashedFile(
            "HemSeg-500.zip",
            863507,
            "53482652862b26e6926a8b4b251269107eb9c22faf6ad0644a462fa7e47d723c",
        ),
        HashedFile(
            "annotion_file_info_500.jsonl",
            366853,
            "9a589b0fe525c19458e2da0e096b9133e35731def5f9ef5e5a79fa709c02ad07",
        ),
        (
            HashedFile(
                "train_set.csv",
                4357,
                "bc8cf2d91207f2e5a433044d8e5328415c4c31e02ace807fce816cfb6e3fa7a4",
            ),
            HashedFile(
                "val_set.csv",
                1120,
                "63d25dc8a56dc3ea085d7876613123d87bcdcb3e330e0676af4624586dae4e8e",
            ),
            HashedFile(
                "test_set.csv",
                1393,
                "eed13c9f78f585993f2ed1819c9adce8cfa9b0ca720397d3489ab33ea6dc614c",
            ),
        ),
    ),
}


def parse_source_json(text: str, place: str) -> PublishedLabels:
    """Read a `source.json`: `{"archive": {"file", "bytes", "sha256"}, "manifest": {...}}`.

    `classes` may list the classes of the labels, with the keys of `classes.toml`. FileFormatError
    names the key.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{place} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise FileFormatError(f"{place} is not a JSON object")
    plain = values.get("classes")
    return PublishedLabels(
        _source_file(values, "archive", place),
        _source_file(values, "manifest", place),
        classes=classes_from_plain(plain, place=place) if plain is not None else (),
    )


def _source_file(values: dict[str, Any], key: str, place: str) -> HashedFile:
    entry = values.get(key)
    if not isinstance(entry, dict):
        raise FileFormatError(
            f"{place}: no {key}",
            hint='it looks like {"file": "labels.zip", "bytes": 1, "sha256": "..."}',
        )
    name, size, digest = entry.get("file"), entry.get("bytes"), entry.get("sha256")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", name):
        raise FileFormatError(f"{place}: {key}.file = {name!r:.80} is not a file name beside it")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= MOST_FILE_BYTES:
        raise FileFormatError(
            f"{place}: {key}.bytes = {size!r:.40} is not a size from 1 to {MOST_FILE_BYTES}"
        )
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise FileFormatError(
            f"{place}: {key}.sha256 = {digest!r:.80} is not 64 hexadecimal digits"
        )
    return HashedFile(name, size, digest)
