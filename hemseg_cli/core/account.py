"""The user's account as libraries ask for it: there may be none (`docker --user 12345`)."""

import getpass
import os


def name_the_user() -> None:
    """Give a user without a passwd entry a name, in the environment of this process.

    torch asks for one to name a cache folder, and fails without.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # by version of Python
        number = os.getuid() if hasattr(os, "getuid") else 0
        os.environ["LOGNAME"] = f"user-{number}"
