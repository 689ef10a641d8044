"""Write `history.csv`: one row per epoch, whole each time, so that it agrees with its state."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hemseg_cli.core.files import write_text
from hemseg_cli.training.validation import STRATUM_COLUMNS

COLUMNS = (
    "epoch",  # from 1
    "seconds",  # since the training began, pauses between resumes left out
    "lr",  # at the end of the epoch
    "train_loss",  # mean over the batches that were not skipped
    "val_loss",  # mean over the validated scans of 1 - soft Dice
    "val_dice",  # mean Dice of whole scans at probability 0.5
    "best",  # 1 where val_dice is the best so far
    "skipped",  # batches skipped because their loss was not finite
    "patches_per_s",
    *STRATUM_COLUMNS,  # val_dice of the scans whose true volume lies in the stratum
)


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows; None is an empty cell, floats keep every digit.

    Of a training on several classes the mean Dice of each, `val_dice_<key>`, stands behind.
    """
    others = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    columns = (*COLUMNS, *others)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow(
            ["" if row.get(column) is None else repr(row[column]) for column in columns]
        )
    write_text(path, text.getvalue())
