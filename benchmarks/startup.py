"""How long it takes until something happens: ``import shapefirst`` and ``shapefirst --help``, in fresh processes.

    python benchmarks/startup.py [--repeats 15]

The import is what ``python -X importtime`` gives for the package; the help is a whole process, interpreter included.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def import_seconds() -> float:
    """Cumulative time of the package's import."""
    command = [sys.executable, "-X", "importtime", "-c", "import shapefirst"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    row = next(line for line in reversed(lines) if line.split("|")[-1].strip() == "shapefirst")
    return int(row.split("|")[1]) / 1e6


def help_seconds() -> float:
    """One whole ``shapefirst --help``."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "shapefirst", "--help"], capture_output=True, check=True)
    return time.perf_counter() - start


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--repeats", type=int, default=15)
    repeats = arguments.parse_args().repeats
    print("| what | median, s | worst, s | bar, s |\n|---|---|---|---|")
    for what, measure, bar in (("import shapefirst", import_seconds, 0.3), ("shapefirst --help", help_seconds, 1.0)):
        seconds = [measure() for _ in range(repeats)]
        print(f"| {what} | {statistics.median(seconds):.3f} | {max(seconds):.3f} | {bar} |")


if __name__ == "__main__":
    main()
