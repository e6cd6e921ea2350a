"""Runs killed at any moment, or at one operation on a file, and run again to the end: what is there then is what a run
makes that nobody disturbs, and nothing beside it. make kills KILLS=100, make kills ONLY=NAME again.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from fuzz.cases import Case
from fuzz.trial import Trial, Verdict, warm

LONG = 600.0  # seconds of a run
HOWS = ("time", "operation", "operation", "second")
GENERATIONS, SETTLED, GROWTH = 300, 50, 1.05


def _small_tune() -> None:
    """Few prompts, and no clock in what is chosen: times are never twice the same."""
    from shapefirst.cli import tune
    from shapefirst.tuning.candidates import Costs
    from shapefirst.tuning.search import Tuner

    tune.FEWEST = 2  # type: ignore[misc]
    Tuner.costs = lambda self, tick: Costs(guided=1.0, one=0.5, none=0.0, rest=0.1)  # type: ignore[method-assign]


def _stages_here() -> None:
    """Stages in this process, which is killed as a whole; they have all imports behind them."""
    from shapefirst.training import stage, stages
    from shapefirst.world import renders

    class Here:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...
        def map(self, function: Callable[[Any], Any], items: Sequence[Any]) -> Any:
            return map(function, items)

    def run(command: Sequence[str], environment: Any) -> int:
        out, preset, seed, name = command[-4:]
        stage.run_stage(Path(out), preset, int(seed), name)
        return 0

    renders.ProcessPoolExecutor = Here  # type: ignore[misc,assignment]
    stages.exit_code = run


STAGES = ("render", "teacher", "text", "autoencoder", "encode", "denoiser", "vision", "judge", "export")
#: Command -> its words, and what makes it small.
RUNS: dict[str, tuple[list[str], Callable[[], None]]] = {
    "sweep": (
        [
            *("sweep", "run", "--steps", "4", "--text-steps", "50%", "--count", "6", "--shard-size", "1"),
            *("--images", "sample", "--out", "it"),
        ],
        lambda: None,
    ),
    "study": (["study", "f3", "a2", "--quick", "--prompts", "2", "--out", "it"], lambda: None),
    "tune": (["tune", "--steps", "10", "--out", "it/policy.json"], _small_tune),
    "train-pocket": (
        ["train-pocket", "--preset", "smoke", "--out", "it", *(w for s in STAGES for w in ("--stage", s))],
        _stages_here,
    ),
}


class Operations:
    """Counts what a forked process does to files below its folder, and kills it before one of them."""

    EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")

    def __init__(self, fatal: int = 0) -> None:
        self._fatal, self._count = fatal, mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        found: int = struct.unpack("q", self._count[:8])[0]
        return found

    def watch(self) -> None:
        here = str(Path.cwd())

        def seen(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open":
                path, _, flags = arguments
                if not isinstance(path, str | bytes | os.PathLike) or not flags & (os.O_WRONLY | os.O_RDWR):
                    return
            elif event in self.EVENTS:
                path = arguments[0]
            else:
                return
            if str(Path(os.fsdecode(path)).absolute()).startswith(here):
                self._count[:8] = struct.pack("q", self.count + 1)
                if self.count == self._fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(seen)


def begun(name: str, folder: Path, operations: Operations | None = None) -> Trial:
    words, small = RUNS[name]

    def before() -> None:
        small()
        if operations is not None:
            operations.watch()

    return Trial(name, Case(name, tuple(words), exits=(0,)), before, folder, seconds=LONG)


def ended(trial: Trial) -> Verdict:
    while (verdict := trial.poll()) is None:
        time.sleep(0.02)
    trial.close()
    return verdict


def results(folder: Path) -> dict[str, Any]:
    """What is in a folder of results, without what is another at each run: seconds."""
    return {str(file.relative_to(folder)): _content(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def _content(file: Path) -> Any:
    if file.suffix == ".parquet":
        from pyarrow import parquet

        return parquet.read_table(file).replace_schema_metadata(None)
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return {name: tensor.numpy().tobytes() for name, tensor in load_file(file).items()}
    if file.suffix in (".json", ".jsonl") and file.name not in ("vocab.json", "tokenizer.json"):
        lines = [file.read_text()] if file.suffix == ".json" else file.read_text().splitlines()
        return repr([_timeless(json.loads(line)) for line in lines])
    if file.suffix == ".html":
        return None
    return file.read_bytes()


def _timeless(content: Any) -> Any:
    """Without seconds, and without digests of files that hold them."""
    if isinstance(content, dict):
        return {k: _timeless(v) for k, v in content.items() if k not in ("seconds", "time saved", "digest", "files")}
    return [_timeless(one) for one in content] if isinstance(content, list) else content


def differences(there: dict[str, Any], expected: dict[str, Any]) -> str:
    """In words, or "" where there are none."""
    lost, more = sorted(expected.keys() - there), sorted(there.keys() - expected)
    other = [
        name
        for name in expected.keys() & there
        if not (there[name].equals(expected[name]) if hasattr(there[name], "equals") else there[name] == expected[name])
    ]
    said = (("lost", lost), ("more", more), ("other", sorted(other)))
    return "; ".join(f"{what}: {', '.join(names[:5])}" for what, names in said if names)


class Undisturbed:
    """What each run makes when it is left alone, and what that takes."""

    def __init__(self, names: Sequence[str], root: Path) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, int] = {}
        for name in names:
            folder, operations = root / f"{name}-undisturbed", Operations()
            verdict = ended(begun(name, folder, operations))
            assert verdict.exit == 0, f"{name}: {verdict.said}"
            assert not verdict.faults, str(verdict)
            self.results[name], self.seconds[name] = results(folder), verdict.seconds
            self.operations[name] = operations.count


def disturbed(name: str, undisturbed: Undisturbed, root: Path) -> tuple[str, str, str]:
    """A run that is killed, or met by a second one. Returns the name, what was done and what was wrong with it."""
    run, how, _ = name.split(":", 2)
    dice = random.Random(name)
    folder = root / name.replace(":", "-")
    after = dice.uniform(0, undisturbed.seconds[run])
    if how == "operation":
        fatal = dice.randint(1, undisturbed.operations[run])
        what = f"killed at operation {fatal} of {undisturbed.operations[run]}"
        first = ended(begun(run, folder, Operations(fatal)))
        wrong = "" if first.exit == -signal.SIGKILL else f"was not killed: {first.exit}, {first.said}"
    elif how == "time":
        what = f"killed after {after:.2f} s"
        first = _killed(begun(run, folder), after)
        wrong = "" if first.exit in (0, -signal.SIGKILL) else f"{first.exit}: {first.said}"
    else:
        what = f"met by a second one after {after:.2f} s"
        wrong = _met(run, folder, after)
    again = ended(begun(run, folder))
    if again.faults or again.exit:
        wrong += f" again: {again.exit} {again.faults} {again.said}"
    return name, what, (wrong + differences(results(folder), undisturbed.results[run])).strip()


def _killed(trial: Trial, after: float) -> Verdict:
    until = time.monotonic() + after
    while time.monotonic() < until:
        if (verdict := trial.poll()) is not None:
            trial.close()
            return verdict
        time.sleep(0.005)
    os.kill(trial.process, signal.SIGKILL)
    return ended(trial)


def _met(run: str, folder: Path, after: float) -> str:
    """The first goes on; the second is refused, unless the first has ended."""
    first = begun(run, folder)
    time.sleep(after)
    second = begun(run, folder)
    said, verdicts = "", []
    while len(verdicts) < 2:
        time.sleep(0.01)
        for trial in (first, second):
            if trial not in [one for one, _ in verdicts] and (verdict := trial.poll()) is not None:
                trial.close()
                verdicts.append((trial, verdict))
    exits = sorted(verdict.exit for _, verdict in verdicts)
    refused = [verdict.said for _, verdict in verdicts if verdict.exit == 2]
    if exits not in ([0, 0], [0, 2]) or not all("is in use by" in one for one in refused):
        said = f"ended with {exits}: {[verdict.said for _, verdict in verdicts]} "
    return said


def generations(folder: Path) -> str:
    """What is wrong with the memory of a process that makes image after image, under policies in turn."""
    sizes: list[int] = []
    shared = mmap.mmap(-1, 8 * GENERATIONS)
    policies = ("budget:0.6", "every:2", "tol:0.01", "paper:2", "full")

    def work() -> None:
        from shapefirst import guide, load
        from shapefirst.policies.words import policy_of

        pipe = load("pocket")
        pipe.set_progress_bar_config(disable=True)
        for number in range(GENERATIONS):
            with guide(pipe, policy_of(pipe, policies[number % len(policies)])):
                pipe("a red car", num_inference_steps=12)
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            shared[8 * number : 8 * number + 8] = struct.pack("q", pages * os.sysconf("SC_PAGE_SIZE"))

    verdict = ended(Trial("generations", Case("generations", call=work), folder=folder, seconds=LONG))
    sizes = list(struct.unpack(f"{GENERATIONS}q", shared[:]))
    early, late = sizes[SETTLED - 1] / 2**20, sizes[-1] / 2**20
    print(f"{GENERATIONS} generations: {early:.0f} MB after {SETTLED}, {late:.0f} MB after {GENERATIONS}.")
    if verdict.exit or not early or late > GROWTH * early:
        return f"exit {verdict.exit}, {early:.0f} MB and then {late:.0f} MB: {verdict.said}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", action="append", metavar="NAME", help="of an earlier run, a command, or generations")
    asked = parser.parse_args()
    console, started = Console(stderr=True), time.monotonic()
    runs = [run for run in asked.only or RUNS if run in RUNS]
    numbers = range(asked.kills if runs else 0)
    names = [f"{runs[n % len(runs)]}:{HOWS[n // len(runs) % len(HOWS)]}:{asked.seed}:{n}" for n in numbers]
    names += [name for name in asked.only or () if ":" in name]
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        root = Path(place)
        warm(root)
        undisturbed = Undisturbed(sorted({name.partition(":")[0] for name in names}), root)
        task = partial(disturbed, undisturbed=undisturbed, root=root)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with get_context("fork").Pool(asked.workers) as pool, Progress(*columns, console=console) as bar:
            shown = bar.add_task("", total=len(names))
            for name, what, said in pool.imap_unordered(task, names):
                bar.update(shown, advance=1)
                wrong[name.partition(":")[0]] += bool(said)
                if said:
                    bar.console.print(f"{name} ({what}): {said}", markup=False, highlight=False, soft_wrap=True)
        if not asked.only or "generations" in asked.only:
            wrong["memory"] += bool(said := generations(root / "generations"))
            print(said, end="")
    each = Counter(name.rpartition(":")[0].rpartition(":")[0] for name in names)
    print(
        f"{len(names)} runs disturbed ({', '.join(f'{count} {kind}' for kind, count in sorted(each.items()))}): "
        f"{wrong.total()} lost, doubled or left something; {(time.monotonic() - started) / 60:.1f} minutes."
    )
    return 1 if wrong.total() else 0


if __name__ == "__main__":
    sys.exit(main())
