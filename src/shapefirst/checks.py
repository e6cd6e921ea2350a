"""What a sampling setting may be, for all who take one; and what a file says, as a dataclass has it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

from shapefirst.errors import ShapefirstError, said

__all__ = ["BOUNDS", "check_number", "check_prompt", "check_seed", "check_steps", "check_text", "fitted"]

Kind = TypeVar("Kind")

#: What is asked for -> the least and the most of it. The most is more than anybody wants, and what a machine can still
#: count through before work begins.
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "steps": (1, 4_000),  # of sampling; no denoiser is trained with more
    "guidance scale": (0, 10_000),
    "images": (1, 100_000),  # of one call of `generate`, which holds them all
    "batch size": (1, 1_024),
    "prompts": (1, 10_000_000),
    "pairs": (1, 10_000),
    "rounds": (2, 10_000),
    "cores": (1, 10_000),
    "gpus": (0, 10_000),
    "entries": (0, 1_000),  # of a list in a grid
    "characters": (0, 1_000_000),  # of a grid
    "dots": (0, 10_000),  # in a grid, whose entries are many and not within one another
    "conditions": (1, 20_000),  # of a sweep: a policy in a setting
    "images of a sweep": (1, 10**9),  # of a policy in a setting
    "shards": (1, 100_000),
}

_SEEDS: Final = 2**63  # torch's are 64-bit; the sign is not worth the trouble
_LONGEST: Final = 10_000  # characters of a prompt; text encoders take some hundred words, and tokenizers their time
_SHOWN: Final = 30  # characters around a wrong one
_HALF: Final = re.compile(r"[\ud800-\udfff]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def check_number(value: float, kind: str, what: str, *, least: float | None = None, why: str = "") -> None:
    """Raise ShapefirstError unless a number lies within `BOUNDS`.

    Args:
        value: The number; not a number lies nowhere.
        kind: Its entry in `BOUNDS`.
        what: What the sentence calls it, such as "--steps".
        least: In place of the entry's.
        why: Of that, the reason.
    """
    low, most = BOUNDS[kind]
    low = low if least is None else least
    if low <= value <= most:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise ShapefirstError(f"{what} must be a finite number from {low:,} to {most:,}, not {value:g}.")
    bound, reason = (f"at most {most:,}", "") if value > most else (f"at least {low:,}", why and f": {why}")
    raise ShapefirstError(f"{what} must be {bound}, not {said(value)}{reason}.")


def check_seed(seed: int, images: int = 1) -> None:
    """Raise ShapefirstError unless torch takes the seeds ``seed``, ``seed + 1``, ... of so many images."""
    if not 0 <= seed <= _SEEDS - images:
        raise ShapefirstError(f"The seed must be from 0 to {_SEEDS - images}, not {said(seed)}.")


def check_steps(steps: int, scheduler: Any) -> None:
    """Raise ShapefirstError unless a diffusers scheduler can divide its training timesteps into so many steps."""
    most = scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise ShapefirstError(
            f"The number of steps must be from 1 to {most}, as the model was trained, not {said(steps)}."
        )


def check_text(text: str, what: str) -> None:
    """Raise ShapefirstError if ``text`` holds half a character (bytes of a command line that are no UTF-8, half an
    emoji of a JSON file) or a control character other than white space; ``what`` names it."""
    if text.isprintable():  # as most of a million lines are
        return
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
    }.get(first["type"], f"{first['msg'].removeprefix('Input ')}, not {said(first['input'])}")
    raise ShapefirstError(f"The entry {first['loc'][0]!r}{place} {wrong}.")
