import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from hemseg_cli import app as app_module
from hemseg_cli.app import app, run
from hemseg_cli.core import console
from hemseg_cli.core.errors import HemsegError, Stopped

HEAVY = {"torch", "monai", "pandas", "SimpleITK", "scipy", "nibabel", "pydicom"}


def _command_lines() -> list[list[str]]:
    """Every sub-command with --help, from the app itself."""
    lines: list[list[str]] = [["--help"]]
    for command in app.registered_commands:
        assert command.callback is not None
        lines.append([command.name or command.callback.__name__.replace("_", "-"), "--help"])
    for group in app.registered_groups:
        assert group.typer_instance is not None
        assert group.name is not None
        lines.append([group.name, "--help"])
        lines += [
            [group.name, command.name or "", "--help"]
            for command in group.typer_instance.registered_commands
        ]
    return lines


def _modules_after(arguments: list[str]) -> tuple[int, set[str], str]:
    code = f"""
import sys
from hemseg_cli.app import run
status = run({arguments!r})
print("MODULES", status, *{{name.partition(".")[0] for name in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()[-1].split()
    return int(words[1]), set(words[2:]), done.stdout


def test_every_help_loads_nothing_heavy() -> None:
    code = f"""
import sys
from hemseg_cli.app import run
for line in {_command_lines()!r}:
    assert run(line) == 0, line
print("MODULES", *sorted({HEAVY!r} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ["MODULES"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--nonsense"],
        ["train", "--model", "unnet"],
        ["convert", "--set", "x"],
        ["nonsense"],
    ],
)
def test_usage_error_exits_2_and_loads_nothing_heavy(arguments: list[str]) -> None:
    status, modules, _ = _modules_after(arguments)
    assert status == 2
    assert not modules & HEAVY


def test_help_says_research_use_only() -> None:
    _, _, out = _modules_after(["--help"])
    assert out.count("Research use only") == 1


@pytest.fixture
def _extra_command(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]  # a generator fixture that restores the app
    before = list(app.registered_commands)
    app.command("fails")(request.param)
    yield
    app.registered_commands[:] = before


def _clean_failure() -> None:
    raise HemsegError("scan x is bad", hint="type y")


def _bug() -> None:
    raise ZeroDivisionError("division by zero")


def _stopped() -> None:
    raise Stopped(143, "saved")


def _interrupted() -> None:
    raise KeyboardInterrupt


def _end_of_a_file() -> None:
    raise EOFError("compressed file ended early")


def _some_cases_failed() -> None:
    raise typer.Exit(1)


@pytest.mark.parametrize(
    ("_extra_command", "status", "message"),
    [
        (_clean_failure, 1, "error: scan x is bad\n  type y\n"),
        (_bug, 3, "ZeroDivisionError"),
        (_stopped, 143, "saved"),
        (_interrupted, 130, "interrupted"),
        # Typer makes an Abort of it, which is no Ctrl-C of the user.
        (_end_of_a_file, 3, "EOFError: compressed file ended early"),
        (_some_cases_failed, 1, ""),
    ],
    indirect=["_extra_command"],
)
@pytest.mark.usefixtures("_extra_command")
def test_exception_becomes_exit_code_and_one_message(
    status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    assert run(["fails"]) == status
    out, err = capsys.readouterr()
    assert message in err
    assert "Traceback" not in err
    assert out == ""


@pytest.mark.parametrize("_extra_command", [_bug], indirect=True)
@pytest.mark.usefixtures("_extra_command")
def test_bug_leaves_its_traceback_in_the_named_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console.configure()
    console.add_log_file(tmp_path / "log.txt")
    try:
        assert run(["fails"]) == 3
    finally:
        console.close_log_file()
    assert str(tmp_path / "log.txt") in capsys.readouterr().err
    assert "ZeroDivisionError" in (tmp_path / "log.txt").read_text()


def test_sigterm_exits_143() -> None:
    code = """
import time
from hemseg_cli.app import app, run
@app.command("wait")
def wait():
    print("waiting", flush=True)
    time.sleep(60)
import sys
sys.exit(run(["wait"]))
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143


def test_output_into_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m hemseg_cli config show | true; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "0"
    assert "Traceback" not in done.stderr


def test_config_commands_write_check_and_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["config", "init"]) == 0
    assert run(["config", "init"]) == 2
    assert "--force" in capsys.readouterr().err
    assert run(["config", "validate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True
    assert run(["config", "show", "--json", "--set", "train.epochs=7"]) == 0
    assert json.loads(capsys.readouterr().out)["train"]["epochs"] == 7
    (tmp_path / "hemseg.toml").write_text("[train]\nepoch = 3\n")
    assert run(["config", "validate"]) == 2
    assert "hemseg.toml:2" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"hemseg {app_module.__version__}\n"


def test_no_color_is_honoured_on_a_terminal() -> None:
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hemseg_cli", "config", "validate", "absent.toml"],
        stderr=child,
        stdout=child,
        env={**os.environ, "NO_COLOR": "1", "TERM": "xterm-256color"},
    )
    os.close(child)
    text = b""
    try:
        while chunk := os.read(parent, 4096):
            text += chunk
    except OSError:
        pass  # a pseudo-terminal ends with EIO when the child has closed it
    os.close(parent)
    assert process.wait() == 2
    assert b"absent.toml" in text
    assert b"\x1b[3" not in text
