"""The processes of a stage end with the command that began them, also where that is killed.

The command holds the one end of a pipe, a stage has the other as its standard input, and so has whatever runs it in
several processes: the pipe ends when the command does, in whatever way.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Final

__all__ = ["end_with_the_command", "exit_code"]

HELD: Final = "SHAPEFIRST_STAGE_IS_HELD"  # by the standard input of a process in whose environment this is


def exit_code(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """That of a stage. It is no part of what Ctrl-C on a terminal reaches, as it would answer with a traceback; when
    this process is interrupted or killed, it ends with all that it has started."""
    environment = {**environment, HELD: "1"}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, start_new_session=True) as stage:
        try:
            return stage.wait()
        except BaseException:
            _kill(stage.pid)
            stage.kill()
            raise


def end_with_the_command() -> None:
    """From here on this process, and what it has started, ends as soon as the command does that began it."""
    if HELD in os.environ:
        threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while os.read(0, 1):
        pass
    _kill(0)
    os._exit(1)


def _kill(group: int) -> None:
    """All processes of a group, 0 of one's own; where there are none, none."""
    if hasattr(os, "killpg"):
        os.killpg(group, signal.SIGKILL)
