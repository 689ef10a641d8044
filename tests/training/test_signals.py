import signal
import subprocess
import sys


def test_signal_is_noted_and_the_second_ctrl_c_unwinds() -> None:
    code = """
import os, signal
from hemseg_cli.training.signals import stop_requests
with stop_requests() as request:
    assert not request
    os.kill(os.getpid(), signal.SIGTERM)
    assert request.exit_code == 143
    os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr


def test_forked_child_dies_of_the_signal_that_its_parent_only_notes() -> None:
    code = """
import os, signal, time
from hemseg_cli.training.signals import stop_requests
with stop_requests() as request:
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        # Before this Python may drop a signal, as it does for a child just forked.
        os.write(told, b"x")
        time.sleep(60)
        os._exit(9)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), bool(request))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["143", "False"]
