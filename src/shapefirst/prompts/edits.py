"""Edits of prompt embeddings (B, L, D): B prompts, L token positions, D channels.

A denoiser knows its prompt by these alone, so replacing some positions asks what they carried (arXiv 2405.15330).
Every edit gives a new tensor; where to edit comes from ``shapefirst.prompts.tokens``:

    at = [positions(tokenizer, prompt) for prompt in prompts]
    switched = switch_eos(of_a, of_b, at_a, at_b)                    F4: A's words, B's [EOS]
    wordless = blank(text, [p.sem for p in at])                      A3: zeros in place of the words
    alone = keep_only(text, [p.paper_eos for p in at])               A2: nothing but [EOS]

Where the encoder masks padding (T5), the denoiser sees only what the mask that goes with the embeddings lets through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from shapefirst.errors import ShapefirstError
from shapefirst.prompts.tokens import Positions

__all__ = ["Places", "blank", "keep_only", "mask_of", "noise", "switch_eos"]

#: For each of B prompts, the positions to edit.
Places: TypeAlias = Sequence[Sequence[int]]


def switch_eos(
    embeddings: torch.Tensor,
    other: torch.Tensor,
    at: Sequence[Positions],
    other_at: Sequence[Positions],
    first: int | None = None,
) -> torch.Tensor:
    """The paper's prompt A with the [EOS] of B: [SOS] and words stay, the end token and its padding are exchanged.

    The paper does not say what happens where A and B are of different length. Here A's n-th [EOS] becomes B's n-th, so
    that A's first, which closes the prompt, becomes the one that closes B's, and padding becomes padding, whatever the
    model pads with; if B has fewer, its last stands in for the rest. For prompts of one length that is the exchange of
    like positions.

    Args:
        embeddings: (B, L, D), the prompts A.
        other: (B, L, D), the prompts B.
        at: Where A's tokens stand, one for each prompt.
        other_at: Where B's stand.
        first: Only so many of A's [EOS], from the first; by default all.

    Returns:
        (B, L, D).

    Raises:
        ShapefirstError: The shapes or numbers do not agree, or ``first`` is negative.
    """
    if embeddings.shape != other.shape:
        raise ShapefirstError(
            f"Embeddings of different shape cannot be exchanged: {tuple(embeddings.shape)} and {tuple(other.shape)}."
        )
    if first is not None and first < 0:
        raise ShapefirstError(f"The number of [EOS] to switch must be at least 0, not {first}.")
    here, there = ([p.paper_eos for p in places] for places in (at, other_at))
    _mask(embeddings, here)  # both, that the places are there
    _mask(other, there)
    switched = embeddings.clone()
    for b, (mine, theirs) in enumerate(zip(here, there, strict=True)):
        for n, position in enumerate(mine[:first]):
            switched[b, position] = other[b, theirs[min(n, len(theirs) - 1)]]
    return switched


def blank(embeddings: torch.Tensor, places: Places) -> torch.Tensor:
    """Zeros at ``places``.

    Args:
        embeddings: (B, L, D).
        places: For each prompt, the positions to blank.

    Raises:
        ShapefirstError: There are not B lists of places, or one lies beyond L.
    """
    return embeddings.masked_fill(_mask(embeddings, places), 0)


def keep_only(embeddings: torch.Tensor, places: Places) -> torch.Tensor:
    """Zeros everywhere but at ``places``. Arguments and errors as of :func:`blank`."""
    return embeddings.masked_fill(~_mask(embeddings, places), 0)


def noise(embeddings: torch.Tensor, places: Places, seeds: Sequence[int]) -> torch.Tensor:
    """Gaussian noise at ``places``, of the mean and variance of what stood there.

    Mean and variance are two numbers for each prompt, over its places and all channels. Per channel they would give the
    content away: the [EOS] of a prompt hardly differ, and a single position would come back unchanged.

    Args:
        embeddings: (B, L, D).
        places: For each prompt, the positions to replace.
        seeds: One for each prompt, so that a seed gives the same noise in any batch.

    Raises:
        ShapefirstError: There are not B lists of places or B seeds, or a place lies beyond L.
    """
    mask = _mask(embeddings, places)
    if len(seeds) != len(embeddings):
        raise ShapefirstError(f"There are {len(embeddings)} prompts but {len(seeds)} seeds; give one per prompt.")
    noisy = embeddings.clone()
    for b, seed in enumerate(seeds):
        index = mask[b, :, 0].nonzero().squeeze(1)
        if len(index):
            there = embeddings[b, index].float()
            generator = torch.Generator().manual_seed(seed)
            fresh = torch.randn(there.shape, generator=generator).to(there.device)
            noisy[b, index] = (there.mean() + there.std(correction=0) * fresh).to(embeddings.dtype)
    return noisy


def mask_of(places: Places, length: int) -> torch.Tensor:
    """(B, L, 1), true at the places.

    Raises:
        ShapefirstError: One lies beyond L.
    """
    mask = torch.zeros(len(places), length, 1, dtype=torch.bool)
    for b, positions in enumerate(places):
        if beyond := [p for p in positions if not 0 <= p < length]:
            raise ShapefirstError(
                f"There is no token position {beyond[0]}: the embeddings have {length}, counted from 0."
            )
        mask[b, list(positions)] = True
    return mask


def _mask(embeddings: torch.Tensor, places: Places) -> torch.Tensor:
    prompts, length = embeddings.shape[:2]
    if len(places) != prompts:
        raise ShapefirstError(f"There are {prompts} prompts but places in {len(places)}; give one list per prompt.")
    return mask_of(places, length).to(embeddings.device)
