"""One family of errors; `app.main` is the one place where they become an exit code.

A message names the value and the place (file, scan, `section.key`); `hint` is the next thing to
type.
"""

from hemseg_cli.core.printable import printable

EXIT_DONE = 0
EXIT_NOT_DONE = 1
EXIT_USAGE = 2
EXIT_BUG = 3
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class HemsegError(Exception):
    """The work could not be done, and the user can do something about it (exit code 1)."""

    exit_code = EXIT_NOT_DONE

    def __init__(self, message: str, *, hint: str = "") -> None:
        # What it names may come from a stranger's file, and says nothing to a terminal.
        self.message = printable(message)
        self.hint = printable(hint)
        super().__init__(self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments do not survive the default pickling, and errors come back from worker
        # processes.
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[HemsegError], message: str, hint: str) -> HemsegError:
    return kind(message, hint=hint)


class UsageError(HemsegError):
    """The command line is wrong (exit code 2)."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """`hemseg.toml`, `--set` or a `HEMSEG_` variable is wrong (exit code 2)."""


class CaseError(HemsegError):
    """One scan cannot be worked on; the others go on."""


class WriteError(HemsegError):
    """A file cannot be written: the place is at fault, not what is worked on."""


class FileFormatError(HemsegError):
    """A file is not what its name or place says it is."""


class Stopped(BaseException):
    """SIGTERM or Ctrl-C was handled and the work saved.

    Outside `Exception`, like `KeyboardInterrupt`, so that nothing on the way swallows it.
    """

    def __init__(self, exit_code: int, message: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
