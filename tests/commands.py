"""The command line as the tests call it, and second processes beside it."""

import subprocess
import sys
from contextlib import contextmanager

from typer.testing import CliRunner

from shapefirst.cli.app import app


def shapefirst(*arguments, text=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text)


def one_sentence(result):
    """The sentence of a run that ended as bad input should."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("Error: ")
    return result.stderr


HOLD = """
import sys
from pathlib import Path
from shapefirst.files import locked
if "without flock" in sys.argv:
    import errno, fcntl
    def flock(*_): raise OSError(errno.ENOSYS, "Function not implemented")
    fcntl.flock = flock
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(lock, *how):
    """A second process that has a lock; it is killed at the end, and can do nothing against it."""
    command = [sys.executable, "-W", "ignore", "-c", HOLD, str(lock), *how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()
