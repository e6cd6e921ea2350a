"""What a user did wrong, in one sentence that names the value and the remedy.

The command line prints such an error without a traceback and exits with code 2.
"""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from typing import Any, Final

__all__ = [
    "INTERRUPTED",
    "DeviceError",
    "ModelError",
    "PackageError",
    "ShapefirstError",
    "UnsupportedPipelineError",
    "first_line",
    "imported",
    "installing",
    "printable",
    "said",
    "sentence_of",
    "shortened",
]

#: The exit code of a command that was interrupted.
INTERRUPTED: Final = 130

_MOST: Final = 200  # characters of a value in a sentence
_LONGEST: Final = 2_000  # characters of a sentence
_VALUE: Final = re.compile(
    rf"""(?<!\w)(['"])((?:\\.|(?!\1(?!\w))[^\\])*)(?:\1(?!\w)|\Z)|\S{{{_MOST + 1},}}""", re.DOTALL
)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class ShapefirstError(ValueError):
    """A value that shapefirst cannot work with. The sentence is one line and shows no value at length."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(sentence_of(sentence))


class ModelError(ShapefirstError):
    """A model that is unknown, absent, incomplete or corrupt."""


class PackageError(ModelError):
    """A model that needs a package which is not installed."""


class DeviceError(ShapefirstError):
    """A device that is not there."""


class UnsupportedPipelineError(ShapefirstError):
    """A diffusers pipeline whose guidance shapefirst does not know how to steer."""


def imported(module: str, use: str, extra: str = "studies") -> Any:
    """A module of an extra, for a ``use`` such as "Intervals are computed".

    Raises:
        ShapefirstError: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ShapefirstError(f"{use} with {module.partition('.')[0]}: {installing(extra)}.") from error


def installing(extra: str) -> str:
    """How to get the packages of an extra; shapefirst itself is on no index."""
    try:
        needed = [one.partition(";") for one in requires("shapefirst") or ()]
    except PackageNotFoundError:
        needed = []
    wanted = [name.strip() for name, _, when in needed if re.search(rf"extra == ['\"]{extra}['\"]", when)]
    clone = f"pip install '.[{extra}]' in a clone"
    return f"pip install {' '.join(map(shlex.quote, wanted))}, or {clone}" if wanted else clone


def sentence_of(text: str) -> str:
    """The text in one line, with at most 200 characters of what stands in quotes or is one word."""
    return printable(shortened(_VALUE.sub(_short, text), _LONGEST)).replace("\n", "\\n")


def _short(found: re.Match[str]) -> str:
    quote, value = found[1] or "", found[0] if found[2] is None else found[2]
    return found[0] if len(value) <= _MOST else f"{quote}{shortened(value, _MOST)}{quote}"


def printable(text: str) -> str:
    """The text with an escape for each character that would move a terminal's cursor or turn its writing around."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def said(value: object) -> str:
    """What a sentence says of a value: at most 200 characters of it."""
    shape, kind = getattr(value, "shape", None), type(value).__name__
    if isinstance(shape, tuple):
        return f"a {kind} of {getattr(value, 'dtype', None)}, {tuple(shape)}"
    if isinstance(value, str):  # which keeps the quotes that it ends with
        return repr(shortened(str.__str__(value), _MOST - 2))
    try:
        return shortened(repr(value), _MOST) if "\n" not in repr(value) else f"a {kind}"
    except Exception:  # an integer of more digits than Python writes, lists within lists, whatever a class of one's own
        return f"a {kind} beyond all measure"


def shortened(text: str, limit: int = 60) -> str:
    """What fits into a sentence of a longer text."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def first_line(error: Exception) -> str:
    """What a library's error says first, without a full stop; the name of its class if it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = lines[0]
    if said.endswith(":") and len(lines) > 1:
        said += f" {lines[1]}"
    return shortened(said.rstrip(".:"), 200)
