"""Prompts from plain text: one a line; empty lines and lines that start with ``#`` do not count."""

from __future__ import annotations

import sys
from pathlib import Path

from shapefirst.errors import ShapefirstError

__all__ = ["read_prompts"]


def read_prompts(source: Path | str) -> list[str]:
    """The prompts of a UTF-8 text file, or of stdin where ``source`` is "-", in order.

    Raises:
        ShapefirstError: The text cannot be read or holds no prompt.
    """
    place = "stdin" if str(source) == "-" else repr(str(source))
    try:
        text = sys.stdin.read() if str(source) == "-" else Path(source).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else (error.strerror or str(error))
        raise ShapefirstError(f"Cannot read prompts from {place}: {reason}.") from error
    lines = (line.strip() for line in text.splitlines())
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise ShapefirstError(f"There is no prompt in {place}: write one a line.")
    return prompts
