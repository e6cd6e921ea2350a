"""Thousands of odd calls, and one line of what fell: make fuzz CALLS=5000 SEED=0 WORKERS=2, make fuzz ONLY=NAME."""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from fuzz.cases import Case
from fuzz.sources import SOURCES
from fuzz.trial import FAULTS, Verdict, carried_out, warm

SHOWN = 5  # of failures that are alike


def case_of(name: str) -> tuple[str, Case]:
    """The case of a name "source:seed:number"."""
    source = name.partition(":")[0]
    return name, SOURCES[source](random.Random(name))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", action="append", metavar="NAME", help="a case of an earlier run, or all of a source")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # with all cases that run
    console, began = Console(stderr=True), time.monotonic()
    sources = [name for name in asked.only or SOURCES if name in SOURCES]
    names = [f"{sources[n % len(sources)]}:{asked.seed}:{n}" for n in range(asked.calls if sources else 0)]
    names += [name for name in asked.only or () if name not in SOURCES]
    found: Counter[str] = Counter()
    alike: Counter[str] = Counter()
    longest = most = 0.0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        warm(Path(folder))
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, auto_refresh=False) as bar:  # no thread, as this process forks
            task = bar.add_task("", total=len(names))
            for verdict in carried_out(map(case_of, names), asked.workers):
                bar.update(task, advance=1, refresh=console.is_terminal)
                longest, most = max(longest, verdict.seconds), max(most, verdict.memory / 1024**3)
                found.update(verdict.faults.keys())
                alike[_kind(verdict)] += bool(verdict.faults)
                if verdict.faults and alike[_kind(verdict)] <= SHOWN:
                    bar.console.print(str(verdict), markup=False, highlight=False, soft_wrap=True)
                if asked.only and not sources:
                    print(f"{verdict}\nexit {verdict.exit}\n{verdict.said}")
    faults = ", ".join(f"{found[kind]} {kind}" for kind in FAULTS)
    print(
        f"{len(names)} calls: {faults}. The longest took {longest:.1f} s, the largest {most:.2f} GB, "
        f"all {(time.monotonic() - began) / 60:.1f} minutes."
    )
    return 1 if found.total() else 0


def _kind(verdict: Verdict) -> str:
    """Failures of one kind are shown a few times only."""
    return " ".join((*verdict.faults, verdict.name.partition(":")[0], *list(verdict.faults.values())[:1]))[:120]


if __name__ == "__main__":
    sys.exit(main())
