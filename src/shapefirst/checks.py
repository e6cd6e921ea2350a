"""What a sampling setting may be, for all who take one; and what a file says, as a dataclass has it."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from shapefirst.errors import ShapefirstError, said, shortened
from shapefirst.signatures import From

__all__ = [
    "BOUNDS",
    "Steps",
    "Strict",
    "check_number",
    "check_prompt",
    "check_seed",
    "check_side",
    "check_steps",
    "check_text",
    "fitted",
    "json_of",
    "number_in",
    "share_in",
]

Kind = TypeVar("Kind")

#: What is asked for -> the least and the most of it. The most is more than anybody wants, and what a machine can still
#: count through before work begins.
BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "steps": (1, 4_000),  # of sampling; no denoiser is trained with more
    "guidance scale": (0, 10_000),
    "side": (16, 8_192),  # of an image, in pixels
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
    "steps of the studio": (1, 200),  # others wait in its queue
    "images of the studio": (1, 4),
    "side of the studio": (64, 1_536),  # of a picture, in pixels
}

#: N, of a generation.
Steps: TypeAlias = Annotated[int, From(*BOUNDS["steps"])]

_SEEDS: Final = 2**63  # torch's are 64-bit; the sign is not worth the trouble
_LONGEST: Final = 10_000  # characters of a prompt; text encoders take some hundred words, and tokenizers their time
_MOST_BYTES: Final = 2**24  # of JSON; in memory they may be thirty times as many
_MOST_ENTRIES: Final = 2**18  # of JSON; pydantic takes a kilobyte to say what is wrong with each
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


def number_in(value: object, what: str) -> float:
    """A number, which may be written as text.

    Raises:
        ShapefirstError: It is none; ``what`` names it.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ShapefirstError(f"{what} must be a number, not {said(value)}.") from None


def share_in(value: object, what: str, like: str) -> float:
    """A share of a whole as people write it, 0.6 or "60%"; who takes it says how much it may be.

    Args:
        value: The share.
        what: Names it in a sentence.
        like: How it is written, such as "budget={}", for what was likely meant by 60.

    Raises:
        ShapefirstError: It is no number, or one of percent without their sign.
    """
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return number_in(value.rstrip()[:-1], what) / 100
    number = number_in(value, what)
    if not math.isfinite(number):
        raise ShapefirstError(f"{what} must be a finite number, not {number:g}.")
    if 5 <= number <= 100:
        meant = f"{like.format(f'{number / 100:g}')} or {number:g}%"
        raise ShapefirstError(f"{what} is a share of the whole and at most 1, not {number:g}: did you mean {meant}?")
    return number


def check_seed(seed: int, images: int = 1) -> None:
    """Raise ShapefirstError unless torch takes the seeds ``seed``, ``seed + 1``, ... of so many images."""
    if not 0 <= seed <= _SEEDS - images:
        raise ShapefirstError(f"The seed must be from 0 to {_SEEDS - images}, not {said(seed)}.")


def check_side(pixels: int, what: str) -> None:
    """Raise ShapefirstError unless an image can have a side of so many pixels, of which 8 or more are one latent."""
    check_number(pixels, "side", what)
    if pixels % 8:
        raise ShapefirstError(f"{what} must be a multiple of 8 pixels, not {pixels}: say {pixels - pixels % 8}.")


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


def check_prompt(text: str, what: str, most: int = _LONGEST) -> None:
    """As `check_text`, of a prompt: it must not have more than so many characters either."""
    check_text(text, what)
    if len(text) > most:
        raise ShapefirstError(
            f"{what} has {len(text):,} characters, and a prompt at most {most:,}: {text[:_SHOWN]!a}...; shorten it."
        )


def _around(text: str, found: re.Match[str]) -> str:
    """The place of a character in a long text, for a sentence."""
    return ascii(text[max(0, found.start() - _SHOWN) : found.end() + _SHOWN])


def json_of(content: bytes) -> Any:
    """What a file of JSON says that this program wrote, and anybody may have changed since.

    Raises:
        ValueError: It is no JSON in UTF-8, or has what is never written: an entry twice, a number that is not finite or
            does not go into 64 bits, half a character, brackets in brackets without end, or far too much. It says
            which, in a few words.
    """
    if len(content) > _MOST_BYTES or content.count(b",") > _MOST_ENTRIES:
        raise ValueError(f"its {len(content):,} bytes hold more than it should")
    try:
        found = json.loads(
            content.decode("utf-8-sig"),
            object_pairs_hook=_once,
            parse_int=_sixty_four_bits,
            parse_float=_finite,
            parse_constant=_finite,
        )
        json.dumps(found, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("its brackets are nested without end") from error
    except UnicodeEncodeError as error:
        raise ValueError("it holds half a character, \\ud800 to \\udfff") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError("it is cut off or no longer JSON") from error
    return found


def _once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(entries)
    if len(found) < len(entries):
        twice, _ = Counter(name for name, _ in entries).most_common(1)[0]
        raise ValueError(f"it has the entry {shortened(twice)!r} twice")
    return found


def _sixty_four_bits(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) >= 2**64:
        raise ValueError(f"its number {shortened(digits)} does not go into 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"its number {shortened(digits)} is not finite")
    return number


class Strict:
    """In an annotation: `fitted` takes nothing else for it, no text or truth for a number. It needs no pydantic."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return {**handler(source), "strict": True}


def fitted(kind: type[Kind], entries: Any, place: str) -> Kind:
    """A dataclass of what a file says, each entry as pydantic reads the annotation.

    Args:
        kind: The dataclass.
        entries: Field -> value.
        place: Where they stand, for the sentence: " of 'grid.toml'".

    Raises:
        ShapefirstError: The first entry that is unknown, missing or not of its kind; or what the dataclass refuses.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(entries)
    except ValidationError as error:
        first = error.errors()[0]
    if isinstance(own := first.get("ctx", {}).get("error"), ShapefirstError):
        raise own
    where = [shortened(part) for part in first["loc"] if isinstance(part, str)]
    given = said(first["input"])
    if not where:
        raise ShapefirstError(f"The content{place} is no table of entries, but {given}.")
    known = f": there are {', '.join(field.name for field in fields(kind))}" if len(where) == 1 else ""  # type: ignore[arg-type]
    wrong = {
        "unexpected_keyword_argument": f"is none{known}",
        "missing": "is missing",
    }.get(first["type"], f"{first['msg'].removeprefix('Input ')}, not {given}")
    raise ShapefirstError(f"The entry {'.'.join(where)!r}{place} {wrong}.")
