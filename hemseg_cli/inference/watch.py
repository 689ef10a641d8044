"""Predict studies as they arrive in folders, until Ctrl-C (`hemseg predict --watch`)."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hemseg_cli.config.schema import NameRule
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, UsageError
from hemseg_cli.core.printable import printable
from hemseg_cli.inference.batch import Call, predict_all, say_left_out
from hemseg_cli.inference.inputs.arriving import Arrivals, Study
from hemseg_cli.inference.inputs.finding import Inputs, LeftOut, path_inputs
from hemseg_cli.inference.inputs.scan_input import ScanInput
from hemseg_cli.inference.predict_result import PredictResult
from hemseg_cli.inference.records import rebuild_tables

# Between two looks at the folders, and so many times as long as a look itself took.
_LEAST_POLL_S = 0.2
_POLLS_PER_SETTLE = 4
_POLL_SHARE = 10


def check_watched(inputs: Sequence[Path]) -> list[Path]:
    """Return the folders to watch; UsageError naming an input that is none."""
    folders = [Path(given).expanduser() for given in inputs]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"--watch {folder}: not a folder", hint="hemseg predict FOLDER --watch --out OUT"
            )
    if not folders:
        raise UsageError(
            "--watch needs a folder to watch", hint="hemseg predict FOLDER --watch --out OUT"
        )
    return folders


def watch(call: Call, folders: Sequence[Path], result: PredictResult) -> None:
    """Predict every study of the folders and each that arrives, until Ctrl-C.

    Ctrl-C is the ordinary end: it is no error, what is finished stands in the tables, and the scan
    at hand is done by the next call. What became of the scans is noted in `result`.
    """
    shown = ", ".join(str(folder) for folder in folders)
    console.say(printable(f"watching {shown} for new studies; Ctrl-C ends"))
    try:
        for study in _arriving(call, folders):
            _predict_study(call, study, result)
    except KeyboardInterrupt:
        console.say("watching has ended; the same command goes on")


def _arriving(call: Call, folders: Sequence[Path]) -> Iterator[Study]:
    """Yield studies as they become whole, for ever."""
    settle_s = call.config.predict.settle_s
    arrivals = Arrivals(folders, settle_s, call.folder.path)
    while True:
        start_s = time.monotonic()
        studies = arrivals.look(start_s)
        took_s = time.monotonic() - start_s
        yield from studies
        time.sleep(max(_LEAST_POLL_S, settle_s / _POLLS_PER_SETTLE, took_s * _POLL_SHARE))


def _predict_study(call: Call, study: Study, result: PredictResult) -> None:
    """Predict the scans of a study that are not done, and write the tables."""
    found = scans_of(study, call.config.predict.name_by, call.folder.records)
    say_left_out(found.left_out)
    result.left_out += found.left_out

    call = replace(call, inputs=frozenset(source.path.resolve() for source in found.sources))
    waiting = []
    for source in found.sources:
        if not call.force and call.is_done(source):
            result.already_done.append(source.name)
        else:
            waiting.append(call.task(source))
    if not waiting:
        return

    before = len(result.predicted)
    predict_all(call, waiting, result)
    rebuild_tables(call.folder)
    for row in result.predicted[before:]:
        console.say(f"{row.scan}: {row.predicted_ml:.2f} mL")


def scans_of(study: Study, name_by: NameRule, names_in: Path) -> Inputs:
    """Find the scans of a study, under names that do not depend on what else has arrived."""
    # Loose slices lie in the folder of all studies, after which no one of them can be named.
    rule: NameRule = "series" if study.is_loose and name_by == "folder" else name_by
    try:
        found = path_inputs([study.path], name_by=rule, names_in=names_in)
    except HemsegError as error:
        return Inputs([], (LeftOut(study.path, error.message),))
    if study.is_loose:
        return Inputs([one for one in found.sources if _is_loose(one, study.path)])

    # They were found, not named by anybody: one may turn out to be a label map.
    sources = [replace(one, named=False) for one in found.sources]
    if name_by == "folder":
        sources = [_named_by_place(one, study.path) for one in sources]
    return Inputs(sources, found.left_out)


def _is_loose(source: ScanInput, folder: Path) -> bool:
    """Whether a series lies in the watched folder itself, not in one of its studies."""
    return (
        source.series is not None
        and source.path.resolve() == folder.resolve()
        and all(Path(name).parent == Path() for name in source.series.files)
    )


def _named_by_place(source: ScanInput, study: Path) -> ScanInput:
    """The name with the study's before it: two patients' folders may both hold a `CT`."""
    is_own = source.name == study.name or source.name.startswith(f"{study.name}_")
    if is_own or not study.is_dir():
        return source
    return replace(source, name=f"{study.name}_{source.name}")
