"""Prompts and pairs as plain text: one a line; empty lines and lines that start with ``#`` do not count.

The two prompts of a pair, source and target, have a tab between them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from shapefirst.errors import ShapefirstError
from shapefirst.prompts.pairs import Pair
from shapefirst.prompts.prompt import Prompt, parse_phrases

__all__ = ["as_lines", "parse_prompts", "read_pairs", "read_prompts", "read_text"]


def read_prompts(source: Path | str) -> list[str]:
    """The prompts of a UTF-8 text file, or of stdin where ``source`` is "-", in order.

    Raises:
        ShapefirstError: The text cannot be read or holds no prompt.
    """
    prompts = _lines(source, "prompts")
    if not prompts:
        raise ShapefirstError(f"There is no prompt in {_place(source)}: write one a line.")
    return prompts


def parse_prompts(texts: Sequence[str]) -> list[Prompt]:
    """Prompts with what noun phrases can be read from them (see ``parse_phrases``)."""
    return [Prompt(text, parse_phrases(text)) for text in texts]


def read_pairs(source: Path | str) -> list[Pair]:
    """The pairs of a file or stdin, as ``as_lines`` writes them.

    Raises:
        ShapefirstError: The text cannot be read, holds no pair, or one of its lines is none.
    """
    pairs = []
    for line in _lines(source, "pairs"):
        texts = [text.strip() for text in line.split("\t")]
        if len(texts) != 2 or not all(texts):
            raise ShapefirstError(f"This line of {_place(source)} is no pair of prompts with a tab between: {line!r}.")
        pairs.append(Pair(*parse_prompts(texts)))
    if not pairs:
        raise ShapefirstError(f"There is no pair in {_place(source)}: write two prompts a line, a tab between them.")
    return pairs


def as_lines(items: Sequence[Prompt | Pair]) -> str:
    """The text that ``read_prompts`` or ``read_pairs`` reads again. White space within a prompt becomes one blank."""
    rows = [(item.source.text, item.target.text) if isinstance(item, Pair) else (item.text,) for item in items]
    # A prompt that starts with "#" would be taken for a remark.
    return "".join("\t".join(" ".join(text.split()).lstrip("# ") for text in row) + "\n" for row in rows)


def read_text(source: Path | str, what: str) -> str:
    """The text of a UTF-8 file, or of stdin where ``source`` is "-".

    Raises:
        ShapefirstError: It cannot be read; the sentence says that ``what`` cannot.
    """
    try:
        if str(source) != "-":
            return Path(source).read_text(encoding="utf-8-sig")
        if sys.stdin is None:
            raise ShapefirstError(f"Cannot read {what} from stdin: it is closed.")
        # As text, stdin may let pass what is no UTF-8, in a form that no tokenizer takes.
        raw = getattr(sys.stdin, "buffer", None)
        return sys.stdin.read() if raw is None else raw.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error))
        raise ShapefirstError(f"Cannot read {what} from {_place(source)}: {reason}.") from error


def _lines(source: Path | str, what: str) -> list[str]:
    lines = (line.strip() for line in read_text(source, what).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _place(source: Path | str) -> str:
    return "stdin" if str(source) == "-" else repr(str(source))
