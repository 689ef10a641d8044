"""Find Kaggle's copy of RSNA-2019: the competition's zip behind a token.

Tested against a stand-in server, never against Kaggle itself.
"""

import base64
import json
import os
import re
from pathlib import Path

from hemseg_cli.core import console
from hemseg_cli.core.errors import FileFormatError, HemsegError

COMPETITION = "rsna-intracranial-hemorrhage-detection"
TOKEN_VARIABLE = "KAGGLE_API_TOKEN"
_RULES = f"https://www.kaggle.com/competitions/{COMPETITION}/rules"
_SETTINGS = "https://www.kaggle.com/settings"
_TOKEN_HINT = (
    f"make a token at {_SETTINGS}, then set {TOKEN_VARIABLE} or put kaggle.json into ~/.kaggle/"
)

EXPLAIN = {
    401: ("Kaggle does not accept the token (401)", _TOKEN_HINT),
    403: (
        f"Kaggle refuses the download (403): the rules of the competition {COMPETITION} "
        "must be accepted first",
        f"sign in as the owner of the token, accept them at {_RULES}, then run the same command",
    ),
    404: (
        f"Kaggle does not know the competition {COMPETITION} (404)",
        "convert.kaggle_url is the base URL of its API",
    ),
    429: (
        "Kaggle asks for fewer requests (429)",
        "run the same command later: it goes on where it stopped",
    ),
}


def archive_url(base: str) -> str:
    """Return the address that redirects to the competition's zip."""
    return f"{base.rstrip('/')}/api/v1/competitions/data/download-all/{COMPETITION}"


def authorization() -> str:
    """Return the Authorization header.

    It holds the token of `KAGGLE_API_TOKEN`, else user and key of `kaggle.json`.

    That file lies in `KAGGLE_CONFIG_DIR`, or in ~/.kaggle. HemsegError where there is neither,
    FileFormatError for a bad file; neither message repeats a secret.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token:
        if not re.fullmatch(r"[!-~]+", token):
            raise HemsegError(
                f"{TOKEN_VARIABLE} holds spaces or control characters", hint=_TOKEN_HINT
            )
        return f"Bearer {token}"
    folder = os.environ.get("KAGGLE_CONFIG_DIR")
    path = (Path(folder) if folder else Path(os.path.expanduser("~")) / ".kaggle") / "kaggle.json"
    if not path.is_file():
        raise HemsegError(
            f"no Kaggle token: {TOKEN_VARIABLE} is not set and {path} does not exist",
            hint=_TOKEN_HINT,
        )
    if path.stat().st_mode & 0o077:
        console.warn(f"{path} can be read by others; chmod 600 {path}")
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        user, key = values["username"], values["key"]
    except (ValueError, KeyError, TypeError):
        raise FileFormatError(
            f'{path} is not {{"username": ..., "key": ...}}', hint=_TOKEN_HINT
        ) from None
    if (
        not isinstance(user, str)
        or not isinstance(key, str)
        or not re.fullmatch(r"[!-~]+", user + key)
    ):
        raise FileFormatError(f"{path}: username and key are not plain text", hint=_TOKEN_HINT)
    return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()
