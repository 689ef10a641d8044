"""Addresses as they may be stored and shown: without passwords, signatures and tokens."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")


def without_secrets(text: str) -> str:
    """Return the text with each URL in it cut down to scheme, host, port and path.

    User name and password stand before the host; signatures and tokens in the query or fragment.
    """
    return _URL.sub(lambda found: _plain_url(found[0]), text) if "://" in text else text


def without_secrets_in(value: Any) -> Any:
    """Return the same plain values (tables, lists, texts) with every URL in them cut down."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {without_secrets_in(key): without_secrets_in(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets_in(one) for one in value]
    return value


def _plain_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # no URL after all: an unclosed bracket, say
        return re.split(r"[?#]", re.sub(r"//[^/@]*@", "//", url))[0]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))
