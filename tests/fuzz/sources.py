"""Where cases come from: a function for each source, by its name in `make fuzz ONLY=...`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Final

from fuzz import stored
from fuzz.cases import Case, Source
from fuzz.files import file_case
from fuzz.options import option_case
from fuzz.stock import put_stock

__all__ = ["SOURCES"]

SWEEP = ("sweep", "run", "--steps", "4", "--text-steps", "50%", "--policy", "steps:0+2", "--count", "4")
#: What reads a sweep, findings or a policy.
OF_SWEEP: tuple[tuple[str, ...], ...] = (
    *(("sweep", "report", "it"),) * 3,
    ("sweep", "report", "it", "--out", "new"),
    ("sweep", "latency", "it", "--batch", "1", "--rounds", "2"),
    (*SWEEP, "--shard-size", "2", "--out", "it"),
)
OF_FINDING = (("report", "it"), ("sweep", "report", "sweep", "--out", "it"), ("study", "f3", "--quick", "--out", "it"))
OF_POLICY = (
    ("generate", "a red car", "--policy", "it"),
    ("sweep", "plan", "--steps", "4", "--count", "2", "--policy", "it", "--no-probe"),
    ("demo", "--policy", "it"),
)


def _stored(random: Random) -> Case:
    """Results that something has happened to."""
    make, damage, commands = random.choice(
        (
            (stored.sweep, stored.of_sweep, OF_SWEEP),
            (lambda place: stored.finding(place).parent, stored.of_finding, OF_FINDING),
            (stored.policy, stored.of_policy, OF_POLICY),
        )
    )
    what, do = damage(random)
    command = random.choice(commands)

    def prepare(folder: Path) -> None:
        place = make(Path("it"))
        do(place / "f4" if (place / "f4").is_dir() else place)
        if "sweep" in command[1:]:
            put_stock(folder, "sweep")

    return Case(what, command, prepare, interrupted=3.0 if command[0] in ("study", "demo") else None)


SOURCES: Final[Mapping[str, Source]] = {"options": option_case, "files": file_case, "stored": _stored}
