"""Some of the odd calls that `make fuzz` makes thousands of; the same ones each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CALLS = 6


def test_no_odd_call_falls():
    """In a process without threads, as it forks."""
    command = [sys.executable, "-W", "ignore", "-m", "fuzz", "--calls", str(CALLS), "--workers", "1"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.startswith(f"{CALLS} calls: 0 tracebacks, 0 wrong exits")
