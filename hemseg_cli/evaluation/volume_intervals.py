"""Read the intervals of volumes that `hemseg predict` wrote beside its masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hemseg_cli.core.classes import UNION
from hemseg_cli.core.files import read_table, read_text

_LOW = "volume_low_ml"
VolumeInterval = tuple[float, float]
"""Lower and upper bound of a scan's true volume, mL."""


def read_volume_intervals(
    path: Path, classes: Sequence[str]
) -> Mapping[str, Mapping[str, VolumeInterval]]:
    """Return scan -> class key (`UNION`: all together) -> interval, from a `volumes.csv`.

    `classes`: the keys of several classes. Empty where there is no such file of ours; a scan or
    class without an interval is left out. FileFormatError names the cell that is no number.
    """
    # Another tool's file of this name may hold anything.
    if not path.is_file() or _LOW not in read_text(path).partition("\n")[0]:
        return {}
    stems = {UNION: "volume", **{key: key for key in classes}}
    bounds = {key: (f"{stem}_low_ml", f"{stem}_high_ml") for key, stem in stems.items()}
    names = [name for pair in bounds.values() for name in pair]
    table = read_table(
        path,
        columns={"scan": str, **dict.fromkeys(names, float)},
        optional=names,
        hint="hemseg predict   writes it anew",
    )

    found: dict[str, dict[str, VolumeInterval]] = {}
    for row in table.to_dict("records"):
        intervals = {
            key: (float(row[low]), float(row[high])) for key, (low, high) in bounds.items()
        }
        # An empty cell is NaN, which equals nothing.
        found[str(row["scan"])] = {
            key: pair
            for key, pair in intervals.items()
            if pair[0] == pair[0] and pair[1] == pair[1]
        }
    return found
