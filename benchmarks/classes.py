"""Several classes on the phantom: Dice by class, and what partial labels give; prints JSON.

python benchmarks/classes.py five [--minutes 6] [--patients 40] [--matrix 128] [--seed S]
    trains the default network on five kinds of hemorrhage and prints the mean Dice of each class
    on the test split, over the scans that have the class

python benchmarks/classes.py partial [--minutes 4] [--patients 24] [--matrix 128] [--seed S]
    two data sets whose scans all show IPH and SDH; the first labels IPH alone, the second SDH
    alone. Trains on each by itself and on both, for the same minutes, and scores all three on new
    scans that label both classes
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from phantom_data import phantom_config

from hemseg_cli.config import Config
from hemseg_cli.core.cases import cases_in_split, read_cases
from hemseg_cli.core.classes import read_classes
from hemseg_cli.core.data_directory import DataDirectory
from hemseg_cli.evaluation.metrics import dice
from hemseg_cli.imaging.label_values import read_label
from hemseg_cli.inference.predict import predict
from hemseg_cli.training.train import train

FIVE = ("IPH", "IVH", "SAH", "SDH", "EDH")
TWO = ("IPH", "SDH")
# The demo's network: small enough for minutes on two cores, of the default kind.
SETTINGS = (
    "train.model=dynunet",
    "train.network={channels=[12, 24, 48, 96], strides=[1, [2, 2, 1], [2, 2, 1], 2], "
    "kernels=[[3, 3, 1], [3, 3, 1], 3, 3], supervised_levels=1}",
    "train.patch=[64, 64, 8]",
    "train.lr=0.005",
    "train.patches_per_scan=4",
    "train.foreground_share=0.8",
    "train.ema_share=0.05",
    "train.validation_every=1000",
    "train.validation_cases=6",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("five", "partial"))
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--patients", type=int)
    parser.add_argument("--matrix", type=int, default=128)
    parser.add_argument("--seed", type=int, default=4711, help="of the phantom; not the demo's")
    parser.add_argument("--folder", type=Path, help="kept and used again; default: a new one")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="config keys")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        work = five if arguments.what == "five" else partial
        json.dump(work(folder.resolve(), arguments), sys.stdout, indent=2)
        print()


def five(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on five classes; return the Dice of each."""
    minutes = arguments.minutes or 6.0
    config = phantom_config(
        folder,
        seed=arguments.seed,
        patients=arguments.patients or 40,
        matrix=arguments.matrix,
        classes=FIVE,
        healthy=3,
        assignments=(*SETTINGS, f"train.max_minutes={minutes}", *arguments.set),
    )
    seconds = train_seconds(config, "five")
    return {"training": seconds, "dice": dice_by_class(config, "five", config)}


def partial(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on each of two partly labelled data sets and on both; return the Dice of each class."""
    minutes = arguments.minutes or 4.0
    patients = arguments.patients or 24
    sets = {
        key: phantom_config(
            folder,
            seed=arguments.seed + number,
            patients=patients,
            matrix=arguments.matrix,
            classes=(key,),
            kinds=TWO,
            assignments=(*SETTINGS, f"train.max_minutes={minutes}", *arguments.set),
        )
        for number, key in enumerate(TWO)
    }
    # Scored on scans that none of them has seen, with both classes in the label.
    both_labelled = phantom_config(
        folder, seed=arguments.seed + 2, patients=patients, matrix=arguments.matrix, classes=TWO
    )
    names = [config.data.dataset for config in sets.values()]
    together = phantom_config(
        folder,
        seed=arguments.seed,
        patients=patients,
        matrix=arguments.matrix,
        classes=TWO[:1],
        kinds=TWO,
        assignments=(
            *SETTINGS,
            f"train.max_minutes={minutes}",
            f"data.train_on={names}",
            *arguments.set,
        ),
    )
    result = {}
    for run, config in {**sets, "both": together}.items():
        seconds = train_seconds(config, run)
        dices = dice_by_class(config, run, both_labelled)
        result[f"trained on {run}"] = {"training": seconds, "dice": dices}
    return result


def train_seconds(config: Config, run: str) -> dict[str, float]:
    """Train; return the epochs, and the seconds on the clock and of all processors.

    On a shared machine the processors' seconds are what compares.
    """
    began, before = time.monotonic(), _processor_seconds()
    result = train(config, run=run)
    return {
        "epochs": result.epochs,
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(_processor_seconds() - before, 1),
    }


def _processor_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def dice_by_class(config: Config, run: str, scored: Config) -> dict[str, dict[str, Any]]:
    """Predict the test split of `scored`; return mean Dice over the scans that have a class.

    Classes are matched by key: the run's values may be others. A class that the run does not know
    has Dice 0.
    """
    masks = predict(config.model_copy(update={"data": scored.data}), runs=[run]).folder
    own = {each.key: each.value for each in read_classes(DataDirectory(masks))}
    result = {}
    for each in read_classes(scored.data.directory):
        values = []
        for case in cases_in_split(read_cases(scored.data.cases_file), "test"):
            truth = read_label(scored.data.directory.label_of(case)).array == each.value
            if truth.any():
                mask = read_label(masks / f"{case.scan}.nii.gz").array
                values.append(dice(mask == own.get(each.key, -1), truth))
        mean = sum(values) / len(values) if values else None
        result[each.key] = {"dice": mean and round(mean, 4), "scans": len(values)}
    return result


if __name__ == "__main__":
    main()
