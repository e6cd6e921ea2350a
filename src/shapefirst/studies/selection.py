"""Which prompts and pairs the studies are given: pocket's vocabulary, or a file's; and which pictures go with them.

Prompt i of one study is prompt i of every other, and has the same seed there: so their images can be compared.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from shapefirst.errors import ShapefirstError
from shapefirst.measure.rgb import read_rgb
from shapefirst.prompts import Pair, Prompt, as_lines, every_phrase, make_pairs, parse_prompts, read_pairs, read_prompts
from shapefirst.prompts.prompt import COLOUR_WORDS, TEXTURE_WORDS

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Source", "digest", "source"]

#: Every two of very many prompts (30,000 captions) would be too many to look at: pairs are made of so many at least.
POOL: Final = 1024
FEWEST: Final = 2  # prompts, for an interval over prompts and for pairs

T = TypeVar("T", Prompt, Pair)


@dataclass(frozen=True)
class Source:
    """Where prompts come from.

    Attributes:
        name: For sentences: "'mine.txt'".
        prompts: All of them, each text once, shuffled.
        pairs: All pairs, shuffled, or () where they are made of the prompts.
        seed: Of the draws.
        pictures: RGB, for studies that give the model one beside the prompt; in turn, if there are fewer.
    """

    name: str
    prompts: tuple[Prompt, ...]
    pairs: tuple[Pair, ...] = ()
    seed: int = 0
    pictures: tuple[Image.Image, ...] = ()

    def draw(self, needs: Literal["prompts", "pairs"], count: int) -> list[Prompt] | list[Pair]:
        """At most ``count`` prompts or pairs; fewer are the first of more.

        Raises:
            ShapefirstError: There are fewer than two.
        """
        if needs == "prompts":
            return list(self.prompts[:count])
        pairs = list(self.pairs or self._made(count))
        if len(pairs) < FEWEST:
            raise ShapefirstError(
                f"The prompts of {self.name} make only {len(pairs)} pair without a common noun or attribute, and "
                f"studies need at least {FEWEST}: give more prompts."
            )
        return pairs[:count]

    def _made(self, count: int) -> list[Pair]:
        pool = self.prompts[: max(POOL, count)]
        return _mixed(make_pairs(pool, max(count, len(pool)), self.seed), self.seed, _kind_of_target)


def source(
    prompts_file: Path | None = None, pairs_file: Path | None = None, seed: int = 0, picture_files: Sequence[Path] = ()
) -> Source:
    """The prompts of a file, or every attribute with every noun of pocket's vocabulary, which are ordinary words.

    Args:
        prompts_file: One prompt a line; pairs are made of them.
        pairs_file: Two prompts a line with a tab between; the prompts are those of the pairs.
        seed: Of the order.
        picture_files: As `measure.rgb` reads them.

    Raises:
        ShapefirstError: Both files are given, or one that cannot be read or holds fewer than two; or a picture that
            cannot be read.
    """
    if prompts_file is not None and pairs_file is not None:
        raise ShapefirstError("Give --prompts-file or --pairs-file, not both: prompts are taken from the pairs too.")
    pairs: list[Pair] = []
    name = "pocket's vocabulary"
    if pairs_file is not None:
        name = repr(str(pairs_file))
        pairs = [Pair(_with_kind(p.source), _with_kind(p.target)) for p in dict.fromkeys(read_pairs(pairs_file))]
        prompts = [prompt for pair in pairs for prompt in (pair.source, pair.target)]
        if len(pairs) < FEWEST:
            raise ShapefirstError(f"There is only one pair in {name}, and studies need at least {FEWEST}.")
    elif prompts_file is not None:
        name = repr(str(prompts_file))
        prompts = [_with_kind(prompt) for prompt in parse_prompts(read_prompts(prompts_file))]
    else:
        prompts = every_phrase()
    unique = list({prompt.text: prompt for prompt in prompts}.values())
    if len(unique) < FEWEST:
        raise ShapefirstError(
            f"There is only one prompt in {name}, and studies need at least {FEWEST}: for intervals, and for pairs."
        )
    by_kind = _mixed(unique, seed, lambda prompt: prompt.source)
    pictures = tuple(map(read_rgb, picture_files))
    return Source(name, tuple(by_kind), tuple(_mixed(pairs, seed, _kind_of_target)), seed, pictures)


def digest(items: Sequence[Prompt] | Sequence[Pair], pictures: Sequence[Image.Image] = ()) -> str:
    """Tells these prompts, and the pictures that go with them, from others, in short."""
    seen = hashlib.sha256(as_lines(items).encode())
    for one in pictures:
        seen.update(f"{one.size}".encode() + one.tobytes())
    return seen.hexdigest()[:12]


def _mixed(items: Sequence[T], seed: int, kind: Callable[[T], str]) -> list[T]:
    """Shuffled, one kind in turn after the other: even a few are of all kinds, as the paper's 800 + 800 are."""
    kinds: dict[str, list[T]] = {}
    for item in random.Random(seed).sample(items, len(items)):
        kinds.setdefault(kind(item), []).append(item)
    rounds = zip_longest(*(kinds[name] for name in sorted(kinds)))
    return [item for row in rounds for item in row if item is not None]


def _kind_of_target(pair: Pair) -> str:
    return pair.target.source


def _with_kind(prompt: Prompt) -> Prompt:
    """A file's lines do not say which kind of attribute they have: colours, textures, or neither alone."""
    attributes = {attribute for attribute, _ in prompt.phrases}
    for kind, words in (("colour", COLOUR_WORDS), ("texture", TEXTURE_WORDS)):
        if attributes and attributes <= words:
            return replace(prompt, source=kind)
    return prompt
