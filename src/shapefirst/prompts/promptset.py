"""PromptSet: "a {attribute} {noun}" for colours and textures, and complex natural prompts.

The paper (arXiv 2405.15330) has 800 + 800 + 1,000 of them in the manner of T2I-CompBench (Huang et al. 2023,
arXiv 2307.06350), whose prompt files hold two phrases a line: "a green bench and a red car". They repeat themselves:
the 700 lines of ``color_train.txt`` hold some 450 different phrases, those of ``texture_train.txt`` some 60, so that
the paper's sizes take more files or new combinations of their words.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, TypeVar

from shapefirst.errors import ShapefirstError
from shapefirst.prompts.lines import read_prompts
from shapefirst.prompts.prompt import COLOUR_WORDS, TEXTURE_WORDS, Phrase, Prompt, parse_phrases
from shapefirst.signatures import From, guarded
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS, RELATIONS, phrase_of

__all__ = ["PAPER_SIZES", "compbench", "every_phrase", "mixed", "sample"]

#: How many prompts of each source the paper's PromptSet has.
PAPER_SIZES: Final[Mapping[str, int]] = MappingProxyType({"colour": 800, "texture": 800, "complex": 1000})

_WORDS = {"colour": COLOUR_WORDS, "texture": TEXTURE_WORDS}
T = TypeVar("T")


def every_phrase(attributes: Sequence[str] = ATTRIBUTES, nouns: Sequence[str] = NOUNS) -> list[Prompt]:
    """Every attribute with every noun, by default of pocket's own vocabulary: 18 x 40 prompts.

    Raises:
        ShapefirstError: One of the lists is empty or holds an empty word.
    """
    for name, words in (("attribute", attributes), ("noun", nouns)):
        if not words or not all(word.strip() for word in words):
            raise ShapefirstError(f"The list of {name}s is empty or has an empty place: give one or more words.")
    phrases = dict.fromkeys((_tidy(attribute), _tidy(noun)) for noun in nouns for attribute in attributes)
    return [Prompt.of(phrase, _source_of(phrase)) for phrase in phrases]


def compbench(
    colour: Sequence[Path | str] = (),
    texture: Sequence[Path | str] = (),
    complex: Sequence[Path | str] = (),
    *,
    sizes: Mapping[str, int] = PAPER_SIZES,
    seed: int = 0,
    combine: bool = False,
) -> list[Prompt]:
    """PromptSet from T2I-CompBench's files, no prompt twice.

    Args:
        colour: Files whose phrases with a colour become prompts.
        texture: Files whose phrases with a texture become prompts.
        complex: Files whose lines become prompts as they are.
        sizes: At most so many prompts of each source are drawn.
        seed: Of that draw. A smaller set of the same seed is part of a larger one.
        combine: Where a file's phrases are too few, fill up with its attributes before the nouns of all colour and
            texture files.

    Raises:
        ShapefirstError: No file, one that cannot be read, or a colour or texture file without such a phrase.
    """
    if not (colour or texture or complex):
        raise ShapefirstError("PromptSet needs at least one of T2I-CompBench's colour, texture and complex files.")
    phrases = {"colour": _phrases(colour, "colour"), "texture": _phrases(texture, "texture")}
    nouns = dict.fromkeys(noun for known in phrases.values() for _, noun in known)
    prompts = []
    for source, known in phrases.items():
        chosen = sample(known, sizes[source], seed)
        if combine and len(known) < sizes[source]:
            attributes = dict.fromkeys(attribute for attribute, _ in known)
            new = [(a, noun) for a in attributes for noun in nouns if a not in noun.split() and (a, noun) not in known]
            chosen += sample(new, sizes[source] - len(known), seed)
        prompts += [Prompt.of(phrase, source) for phrase in chosen]
    lines = dict.fromkeys(" ".join(line.split()) for path in complex for line in read_prompts(path))
    return prompts + [Prompt(line, (), "complex") for line in sample(lines, sizes["complex"], seed)]


@guarded
def mixed(count: Annotated[int, From(1, 10_000)], seed: int) -> list[str]:
    """Distinct prompts of pocket's world, two thirds of them with one object, while there are such; fewer are the first
    of more.

    Raises:
        ShapefirstError: ``count`` is not from 1 to 10,000.
    """
    dice = random.Random(seed)

    def phrase() -> str:
        return phrase_of(dice.choice(ATTRIBUTES), dice.choice(NOUNS))

    prompts: dict[str, None] = {}
    singles = len(ATTRIBUTES) * len(NOUNS)
    while len(prompts) < count:
        n = len(prompts)
        pair = n % 3 == 2 or n - n // 3 >= singles
        prompts[f"{phrase()} {dice.choice(list(RELATIONS))} {phrase()}" if pair else phrase()] = None
    return list(prompts)


@guarded
def sample(items: Iterable[T], size: Annotated[int, From(0)] | None, seed: int) -> list[T]:
    """At most ``size`` of the items, in their own order; all for None. Smaller draws are part of larger ones."""
    everything = list(items)
    order = list(range(len(everything)))
    random.Random(seed).shuffle(order)
    return [everything[i] for i in sorted(order[:size])]


def _phrases(paths: Sequence[Path | str], source: str) -> dict[Phrase, None]:
    found: dict[Phrase, None] = {}
    for path in paths:
        here = [p for line in read_prompts(path) for p in parse_phrases(line) if p[0] in _WORDS[source]]
        if not here:
            raise ShapefirstError(f"There is no {source} phrase such as 'a {_EXAMPLES[source]}' in {str(path)!r}.")
        found.update(dict.fromkeys(here))
    return found


_EXAMPLES = {"colour": "green bench and a red car", "texture": "wooden spoon and a rubber tire"}


def _source_of(phrase: Phrase) -> str:
    return next((source for source, words in _WORDS.items() if phrase[0] in words), "text")


def _tidy(words: str) -> str:
    return " ".join(words.split())
