"""The Typer app: names the commands, and turns an exception into an exit code.

Nothing heavy is imported here.
"""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from hemseg_cli import __version__
from hemseg_cli.commands import (
    clean,
    config,
    convert,
    demo,
    doctor,
    evaluate,
    export,
    fetch_labels,
    import_,
    models,
    predict,
    report,
    train,
)
from hemseg_cli.core import console
from hemseg_cli.core.account import name_the_user
from hemseg_cli.core.errors import (
    EXIT_BUG,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_NOT_DONE,
    EXIT_TERMINATED,
    HemsegError,
    Stopped,
)
from hemseg_cli.core.threads import never_spin

app = typer.Typer(
    name="hemseg",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Segment intracerebral hemorrhage on head CT: from DICOM to trained models, masks, "
    "metrics and a report. Research use only.",
)

# In the order in which a user meets them; the modules load nothing heavy.
app.command("demo")(demo.demo)
app.command("fetch-labels")(fetch_labels.fetch_labels)
app.command("convert")(convert.convert)
app.command("import")(import_.import_)
app.command("train")(train.train)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("models")(models.models)
app.command("doctor")(doctor.doctor)
app.command("clean")(clean.clean)
app.add_typer(config.group, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print_text(f"hemseg {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    del version


def main() -> NoReturn:
    """The entry point: run the command, and exit with the code that DESIGN promises."""
    # No child, of whatever library, runs a module of the current folder.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    # Before torch is loaded, which reads it once.
    never_spin()
    name_the_user()
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code; every error becomes one message on stderr."""
    with _sigterm_raises():
        try:
            status = app(args=arguments, standalone_mode=False, prog_name="hemseg")
            if status == EXIT_INTERRUPTED:  # Typer has caught the KeyboardInterrupt
                raise KeyboardInterrupt
            return status if isinstance(status, int) else EXIT_DONE
        except HemsegError as error:
            console.fail(str(error))
            return error.exit_code
        except Stopped as stop:
            console.fail(stop.message or "stopped")
            return stop.exit_code
        except typer.Abort as abort:
            # Typer makes an Abort of every EOFError; nothing here asks questions, so that it is a
            # reader that met the end of a file.
            cause = abort.__cause__
            return _report_bug_or_usage(cause if isinstance(cause, EOFError) else abort)
        except KeyboardInterrupt:
            console.fail("interrupted; the same command finishes the work")
            return EXIT_INTERRUPTED
        except Exception as error:
            return _report_bug_or_usage(error)


def _report_bug_or_usage(error: Exception) -> int:
    if hasattr(error, "exit_code") and hasattr(
        error, "format_message"
    ):  # a usage error of Typer's own Click
        error.show()  # type: ignore[attr-defined]
        return int(error.exit_code)
    import tempfile
    import traceback

    what = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        console.fail(f"the disk is full: {what}\n  free some space, then run again")
        return EXIT_NOT_DONE

    try:
        file = console.log_file()
        if file is None:
            handle, name = tempfile.mkstemp(prefix="hemseg-", suffix=".log")
            os.close(handle)
            file = Path(name)
        with file.open("a", encoding="utf-8", errors="backslashreplace") as log:
            traceback.print_exception(error, file=log)
    except OSError:
        # No folder for temporary files, or a full disk: the traceback is all there is.
        console.fail(f"a bug in hemseg: {what}\n{''.join(traceback.format_exception(error))}")
    else:
        console.fail(f"a bug in hemseg: {what}\n  the traceback is in {file}")
    return EXIT_BUG


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM unwinds the stack as Ctrl-C does, so that locks and temporary files are released."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise Stopped(EXIT_TERMINATED, "terminated; the same command finishes the work")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
