"""What is a word, in any script, and which spellings are one.

word       letters and digits with their combining marks; an apostrophe or a hyphen within joins, "_" parts
spelling   case, composed or decomposed accents, kinds of apostrophes and dashes, and what is invisible between
           letters (joiners, soft hyphens) tell no words apart; "_" is as good as a blank
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

__all__ = ["Span", "find_words", "folded", "spans", "words_in"]

#: The first letter of a piece of text and the one after its last.
Span: TypeAlias = tuple[int, int]

_APOSTROPHES: Final = "'’‘‛ʼ＇"
_DASHES: Final = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
#: Apostrophes and the true hyphens; a dash parts.
_JOINS: Final = "'’＇-\u2010\u2011"
#: Soft hyphen, joiners, marks of direction, byte order mark, variation selectors.
_INVISIBLE: Final = "\u00ad\u200c\u200d\u200e\u200f\u2060\ufeff" + "".join(map(chr, range(0xFE00, 0xFE10)))

#: "ı" is the small "I" of Turkish; its "İ" folds to "i" and a dot.
_ALIKE: Final = str.maketrans(
    dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_DASHES, "-") | dict.fromkeys(_INVISIBLE) | {"ı": "i"}
)
_GAP: Final = r"[\s_\u200b]+"  # a zero-width space parts as well
_PART: Final = r"w(?:[wm]|~+(?=[wm]))*"
_WORD: Final = re.compile(rf"{_PART}(?:-{_PART})*")


def spans(text: str, apart: Sequence[Span] = ()) -> list[Span]:
    """Where the words of ``text`` are, in order; none reaches into a piece that is set ``apart``."""
    return [word.span() for word in _WORD.finditer(_outline(text, apart))]


def words_in(text: str) -> list[str]:
    """The words of ``text``, folded (see `folded`)."""
    return [folded(text[start:end]) for start, end in spans(text)]


def folded(text: str) -> str:
    """The same for all spellings of one word (Unicode's canonical caseless matching, section 3.13, and more)."""
    return "".join(folding for folding, _ in _clusters(text))


def find_words(text: str, phrase: str, apart: Sequence[Span] = ()) -> Span | None:
    """Where ``phrase`` first stands in ``text``: as one word, else as several whole ones, else as a part of a compound.

    "well" is found in "well-known", but in "well-known, well" behind the comma. White space is as wide as may be.

    Args:
        text: Where to look.
        phrase: Words, in any spelling; punctuation between or around them counts.
        apart: Pieces of ``text`` that are words by themselves, whatever their letters.

    Returns:
        None if it does not occur.
    """
    parts = [re.escape(part) for part in map(folded, re.split(_GAP, phrase)) if part]
    if not parts:
        return None
    flat, starts, ends = "", {}, {}
    for folding, (start, end) in _clusters(text):
        if folding:
            starts[len(flat)] = start
            flat += folding
            ends[len(flat)] = end
    matches = (match.span(1) for match in re.finditer(f"(?=({_GAP.join(parts)}))", flat))
    # A match may lie askew: in half of an "ß", or before the accent of its last letter.
    found = [(starts[i], ends[j]) for i, j in matches if i in starts and j in ends]
    words, outline = {*spans(text, apart), *apart}, _outline(text, apart)
    firsts, lasts = {start for start, _ in words}, {end for _, end in words}
    one = (span for span in found if span in words)
    several = (span for span in found if span[0] in firsts and span[1] in lasts)
    part = (span for span in found if not any(_splits(outline, at) for at in span))
    return next(one, None) or next(several, None) or next(part, None)


def _outline(text: str, apart: Sequence[Span]) -> str:
    """A letter for each character of ``text`` that says what it is to words; blanks where it is set apart."""
    outline = "".join(map(_kind, text))
    for start, end in apart:
        outline = outline[:start] + " " * (end - start) + outline[end:]
    return outline


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    if character in _JOINS:
        return "-"
    if character in _INVISIBLE:
        return "~"
    return {"L": "w", "N": "w", "M": "m"}.get(unicodedata.category(character)[0], " ")


def _splits(outline: str, at: int) -> bool:
    """Whether a cut here would go through letters."""
    return bool(re.search(r"[wm]~*$", outline[:at]) and re.match(r"~*[wm]", outline[at:]))


def _clusters(text: str) -> Iterator[tuple[str, Span]]:
    """The folding of each character together with its marks, which a decomposition may put in another order."""
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not unicodedata.combining(unicodedata.normalize("NFD", text[at])[0]):
            letters = unicodedata.normalize("NFD", text[start:at]).casefold()
            yield letters.replace("i\u0307", "i").translate(_ALIKE), (start, at)
            start = at
