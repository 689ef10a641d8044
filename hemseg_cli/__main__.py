"""`python -m hemseg_cli`: what `torchrun -m` starts."""

import os
import sys


def _distrust_current_folder() -> None:
    """Take the current folder off the path: a `random.py` among the scans would else be run.

    `python -m` puts it in front of Python's own modules. Only a folder that holds this very package
    (a checkout) stays.
    """
    here = os.path.join(os.getcwd(), "")
    first = os.path.join(sys.path[0], "")
    if not sys.flags.safe_path and first == here and not os.path.abspath(__file__).startswith(here):
        del sys.path[0]


if __name__ == "__main__":
    _distrust_current_folder()
    from hemseg_cli.app import main

    main()
