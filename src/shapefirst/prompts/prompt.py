"""A prompt with the noun phrases that are known of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from shapefirst.signatures import guarded
from shapefirst.words import spans, words_in
from shapefirst.world.vocabulary import COLOURS, RELATIONS, TEXTURES, phrase_of

__all__ = ["COLOUR_WORDS", "TEXTURE_WORDS", "Phrase", "Prompt", "parse_phrases"]

#: An attribute and its noun: ("green", "bench").
Phrase: TypeAlias = tuple[str, str]

#: Pocket's colours and the others that T2I-CompBench uses.
COLOUR_WORDS: Final = frozenset(COLOURS) | {"beige", "gold", "gray", "grey", "silver", "tan", "turquoise"}
TEXTURE_WORDS: Final = frozenset(TEXTURES)

_ATTRIBUTES = COLOUR_WORDS | TEXTURE_WORDS
_RELATION = re.compile(rf"\s+(?:{'|'.join(sorted(RELATIONS, key=len, reverse=True))})\s+", re.IGNORECASE)
#: What stands between content words, in captions and in pocket's own prompts.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those it its his her their he she they there here some each other another all one "
        "two and or but while with without in on at of by to from for into onto over under above below near next "
        "behind beside between against around through down up off out top left right front side as is are was were "
        "be being has have had who which where",
    )
)


@guarded
@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: What the model is given.
        phrases: Its noun phrases, in order; empty where they are not known.
        source: "colour", "texture", "complex", "coco" or "text".
    """

    text: str
    phrases: tuple[Phrase, ...] = ()
    source: str = "text"

    @classmethod
    def of(cls, phrase: Phrase, source: str) -> Prompt:
        """The paper's "a {attribute} {noun}"."""
        return cls(phrase_of(*phrase), (phrase,), source)

    @property
    def content(self) -> frozenset[str]:
        """The words that two prompts must not have in common to be about different things.

        Those of the phrases; of the whole text, less its function words, where no phrase is known. A plural counts as
        its singular.
        """
        text = " ".join(f"{attribute} {noun}" for attribute, noun in self.phrases) or self.text
        return frozenset(word.removesuffix("s") for word in words_in(text) if word not in _FUNCTION_WORDS)


@guarded
def parse_phrases(text: str) -> tuple[Phrase, ...]:
    """The (attribute, noun) of each part of a prompt that consists of noun phrases alone, else ().

    "a green bench and a red car" -> (("green", "bench"), ("red", "car")). A part is an attribute of ``COLOUR_WORDS`` or
    ``TEXTURE_WORDS`` before a noun of one or two words, with or without "a" or "an"; parts are joined by "and" or
    another of pocket's relations. Freer sentences would need a parser of English: they give no phrase rather than a
    wrong one.
    """
    phrases = []
    for part in _RELATION.split(text.strip().removesuffix(".").lower()):
        attribute, *noun = re.sub(r"^\s*an?\s+", "", part).split() or [""]
        is_noun = 1 <= len(noun) <= 2 and all(_may_be_noun(word) for word in noun)
        # "a red black ladder" has two attributes; in "a red orange" the last word is the noun.
        if attribute not in _ATTRIBUTES or not is_noun or _ATTRIBUTES & set(noun[:-1]):
            return ()
        phrases.append((attribute, " ".join(noun)))
    return tuple(phrases)


def _may_be_noun(word: str) -> bool:
    return spans(word) == [(0, len(word))] and word not in _FUNCTION_WORDS
