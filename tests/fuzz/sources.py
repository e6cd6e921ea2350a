"""Where cases come from: a function for each source, by its name in `make fuzz ONLY=...`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

from fuzz import arguments, commands, folders, stored
from fuzz.cases import Case, Source
from fuzz.files import file_case
from fuzz.stock import put_stock, stock

__all__ = ["SOURCES"]

#: What keeps a command small where its options are good.
SMALL: dict[tuple[str, ...], tuple[str, ...]] = {
    ("generate",): ("--steps", "2"),
    ("sweep", "plan"): ("--steps", "2", "--no-probe"),
    ("sweep", "run"): ("--steps", "2"),
    ("sweep", "latency"): ("--batch", "1", "--rounds", "2"),
    ("studio",): ("--port", "0"),
    ("study",): ("--quick",),
    ("train-pocket",): ("--preset", "smoke"),
}
#: Commands that take more than seconds: their user is impatient.
LONG = ("demo", "models", "studio", "study", "sweep", "train-pocket", "tune")
SWEEP = ("sweep", "run", "--steps", "4", "--text-steps", "50%", "--policy", "steps:0+2", "--count", "4")
#: What reads a sweep, findings or a policy.
OF_SWEEP: tuple[tuple[str, ...], ...] = (
    *(("sweep", "report", "it"),) * 3,
    ("sweep", "report", "it", "--out", "new"),
    ("sweep", "latency", "it", "--batch", "1", "--rounds", "2"),
    (*SWEEP, "--shard-size", "2", "--out", "it"),
)
OF_FINDING = (("report", "it"), ("sweep", "report", "sweep", "--out", "it"), ("study", "f3", "--quick", "--out", "it"))
#: What loads a pipeline, and what loads a CLIP.
OF_MODEL = (
    ("generate", "a red car", "--steps", "2", "--model", "lying"),
    ("sweep", "plan", "--steps", "2", "--count", "2", "--no-probe", "--model", "lying"),
    ("check", "lying"),
)
OF_CLIP = (("study", "f3", "--quick", "--prompts", "2", "--clip", "lying"),)
OF_POLICY = (
    ("generate", "a red car", "--policy", "it"),
    ("sweep", "plan", "--steps", "4", "--count", "2", "--policy", "it", "--no-probe"),
    ("demo", "--policy", "it"),
)


def _command(random: Random) -> Case:
    """An odd command line, beside odd files and whole results."""
    line, seed = commands.command_line(random), random.random()
    words = next(words for words in commands.commands() if tuple(line[: len(words)]) == words)
    stdin = random.choice((b"", b"a red car\n", b"\xff\n", b"\0", b"y\n", b"a\x1b[31m\n"))

    def prepare(folder: Path) -> None:
        commands.put_files(Random(seed))
        put_stock(folder, "sweep", "studies", "policy.json", "pictures", "statistics.npz", "array.npy")

    arguments = (*words, *SMALL.get(words, ()), *line[len(words) :])
    return Case("odd words", arguments, prepare, stdin, interrupted=3.0 if words[0] in LONG else None)


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


@cache
def _whole(part: str) -> Path:
    return folders.laid_out(part, stock() / part) if part in folders.LAID_OUT else stock() / part


def _folder(random: Random) -> Case:
    """A model whose folder lies."""
    part = random.choice(("pocket", "pocket", *folders.LAID_OUT, "pocket/clip"))
    commands = OF_CLIP if part == "pocket/clip" else OF_MODEL
    command, seed, whole = random.choice(commands), random.randrange(2**32), _whole(part)

    def prepare(folder: Path) -> None:
        list(folders.lying_folders(whole, folder / "lying", count=1, seed=seed))

    return Case(f"{part} lies, seed {seed}", command, prepare, interrupted=3.0 if command[0] == "study" else None)


@cache
def _functions() -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """The public functions with good arguments, and every (function, argument, hostile value)."""
    from conftest import _stable_diffusion

    (folder := stock() / "functions").mkdir()
    pipe = _stable_diffusion(folder, "epsilon", False)
    pipe.set_progress_bar_config(disable=True)
    (folder / "prompts.txt").write_text("a cat\n")
    found = arguments.targets(pipe, folder)
    return found, list(arguments.cases(found))


def _argument(random: Random) -> Case:
    """A public function with an argument that is no such thing."""
    found, cases = _functions()
    function, argument, hostile = random.choice(cases)

    def call() -> None:
        if (fault := arguments.fault_of(*found[function], argument, hostile)) is not None:
            raise AssertionError(fault)

    return Case(f"{function}({argument}={hostile})", call=call)


SOURCES: Final[Mapping[str, Source]] = {
    "commands": _command,
    "files": file_case,
    "stored": _stored,
    "folders": _folder,
    "arguments": _argument,
}
