"""S-PromptSet: pairs (A, B) of prompts about different things.

The paper (arXiv 2405.15330) gives the model A's [SOS] and words with B's [EOS]: A is the *source*, B the *target*. As
they share neither noun nor attribute, whatever the image shows is owed to one of the two.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from shapefirst.checks import check_number
from shapefirst.errors import ShapefirstError
from shapefirst.prompts.prompt import Prompt
from shapefirst.signatures import guarded

__all__ = ["Pair", "make_pairs"]


@dataclass(frozen=True)
class Pair:
    """Two prompts that share neither noun nor attribute."""

    source: Prompt
    target: Prompt


@guarded
def make_pairs(prompts: Sequence[Prompt], count: int | None = None, seed: int = 0) -> list[Pair]:
    """At most ``count`` different pairs, by default as many as there are prompts.

    Every prompt is a source once before any is one again; targets are drawn uniformly. Fewer pairs of the same seed are
    the first ones of more.

    Raises:
        ShapefirstError: No two of the prompts can be paired, or a count out of `checks.BOUNDS`.
    """
    if count is not None:
        check_number(count, "prompts", "The number of pairs")
    unique = list({prompt.text: prompt for prompt in prompts}.values())
    if len(unique) < 2:
        raise ShapefirstError(f"Pairs need at least two different prompts, and there is only {len(unique)}.")
    rng = random.Random(seed)
    rng.shuffle(unique)
    pairs = list(islice(_draw(unique, rng), len(unique) if count is None else count))
    if not pairs:
        raise ShapefirstError("No two of the prompts can be paired: every two of them share a noun or an attribute.")
    return pairs


def _draw(prompts: Sequence[Prompt], rng: random.Random) -> Iterator[Pair]:
    """Every possible pair once, round by round, each round with every source that still has a partner."""
    content = [prompt.content for prompt in prompts]
    taken: set[tuple[int, int]] = set()
    found = True
    while found:
        found = False
        for a, words in enumerate(content):
            free = [b for b, other in enumerate(content) if b != a and (a, b) not in taken and words.isdisjoint(other)]
            if free:
                found = True
                b = rng.choice(free)
                taken.add((a, b))
                yield Pair(prompts[a], prompts[b])
