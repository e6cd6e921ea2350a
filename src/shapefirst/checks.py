"""What a sampling setting may be, for all who take one; and what a file says, as a dataclass has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

from shapefirst.errors import ShapefirstError, shortened

__all__ = ["check_prompt", "check_seed", "check_steps", "check_text", "fitted"]

Kind = TypeVar("Kind")


_SEEDS: Final = 2**63  # torch's are 64-bit; the sign is not worth the trouble
_LONGEST: Final = 10_000  # characters of a prompt; text encoders take some hundred words, and tokenizers their time
_SHOWN: Final = 30  # characters around a wrong one
_HALF: Final = re.compile(r"[\ud800-\udfff]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def check_seed(seed: int, images: int = 1) -> None:
    """Raise ShapefirstError unless torch takes the seeds ``seed``, ``seed + 1``, ... of so many images."""
    if not 0 <= seed <= _SEEDS - images:
        raise ShapefirstError(f"The seed must be from 0 to {_SEEDS - images}, not {seed}.")


def check_steps(steps: int, scheduler: Any) -> None:
    """Raise ShapefirstError unless a diffusers scheduler can divide its training timesteps into so many steps."""
    most = scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise ShapefirstError(f"The number of steps must be from 1 to {most}, as the model was trained, not {steps}.")


def check_text(text: str, what: str) -> None:
    """Raise ShapefirstError if ``text`` holds half a character (bytes of a command line that are no UTF-8, half an
    emoji of a JSON file) or a control character other than white space; ``what`` names it."""
    if half := _HALF.search(text):
        raise ShapefirstError(f"{what} is not UTF-8 text: {_around(text, half)}; write it in UTF-8.")
    if control := _CONTROL.search(text):
        raise ShapefirstError(
            f"{what} holds the control character U+{ord(control[0]):04X}: {_around(text, control)}; take it out, or "
            "write it in UTF-8."
        )


def check_prompt(text: str, what: str) -> None:
    """As `check_text`, of a prompt: it must not be too long either."""
    check_text(text, what)
    if len(text) > _LONGEST:
        raise ShapefirstError(
            f"{what} has {len(text):,} characters, and a prompt at most {_LONGEST:,}: {text[:_SHOWN]!a}...; shorten it."
        )


def _around(text: str, found: re.Match[str]) -> str:
    """The place of a character in a long text, for a sentence."""
    return ascii(text[max(0, found.start() - _SHOWN) : found.end() + _SHOWN])


def fitted(kind: type[Kind], entries: Mapping[str, Any], place: str) -> Kind:
    """A dataclass of what a file says, each entry as pydantic reads the annotation.

    Args:
        kind: The dataclass.
        entries: Field -> value.
        place: Where they stand, for the sentence: " of 'grid.toml'".

    Raises:
        ShapefirstError: The first entry that is unknown, missing or not of its kind; or what the dataclass refuses.
    """
    from pydantic import TypeAdapter, ValidationError

    known = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
    try:
        return TypeAdapter(kind).validate_python(entries)
    except ValidationError as error:
        first = error.errors()[0]
    if isinstance(own := first.get("ctx", {}).get("error"), ShapefirstError):
        raise own
    wrong = {
        "unexpected_keyword_argument": f"is none: there are {known}",
        "missing": "is missing",
    }.get(first["type"], f"{first['msg'].removeprefix('Input ')}, not {shortened(repr(first['input']))}")
    raise ShapefirstError(f"The entry {first['loc'][0]!r}{place} {wrong}.")
