"""The [EOS] of one prompt in another: what the studies of S-PromptSet share.

Of a pair, the *source* A gives [SOS] and words, the *target* B its [EOS] and padding (arXiv 2405.15330).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from shapefirst.denoising import Embeddings
from shapefirst.embeddings import switch_eos
from shapefirst.prompts import Pair
from shapefirst.studies.subject import Subject
from shapefirst.tokens import Positions

__all__ = ["Switched", "encode_pairs", "score_both", "tidy_scores"]


@dataclass(frozen=True)
class Switched:
    """Encoded pairs: B rows each, and where the tokens of both sides stand."""

    source: Embeddings
    target: Embeddings
    at_source: Sequence[Positions]
    at_target: Sequence[Positions]

    def switched(self, first: int | None = None) -> Embeddings:
        """The sources with the targets' [EOS]: all of them, or the first few."""
        text = switch_eos(self.source.text, self.target.text, self.at_source, self.at_target, first)
        return replace(self.source, text=text)


def encode_pairs(subject: Subject, pairs: Sequence[Pair]) -> Switched:
    """Both sides of the pairs, encoded.

    Raises:
        DoesNotApply: The text encoder has no [EOS].
    """
    sources, targets = [pair.source for pair in pairs], [pair.target for pair in pairs]
    return Switched(
        subject.encode(sources), subject.encode(targets), subject.positions(sources), subject.positions(targets)
    )


def score_both(
    subject: Subject, images: Sequence[Image.Image], pairs: Sequence[Pair]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Alignment's name -> the images' scores (B,) against their sources, and against their targets."""
    of_source = subject.scores(images, [pair.source for pair in pairs])
    of_target = subject.scores(images, [pair.target for pair in pairs])
    return {name: (of_source[name], of_target[name]) for name in of_source}


def tidy_scores(
    subject: Subject,
    pairs: Sequence[Pair],
    scores: Mapping[str, tuple[np.ndarray, np.ndarray]],
    **condition: Any,
) -> list[dict[str, Any]]:
    """One row for each pair, alignment and side, with the columns of ``condition`` added."""
    rows = []
    for name, sides in scores.items():
        for i, pair in enumerate(pairs):
            for side, prompt, score in zip(
                ("source", "target"), (pair.source, pair.target), (s[i] for s in sides), strict=True
            ):
                rows.append(
                    {
                        "pair": i,
                        "seed": subject.seed + i,
                        "source": pair.source.text,
                        "target": pair.target.text,
                        "alignment": name,
                        "side": side,
                        "kind": prompt.source,
                        "score": float(score),
                        **condition,
                    }
                )
    return rows
