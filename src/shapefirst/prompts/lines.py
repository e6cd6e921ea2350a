"""Prompts and pairs as plain text: one a line; empty lines and lines that start with ``#`` do not count.

The two prompts of a pair, source and target, have a tab between them.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

from shapefirst.checks import check_prompt
from shapefirst.errors import ShapefirstError, shortened
from shapefirst.prompts.pairs import Pair
from shapefirst.prompts.prompt import Prompt, parse_phrases
from shapefirst.signatures import Place, guarded

__all__ = [
    "CAPTION_COLUMNS",
    "TABLES",
    "as_lines",
    "is_data",
    "parse_prompts",
    "place_of",
    "read_pairs",
    "read_prompts",
    "read_text",
]

#: By which a table of captions is known.
CAPTION_COLUMNS: Final = ("prompt", "caption", "text")
#: Endings of files that hold captions, not lines.
TABLES: Final = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")

_NOTHING: Final = frozenset({"none", "null", "nan", "<na>", "true", "false"})
_LIST: Final = re.compile(r"""[\[{]\s*(?:['"\[{].*|[\d\s.,-]*)[\]}]""", re.DOTALL)
_LINE: Final = re.compile(r"\r\n|\r|\n")
_MARK: Final = "\ufeff"  # of byte order
_LARGEST: Final = 256 * 1024**2  # bytes; all captions of MS-COCO take 144 MB
_PIECE: Final = 2**20  # bytes; room is made for as many as are asked for, whether they are there or not


@guarded
def read_prompts(source: Path | Place) -> list[str]:
    """The prompts of a UTF-8 text file, or of stdin where ``source`` is "-", in order.

    Raises:
        ShapefirstError: The text cannot be read, holds no prompt, is a table or JSON, or one of its lines is no prompt.
    """
    prompts = []
    for where, line in _lines(source, "prompts"):
        if "\t" in line:
            raise ShapefirstError(
                f"{where} has a tab in it, as a table or pairs of prompts have: {shortened(line)!r}; write a prompt."
            )
        _check(line, where)
        prompts.append(line)
    if not prompts:
        raise ShapefirstError(f"There is no prompt in {place_of(source)}: write one a line.")
    return prompts


@guarded
def parse_prompts(texts: Sequence[str]) -> list[Prompt]:
    """Prompts with what noun phrases can be read from them (see ``parse_phrases``)."""
    return [Prompt(text, parse_phrases(text)) for text in texts]


def read_pairs(source: Path | str) -> list[Pair]:
    """The pairs of a file or stdin, as ``as_lines`` writes them.

    Raises:
        ShapefirstError: The text cannot be read, holds no pair, is a table or JSON, or one of its lines is no pair.
    """
    pairs = []
    for where, line in _lines(source, "pairs"):
        texts = [text.strip() for text in line.split("\t")]
        if len(texts) != 2 or not all(texts):
            raise ShapefirstError(
                f"This line of {place_of(source)} is no pair of prompts with a tab between: {shortened(line)!r}."
            )
        for text in texts:
            _check(text, where)
        pairs.append(Pair(*parse_prompts(texts)))
    if not pairs:
        raise ShapefirstError(f"There is no pair in {place_of(source)}: write two prompts a line, a tab between them.")
    return pairs


def as_lines(items: Sequence[Prompt | Pair]) -> str:
    """The text that ``read_prompts`` or ``read_pairs`` reads again. White space within a prompt becomes one blank."""
    rows = [(item.source.text, item.target.text) if isinstance(item, Pair) else (item.text,) for item in items]
    # A prompt that starts with "#" would be taken for a remark.
    return "".join("\t".join(" ".join(text.split()).lstrip("# ") for text in row) + "\n" for row in rows)


def is_data(text: str) -> bool:
    """Whether a text is what programs write for a list, an object or nothing at all: "['a', 'b']", "None", "nan"."""
    return text.casefold() in _NOTHING or (text.startswith(("[", "{")) and _LIST.fullmatch(text) is not None)


def read_text(source: Path | str, what: str) -> str:
    """The text of a UTF-8 file, or of stdin where ``source`` is "-", without marks of byte order.

    Raises:
        ShapefirstError: It cannot be read; the sentence says that ``what`` cannot.
    """
    if str(source) == "-" and sys.stdin is None:
        raise ShapefirstError(f"Cannot read {what} from stdin: it is closed.")
    try:
        # As text, stdin may let pass what is no UTF-8, in a form that no tokenizer takes.
        stream = getattr(sys.stdin, "buffer", sys.stdin) if str(source) == "-" else io.FileIO(source, opener=_opened)
        with io.BufferedReader(stream) if isinstance(stream, io.FileIO) else nullcontext(stream) as opened:
            raw: Any = opened.read(0)  # bytes, or the text of a stdin that has none
            while len(raw) <= _LARGEST and (piece := opened.read(max(_PIECE, len(raw)))):
                raw += piece
        if len(raw) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST // 1024**2} MB, so take a part of it")
        return (raw if isinstance(raw, str) else raw.decode()).replace(_MARK, "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, UnicodeDecodeError):
            reason = "it is not UTF-8 text, so save it as such"
        raise ShapefirstError(f"Cannot read {what} from {place_of(source)}: {reason}.") from error


def _opened(path: str, flags: int) -> int:
    """Opened so that nothing is waited for without end: a pipe that nobody writes to is empty, and so is the kernel's
    log when it has been read, which says that it is an ordinary file."""
    found = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if hasattr(os, "O_NONBLOCK") and not stat.S_ISREG(os.fstat(found).st_mode):
        os.set_blocking(found, True)
    return found


def place_of(source: Path | str) -> str:
    """A file's name, or stdin's, for a sentence."""
    return "stdin" if str(source) == "-" else repr(str(source))


def _lines(source: Path | str, what: str) -> Iterator[tuple[str, str]]:
    """(where it is, what it says) of each line that counts."""
    text, place = read_text(source, what), place_of(source)
    if kind := _other_kind(text, Path(source).suffix.lower()):
        raise ShapefirstError(
            f"{kind} is in {place}, not {what}, one a line: `shapefirst prompts coco` makes lines of captions."
        )
    for n, line in enumerate(_LINE.split(text), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"Line {n} of {place}", line.strip()


def _other_kind(text: str, ending: str) -> str:
    """What a text is that would make strange prompts line by line: "JSON", "A table", or ""."""
    if not text.strip():
        return ""
    if ending in (".json", ".jsonl", ".ndjson"):
        return "JSON"
    if text.lstrip().startswith(("{", "[")):
        for part in (text, text.lstrip().partition("\n")[0]):
            try:
                if isinstance(json.loads(part), dict | list):
                    return "JSON"
            except (ValueError, RecursionError):
                continue
        return ""
    if ending == ".csv":
        return "A table"
    head = re.split(r"[,;\t]", text.lstrip().partition("\n")[0])
    return "A table" if {cell.strip(' "\r').casefold() for cell in head} & set(CAPTION_COLUMNS[:2]) else ""


def _check(text: str, where: str) -> None:
    check_prompt(text, where)  # first, as of a text of any length one could not tell in time whether it is data
    if is_data(text):
        raise ShapefirstError(
            f"{where} is no prompt, but what a program writes for other data: {shortened(text)!a}; write its words."
        )
