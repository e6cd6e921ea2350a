"""A case carried out, in a process forked from this one, which has all imports behind it; and what was wrong with it.

Of a case that hangs the verdict tells where it does.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.cases import CANARY, Case
from fuzz.stock import stock

__all__ = ["FAULTS", "Trial", "Verdict", "carried_out", "warm"]

FAULTS = (
    "tracebacks",
    "wrong exits",
    "no sentence",
    "hangs",
    "memory",
    "leftovers",
    "control characters",
    "foreign code",
)
SECONDS = 10  # of the processor: what else a machine has to do is no fault of ours; and as long for what only waits
MEMORY = 2 * 1024**3  # above what the imports take
LONGEST = 1000  # characters of a sentence, in which a value has 200 at most
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
BROKEN = 99  # the exit code of a case that could not be prepared
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Verdict:
    """What became of a case: faults by their kind, each with what shows it."""

    name: str
    case: Case
    exit: int
    seconds: float
    memory: int
    said: str
    faults: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        command = "a call" if self.case.call else f"shapefirst {shlex.join(map(ascii_only, self.case.arguments))}"
        found = "; ".join(f"{kind}: {detail}" for kind, detail in self.faults.items())
        return f"{self.name} ({self.case.what}): {shortly(command)}\n    {found}"


def ascii_only(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


def shortly(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def where(said: str) -> str:
    """The innermost line of ours in what faulthandler has written."""
    lines = [line.strip() for line in said.splitlines() if "shapefirst" in line and "line" in line]
    return shortly(lines[0] if lines else said)


def warm(folder: Path) -> None:
    """Imports what commands import and loads pocket, so that a forked process starts with it. No thread is left, as a
    forked process would have its locks without it."""
    os.environ |= {
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
    }
    for name in ("FORCE_COLOR", "COLUMNS", "PYTHONWARNINGS"):
        os.environ.pop(name, None)
    import tqdm

    tqdm.tqdm.monitor_interval = 0
    import torch

    torch.set_num_threads(1)
    for module in HEAVY:
        __import__(module)
    from shapefirst.cli.app import app

    for command in (["check", "StableDiffusionPipeline"], ["study", "--list"], ["models"]):
        _quietly(app, command)
    stock()
    _quietly(
        app, ["generate", "a red car", "--steps", "2", "--text-steps", "1", "--compare", "--out", str(folder / "warm")]
    )


HEAVY = (
    "matplotlib.figure",
    "pyarrow.parquet",
    "scipy.special",
    "shapefirst.images.demo",
    "shapefirst.images.gallery",
    "shapefirst.measure.inception",
    "shapefirst.models.fingerprint",
    "shapefirst.models.pipelines",
    "shapefirst.report",
    "shapefirst.studies.runner",
    "shapefirst.sweep.latency",
    "shapefirst.sweep.probe",
    "shapefirst.sweep.reference",
    "shapefirst.sweep.report",
    "shapefirst.sweep.run",
    "shapefirst.training.stages",
    "shapefirst.tuning.runner",
)


def _quietly(app: object, command: list[str]) -> None:
    from typer.testing import CliRunner

    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, f"{command}: {result.output}"


class Trial:
    """A case that runs.

    Args:
        name: Of the case, which repeats it.
        case: What to call.
        before: Called in the forked process before the call.
        folder: Where it runs, to be kept; by default a new one, which goes with it.
        seconds: Of the processor, that it may take.
    """

    def __init__(
        self,
        name: str,
        case: Case,
        before: Callable[[], object] = lambda: None,
        folder: Path | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self.name, self.case, self._seconds = name, case, seconds
        self._root = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.place = folder or self._root / "here"
        for made in (self.place, self._root / "home", self._root / "tmp"):
            made.mkdir(exist_ok=True)
        (self._root / "stdin").write_bytes(case.stdin)
        self._peak, self._fault, self._prepared, self._interrupted = 0, "", False, False
        self._imports = _rss(os.getpid())
        sys.stdout.flush()
        sys.stderr.flush()
        self._began = time.monotonic()
        self._computed = -1.0, self._began
        self.process = os.fork()
        if self.process == 0:
            code = BROKEN
            try:
                code = self._run(before)
            finally:
                os._exit(code)

    def poll(self) -> Verdict | None:
        """The verdict, once the process has ended; one that takes too long or too much is ended."""
        done, status, used = os.wait4(self.process, os.WNOHANG)
        if done:
            self._end()  # those that it has started
            peak = max(self._peak, used.ru_maxrss * 1024)
            return self._judged(os.waitstatus_to_exitcode(status), peak - self._imports)
        if not self._prepared:
            self._prepared = (self._root / "before").exists()
            self._began = time.monotonic()
        seconds = time.monotonic() - self._began
        self._peak = max(self._peak, _rss(self.process))
        if self._peak - self._imports > MEMORY:
            self._stop("memory")
        elif _cpu(self.process) > self._seconds or self._waits():
            self._stop("hangs")
        elif self.case.interrupted is not None and not self._interrupted and seconds > self.case.interrupted:
            self._interrupted = True
            os.killpg(self.process, signal.SIGINT)
        return None

    def _waits(self) -> bool:
        """Whether it has computed nothing for long."""
        computed, now = _cpu(self.process), time.monotonic()
        if computed > self._computed[0]:
            self._computed = computed, now
        return now - self._computed[1] > SECONDS

    def _stop(self, fault: str) -> None:
        self._fault = fault
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGUSR1)
            time.sleep(0.2)
        self._end()

    def _end(self) -> None:
        """The process, and those that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process, signal.SIGKILL)

    def close(self) -> None:
        """Takes away what the case has left."""
        for folder, _, _ in os.walk(self._root):
            Path(folder).chmod(0o700)
        shutil.rmtree(self._root, ignore_errors=True)

    def _run(self, before: Callable[[], object]) -> int:
        """In the forked process: the exit code."""
        os.setpgid(0, 0)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
            os.dup2(os.open(self._root / name, flags, 0o600), number)
        sys.stdin, sys.stdout, sys.stderr = (
            open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
            for number, mode, errors in ((0, "r", "surrogateescape"), (1, "w", "strict"), (2, "w", "backslashreplace"))
        )
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has jobs in the background ignore it
        faulthandler.register(signal.SIGUSR1, file=sys.stderr)
        os.environ |= {"HOME": str(self._root / "home"), "TMPDIR": str(self._root / "tmp")}
        tempfile.tempdir = None
        os.chdir(self.place)
        self.case.prepare(self.place)
        (self._root / "lying").write_bytes(pickle.dumps(self._lying()))
        (self._root / "lying").rename(self._root / "before")
        virtual = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (virtual + 2 * MEMORY,) * 2)
        before()
        try:
            return self._called()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def _called(self) -> int:
        from shapefirst.__main__ import main
        from shapefirst.errors import ShapefirstError

        try:
            if self.case.call is None:
                sys.argv = ["shapefirst", *(argument.replace("\0", "") for argument in self.case.arguments)]
                main()
            else:
                self.case.call()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except ShapefirstError as error:
            sys.stderr.write(f"Error: {error}\n")
            return 2 if self.case.call else _traceback()
        except BaseException:
            return _traceback()
        return 0

    def _lying(self) -> dict[str, tuple[int, ...]]:
        """Everything in the case's folders, with what shows that it was changed."""
        found = {}
        for top in {self.place, self._root / "home", self._root / "tmp"}:
            for folder, folders, files in os.walk(top):
                for name in (*folders, *files):
                    path = Path(folder, name)
                    what = path.lstat()
                    kept = () if stat.S_ISDIR(what.st_mode) else (what.st_size, what.st_mtime_ns, what.st_ino)
                    found[os.path.relpath(path, top)] = (what.st_mode, *kept)
        return found

    def _judged(self, code: int, memory: int) -> Verdict:
        seconds = time.monotonic() - self._began
        stdout, stderr = ((self._root / name).read_bytes() for name in ("stdout", "stderr"))
        said = stderr.decode(errors="backslashreplace")
        faults = {}
        if self._fault:
            faults[self._fault] = f"stopped after {seconds:.0f} s, {memory / 1024**3:.1f} GB {where(said)}"
        elif code == BROKEN or not (self._root / "before").exists():
            faults["wrong exits"] = f"the case could not be prepared: {shortly(said)}"
        else:
            faults = self._found(code, stdout, said)
            if memory > MEMORY:
                faults["memory"] = f"{memory / 1024**3:.1f} GB"
        return Verdict(self.name, self.case, code, seconds, memory, said, faults)

    def _found(self, code: int, stdout: bytes, said: str) -> dict[str, str]:
        faults = {}
        last = shortly(said.strip().rpartition("\n")[2], 300)
        if "Traceback (most recent call last)" in said:
            faults["tracebacks"] = last
        elif code not in (*self.case.exits, *([130] if self._interrupted else [])):
            faults["wrong exits"] = f"{code}: {last}"
        elif code == 2:
            sentences = re.findall(r"^Error: .*", said, re.MULTILINE)
            if len(sentences) != 1 or not last.startswith("Error: "):
                faults["no sentence"] = shortly(said)
            elif len(sentences[0]) > LONGEST:
                faults["no sentence"] = shortly(sentences[0])
        if control := CONTROL.search(said.encode() + stdout):
            faults["control characters"] = ascii_only(repr(control[0]))
        before, after = pickle.loads((self._root / "before").read_bytes()), self._lying()
        changed = sorted(path for path in before | after if before.get(path) != after.get(path))
        if any(Path(path).name == CANARY for path in changed):
            faults["foreign code"] = "the canary was touched"
        if code not in (0, 1, 130):
            left = changed
        else:
            left = [path for path in changed if path in after and re.search(r"\.(part|lock)$", path)]
        if left:
            faults["leftovers"] = ascii_only(", ".join(map(shortly, left[:5])))
        return faults


def _traceback() -> int:
    traceback.print_exc()
    return 1


def _rss(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def _cpu(process: int) -> float:
    """Seconds of a process and of those that it has waited for."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICK


def carried_out(cases: Iterable[tuple[str, Case]], workers: int) -> Iterator[Verdict]:
    """Verdicts on (name, case), so many at a time, as they come."""
    running: list[Trial] = []
    todo = iter(cases)
    try:
        while True:
            while len(running) < workers and (following := next(todo, None)) is not None:
                running.append(Trial(*following))
            if not running:
                return
            time.sleep(0.01)
            for trial in list(running):
                if (verdict := trial.poll()) is not None:
                    running.remove(trial)
                    trial.close()
                    yield verdict
    finally:
        for trial in running:
            trial._end()
            trial.close()
