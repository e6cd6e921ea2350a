"""What the command line prints: results on stdout, everything about them (progress, warnings, errors) on stderr.

Where tables are asked for as JSON, nothing else is on stdout, and what a command says beside them is on stderr.
"""

from __future__ import annotations

import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Final

from rich.console import Console
from rich.text import Text

from shapefirst.errors import printable, shortened

__all__ = [
    "as_json",
    "counting",
    "error",
    "line",
    "listed",
    "note",
    "out",
    "progress",
    "remark",
    "say_tables_as_json",
    "spare_no_character",
    "stdout",
    "warning",
    "warnings_as_lines",
    "working",
]

LOGGED_EVERY: Final = 60  # seconds between two lines of progress
_LONGEST: Final = 500  # characters of a warning: libraries show whole configurations
_WIDE: Final = 200  # where no terminal sets a width, lines must not break: file names are for other programs to read


_json: ContextVar[bool] = ContextVar("json", default=False)


def say_tables_as_json(wanted: bool) -> None:
    """Whether the tables of the command that begins are JSON."""
    _json.set(wanted)


def as_json() -> bool:
    """Whether tables are JSON."""
    return _json.get()


def spare_no_character() -> None:
    """Lets both streams write what their encoding lacks as an escape: an ASCII terminal is no reason to stop."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stdout() -> Console:
    """Stdout."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def line(text: str) -> None:
    """Plain text on stdout, never wrapped; beside JSON on stderr."""
    if as_json():
        remark(text)
    else:
        out(printable(text))


def out(text: str) -> None:
    """What is made for stdout, as it is, with its tabs."""
    print(text)


def error(sentence: str) -> None:
    """One line that says what was wrong with the input."""
    _say("Error", "bold red", sentence)


def warning(sentence: str) -> None:
    """One line on what will not be as asked for."""
    _say("Warning", "bold yellow", sentence)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """What Python warns of within the block, as `warning` does, each thing once: nobody here has written the line of
    code that it would show."""
    told: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        sentence = shortened(" ".join(str(message).split()), _LONGEST)
        if sentence not in told:
            told.add(sentence)
            warning(sentence)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def note(sentence: str) -> None:
    """One line worth knowing."""
    _say("Note", "bold cyan", sentence)


def listed(words: Sequence[str], most: int = 5) -> str:
    """The first of some words, in quotes."""
    return ", ".join(repr(shortened(word)) for word in words[:most]) + " and others" * (len(words) > most)


def remark(text: str) -> None:
    """One line on what was just done."""
    _stderr().print(printable(text), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def working(what: str) -> Iterator[None]:
    """A sign of life while ``what`` goes on for an unknown time; on a terminal only."""
    console = _stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(Text(what)):
        yield


@contextmanager
def progress(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """A bar with the time left; where there is no terminal, a line now and then.

    Yields a function that takes how much of ``total`` is done.
    """
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = _stderr()
    if not console.is_terminal:
        yield _logged(what, total)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def counting(what: str, total: float) -> Iterator[Callable[[float], None]]:
    """As `progress`, of what comes bit by bit: yields a function that takes how much more of ``total`` is done."""
    with progress(what, total) as report:
        done = 0.0

        def add(more: float) -> None:
            nonlocal done
            done += more
            report(min(done, total))

        yield add


def _logged(what: str, total: float) -> Callable[[float], None]:
    """What a log of many hours is read for; nothing of what is done within seconds."""
    begun = said = time.monotonic()

    def update(done: float) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < LOGGED_EVERY or not 0 < done < total:
            return
        said = now
        passed = now - begun
        after, left = (timedelta(seconds=round(seconds)) for seconds in (passed, passed * (total - done) / done))
        remark(f"{what}: {done / total:.0%} after {after}, about {left} left")

    return update


def _say(kind: str, style: str, sentence: str) -> None:
    with suppress(OSError):  # a stderr that takes nothing: the exit code says it all the same
        _stderr().print(Text.assemble((f"{kind}: ", style), printable(sentence)), soft_wrap=True)


def _stderr() -> Console:
    return Console(stderr=True)
