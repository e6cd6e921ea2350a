"""What a case is. A source of cases is a function that makes one of them out of a generator of random numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TypeAlias

__all__ = ["CANARY", "FAIR", "Case", "Source"]

#: The exit codes of a case that may be good or bad input.
FAIR = (0, 2)
#: The name of a file that code of a case's own writes: that it lies anywhere shows that the code ran.
CANARY = "canary"


@dataclass(frozen=True)
class Case:
    """One call of the command line, or of a function, in an empty folder.

    Attributes:
        what: A few words on what is odd about it.
        arguments: Of the command line. The current folder is the case's own, so names are relative to it.
        prepare: Puts files into the case's folder, which it is given and which is the current one. Where the call ends
            with 2 they stay as they are, and nothing lies beside them that was not there before.
        stdin: What the command line reads.
        exits: The exit codes that are right: (2,) where the input cannot be good.
        interrupted: Seconds after which the user presses Ctrl-C; 130 is right then, too.
        call: A function to call in place of the command line; it may return, or raise a `ShapefirstError`.
    """

    what: str
    arguments: Sequence[str] = ()
    prepare: Callable[[Path], object] = lambda folder: None
    stdin: bytes = b""
    exits: Collection[int] = FAIR
    interrupted: float | None = None
    call: Callable[[], object] | None = None


Source: TypeAlias = Callable[[Random], Case]
