"""The [EOS] of one prompt in another: what the studies of S-PromptSet share.

Of a pair, the *source* A gives [SOS] and words, the *target* B its [EOS] and padding (arXiv 2405.15330).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from PIL import Image

from shapefirst.families import family_of
from shapefirst.prompts import Pair, Prompt
from shapefirst.prompts.edits import switch_eos
from shapefirst.prompts.tokens import Positions
from shapefirst.sampling.loop import Embeddings
from shapefirst.studies.conditions import Scores, score_conditions
from shapefirst.studies.subject import Subject

__all__ = [
    "SOURCE",
    "TARGET",
    "Switched",
    "cost",
    "described",
    "encode_pairs",
    "measure_pairs",
    "padded",
    "pair_label",
    "pooled_out",
    "seen_eos",
]

#: The sides of a pair, as tables and charts name them.
SOURCE: Final = "source A"
TARGET: Final = "target B"


@dataclass(frozen=True)
class Switched:
    """Encoded pairs: B rows each, and where the tokens of both sides stand."""

    source: Embeddings
    target: Embeddings
    at_source: Sequence[Positions]
    at_target: Sequence[Positions]

    def switched(self, first: int | None = None) -> Embeddings:
        """The sources with the targets' [EOS]: all of them, or the first few. What is pooled goes with the first."""
        text = switch_eos(self.source.text, self.target.text, self.at_source, self.at_target, first)
        pooled = self.source.text_pooled if first == 0 else self.target.text_pooled
        return replace(self.source, text=text, text_pooled=pooled)


def encode_pairs(subject: Subject, pairs: Sequence[Pair]) -> Switched:
    """Both sides of the pairs, encoded.

    Raises:
        DoesNotApply: The text encoder has no [EOS].
    """
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    return Switched(
        subject.encode(sources), subject.encode(targets), subject.positions(sources), subject.positions(targets)
    )


def measure_pairs(subject: Subject, images: Mapping[str, Sequence[Image.Image]], pairs: Sequence[Pair]) -> Scores:
    """Each condition's images, scored against their sources and against their targets."""
    sides: dict[str, Sequence[Prompt]] = {
        SOURCE: [pair.source for pair in pairs],
        TARGET: [pair.target for pair in pairs],
    }
    return score_conditions(subject, images, sides)


def seen_eos(embeddings: Embeddings, at: Sequence[Positions]) -> list[tuple[int, ...]]:
    """The [EOS] positions that the denoiser sees: with all padding, or the end token alone where padding is masked."""
    return [places.paper_eos if embeddings.text_mask is None else places.eos for places in at]


def pooled_out(embeddings: Embeddings) -> Embeddings:
    """The same with zeros for the pooled prompt, where there is one: it goes with the [EOS] that it is made from."""
    pooled = embeddings.text_pooled
    return embeddings if pooled is None else replace(embeddings, text_pooled=torch.zeros_like(pooled))


def padded(subject: Subject) -> str:
    """What the paper's [EOS] consists of in this model, for a study's method."""
    family, tokenizer = family_of(subject.pipe), subject.pipe.tokenizer
    pooled = (
        " The denoiser is also given the prompt in one pooled vector, which is made from the first [EOS] and is "
        "treated as a part of it."
        if family.pools
        else ""
    )
    if family.masks_padding:
        return f"Prompts are padded with {tokenizer.pad_token}, which is masked: the denoiser sees one [EOS].{pooled}"
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        return f"Prompts are padded with [EOS] itself.{pooled}"
    return (
        f'This model pads prompts with "{tokenizer.pad_token}" and not with [EOS]: of what counts as [EOS] here, the '
        f"first is one, and the others are that padding, which stands behind the prompt as [EOS] does.{pooled}"
    )


def described(pairs: Sequence[Pair]) -> str:
    """How many pairs, and whether they share words, which a file's may."""
    sharing = sum(not pair.source.content.isdisjoint(pair.target.content) for pair in pairs)
    rest = f", {sharing} of which share a word" if sharing else " that share neither noun nor attribute"
    return f"{len(pairs)} pairs{rest}"


def pair_label(pair: Pair) -> str:
    """Two lines that name a pair beside its pictures."""
    return f"{pair.source.text}\nwith the [EOS] of: {pair.target.text}"


def cost(subject: Subject, steps: int | None = None) -> int:
    """Denoiser evaluations of ``steps`` steps with text, by default of a whole run: two a step under guidance."""
    return (2 if subject.guidance_scale > 1 else 1) * (subject.steps if steps is None else steps)
