"""The [EOS] of one prompt in another: what the studies of S-PromptSet share.

Of a pair, the *source* A gives [SOS] and words, the *target* B its [EOS] and padding (arXiv 2405.15330).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from shapefirst.families import family_of
from shapefirst.findings.finding import Picture, Summary
from shapefirst.measure.intervals import ANY, Range
from shapefirst.prompts import Pair, Prompt
from shapefirst.prompts.edits import switch_eos
from shapefirst.prompts.tokens import Positions
from shapefirst.sampling.loop import Embeddings
from shapefirst.studies.conditions import Scores, by_kind, picture, score_conditions
from shapefirst.studies.subject import Subject

__all__ = ["SOURCE", "TARGET", "Switched", "encode_pairs", "padded", "pair_label", "pooled_out", "seen_eos"]

#: The sides of a pair, as tables and charts name them.
SOURCE: Final = "source A"
TARGET: Final = "target B"


@dataclass(frozen=True)
class Switched:
    """Encoded pairs: B rows each, where the tokens of both sides stand, and what reports say of them."""

    subject: Subject
    pairs: Sequence[Pair]
    source: Embeddings
    target: Embeddings
    at_source: Sequence[Positions]
    at_target: Sequence[Positions]

    def switched(self, first: int | None = None) -> Embeddings:
        """The sources with the targets' [EOS]: all of them, or the first few. What is pooled goes with the first."""
        text = switch_eos(self.source.text, self.target.text, self.at_source, self.at_target, first)
        pooled = self.source.text_pooled if first == 0 else self.target.text_pooled
        return replace(self.source, text=text, text_pooled=pooled)

    @property
    def seeds(self) -> list[int]:
        return self.subject.seeds(len(self.pairs))

    @property
    def sources(self) -> list[Prompt]:
        return [pair.source for pair in self.pairs]

    @property
    def targets(self) -> list[Prompt]:
        return [pair.target for pair in self.pairs]

    @property
    def described(self) -> str:
        """How many pairs, and whether they share words, which a file's may."""
        sharing = sum(not pair.source.content.isdisjoint(pair.target.content) for pair in self.pairs)
        rest = f", {sharing} of which share a word" if sharing else " that share neither noun nor attribute"
        return f"{len(self.pairs)} pairs{rest}"

    def measure(self, images: Mapping[str, Sequence[Image.Image]]) -> Scores:
        """Each condition's images, scored against their sources and against their targets."""
        return score_conditions(self.subject, images, {SOURCE: self.sources, TARGET: self.targets})

    def about(self) -> dict[str, list[Any]]:
        """What tidy tables say of a pair, as an axis for ``findings.tables.crossed``."""
        of_target, sources = self.subject.about(self.targets), [prompt.text for prompt in self.sources]
        return {"pair": list(range(len(sources))), "source": sources, "target": of_target.pop("prompt"), **of_target}

    def by_kind(
        self, quantities: Mapping[str, np.ndarray], caption: str = "", *, within: Range | Mapping[str, Range] = ANY
    ) -> Summary:
        """As ``conditions.by_kind``, by the kind of the targets' attributes, as the caption goes on to say."""
        said = f"{caption} The kind is that of the target's attribute.".strip()
        return by_kind(quantities, self.targets, said, within=within)

    def picture(self, name: str, images: Mapping[str, Sequence[Image.Image]], caption: str, few: int = 4) -> Picture:
        """As ``conditions.picture``, a row for each pair."""
        return picture(name, images, [pair_label(pair) for pair in self.pairs], caption, few)


def encode_pairs(subject: Subject, pairs: Sequence[Pair]) -> Switched:
    """Both sides of the pairs, encoded.

    Raises:
        DoesNotApply: The text encoder has no [EOS].
    """
    a, b = [pair.source for pair in pairs], [pair.target for pair in pairs]
    return Switched(subject, pairs, subject.encode(a), subject.encode(b), subject.positions(a), subject.positions(b))


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
    if family.masks_padding:
        said = f"Prompts are padded with {tokenizer.pad_token}, which is masked: the denoiser sees one [EOS]."
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        said = "Prompts are padded with [EOS] itself."
    else:
        said = (
            f'This model pads prompts with "{tokenizer.pad_token}" and not with [EOS]: of what counts as [EOS] here, '
            "the first is one, and the others are that padding, which stands behind the prompt as [EOS] does."
        )
    pooled = (
        " The denoiser is also given the prompt in one pooled vector, which is made from the first [EOS] and is "
        "treated as a part of it."
    )
    return said + pooled * family.pools


def pair_label(pair: Pair) -> str:
    """Two lines that name a pair beside its pictures."""
    return f"{pair.source.text}\nwith the [EOS] of: {pair.target.text}"
