"""The score from 1 to 5 in what a language model says, or nan where it says none.

    parse_score("Score: 4")                            4.0
    parse_score('{"score": "4/5", "reason": ""}')      4.0
    parse_score("I count 3 cats; I would rate it 2.")  2.0
    parse_score("I cannot rate this.")                 nan

A number counts only where the answer presents it as the score; a number that might be something else gives nan, as does
one on another scale ("8/10"): a missing value can be counted, a wrong one cannot.
"""

from __future__ import annotations

import math
import re
from typing import Final

__all__ = ["HIGHEST", "LOWEST", "parse_score"]

LOWEST: Final = 1.0
HIGHEST: Final = 5.0

_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
#: A number that is not the second half of a longer one, negative, or the start of a span such as "3-4".
_NUMBER: Final = (
    r"(?<![\w.,-])(\d+(?:[.,]\d+)?|" + "|".join(_WORDS) + r")(?![\w%])(?!\s*[-–—]\s*\d)(\s*(?:½|and a half\b))?"
)
_TOP: Final = r"\s*(?:/|out of|of)\s*(\d+|" + "|".join(_WORDS) + r")\b"
#: What may follow a number that is a score: the end, a mark, or the start of the reason.
_END: Final = (
    r"(?=\s*(?:$|[.,;:!?()\n–—-]|stars?\b|points?\b|because|since|as\b|for\b|due|and\b|but\b|given|on\b|in\b|to\b))"
)

_SCALE: Final = re.compile(r"\b(?:[01]|zero|one)\s*(?:-|–|—|to|through|and)\s*(\d+|five|ten)\b")
_NAMED: Final = re.compile(rf"\b(?:score|rating)\b\s*(?:is|was|of)?\s*[:=]\s*{_NUMBER}(?:{_TOP})?")
_OUT_OF: Final = re.compile(rf"{_NUMBER}{_TOP}")
_GIVEN: Final = re.compile(
    rf"\b(?:scor(?:e|ed|es)|rat(?:e|ed|es|ing)|giv(?:e|es|en|ing)|grade[ds]?|assign(?:ed|s)?)\b[^.!?\n]{{0,60}}?{_NUMBER}{_END}"
)
_ALONE: Final = re.compile(rf"^\W*?{_NUMBER}\W*(?:stars?|points?)?\W*$", re.MULTILINE)
_FIRST: Final = re.compile(rf"\A\W*?{_NUMBER}(?=\s*[.,:;()–—-])")
_LIST: Final = re.compile(r"^\s*2[.)]\s", re.MULTILINE)
_REFUSAL: Final = re.compile(
    r"\b(?:cannot|can't|can not|unable|not able|won't|will not|refuse|impossible)\b[^.!?\n]{0,60}?"
    r"\b(?:scor|rat(?:e|ing)|evaluat|assess|judg|giv|grade|determin|see|view)"
)


def parse_score(answer: str) -> float:
    """The score in [1, 5] that ``answer`` gives, or nan. Of several stated scores the last one counts."""
    # Without JSON's and Markdown's marks, but with the apostrophe of "can't".
    text = re.sub(r"[\"`*_#{}\[\]\\$]|(?<!\w)'|'(?!\w)", " ", answer.lower().replace("’", "'"))
    if any(top not in ("5", "five") for top in _SCALE.findall(text)):
        return math.nan  # graded on a scale of its own
    # "score (1-5): 4", "on a scale of 1 to 5"
    text = re.sub(r"\(\s*(?:out of 5|/\s*5)?\s*\)", " ", _SCALE.sub(" ", text))
    if found := _last(_NAMED, text):
        return _value(*found)
    if _REFUSAL.search(text):
        return math.nan
    for pattern in (_OUT_OF, _GIVEN, _ALONE):
        if found := _last(pattern, text):
            return _value(*found)
    if not _LIST.search(text) and (first := _FIRST.search(text)):
        return _value(*first.groups())
    return math.nan


def _last(pattern: re.Pattern[str], text: str) -> tuple[str | None, ...] | None:
    found = [match.groups() for match in pattern.finditer(text)]
    return found[-1] if found else None


def _value(number: str | None, half: str | None = None, top: str | None = None) -> float:
    assert number is not None
    value = float(_WORDS.index(number)) if number in _WORDS else float(number.replace(",", "."))
    value += 0.5 if half else 0.0
    return value if LOWEST <= value <= HIGHEST and top in (None, "5", "five") else math.nan
