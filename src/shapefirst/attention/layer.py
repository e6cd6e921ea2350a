"""What a cross-attention layer's processor sees in place of its layer, and what is computed beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shapefirst.errors import UnsupportedPipelineError

__all__ = ["LayerView", "Substitution", "attention_weights", "grid_of", "is_joint"]


@dataclass(frozen=True, eq=False)
class Substitution:
    """Other prompts' embeddings for some of the tokens.

    Attributes:
        embeddings: (1 or B, L, D).
        mask: (1 or B, L, 1), True where substituted.
        keys: Substitute the keys.
        values: Substitute the values.
    """

    embeddings: torch.Tensor
    mask: torch.Tensor
    keys: bool
    values: bool


class LayerView:
    """A layer that attends to the prompt, as its processor sees it: Q and K are noted, K and V edited.

    In joint attention (Stable Diffusion 3) K is the picture's, the prompt's is noted beside it, and nothing is edited.

    Args:
        attn: The layer.
        substitutions: With embeddings as the layer gets them, the latest winning.
        rows: The rows that they apply to.
    """

    def __init__(self, attn: Any, substitutions: Sequence[Substitution], rows: slice | None) -> None:
        self._attn, self._rows = attn, rows
        self._substitutions = substitutions if rows else ()
        self.query: torch.Tensor | None = None
        self.key: torch.Tensor | None = None
        self.added_key: torch.Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attn, name)

    def to_q(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        self.query = self._attn.to_q(x, *args)
        return self.query

    def to_k(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        edits = [one for one in self._substitutions if one.keys]
        self.key = self._edited(edits, self._attn.to_k, x, *args)
        return self.key

    def add_k_proj(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        self.added_key = self._attn.add_k_proj(x, *args)
        return self.added_key

    def to_v(self, x: torch.Tensor, *args: Any) -> torch.Tensor:
        edits = [one for one in self._substitutions if one.values]
        return self._edited(edits, self._attn.to_v, x, *args)

    def _edited(
        self, edits: Sequence[Substitution], project: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any
    ) -> torch.Tensor:
        y = project(x, *args)
        for edit in edits:
            other = edit.embeddings
            if self._attn.norm_cross is not None:
                other = self._attn.norm_encoder_hidden_states(other)
            y = y.clone()
            y[self._rows] = torch.where(edit.mask, project(other, *args), y[self._rows])
        return y


def is_joint(attn: Any) -> bool:
    """Whether a layer's queries, those of picture and prompt, attend to both at once."""
    return getattr(attn, "add_q_proj", None) is not None


def attention_weights(attn: Any, layer: LayerView, mask: torch.Tensor | None, rows: slice) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d) + mask) of some rows, (B, heads, h w, L), in float32.

    In joint attention it is over the picture's pixels as well, and what is given is the prompt's part of it.
    """

    def by_head(x: Any, norm: Any) -> torch.Tensor:
        x = x[rows].detach().unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        return x if norm is None else norm(x)

    assert layer.query is not None
    n = len(layer.query)
    q, k = by_head(layer.query, attn.norm_q), by_head(layer.key, attn.norm_k)
    tokens = k.shape[2]
    if layer.added_key is not None:
        added = by_head(layer.added_key, attn.norm_added_k)
        k, tokens = torch.cat([k, added], 2), added.shape[2]
    scores = (q.float() * attn.scale) @ k.float().transpose(2, 3)
    if mask is not None:  # (n, 1, L), or repeated for each head
        scores += mask.view(n, -1, *mask.shape[-2:])[rows]
    return scores.softmax(-1)[..., -tokens:]


def grid_of(latents: torch.Tensor, pixels: int) -> tuple[int, int]:
    """The (h, w) of a layer with h w pixels: denoisers halve the latents' sides, rounding up."""
    h, w = latents.shape[-2:]
    while h * w > pixels:
        h, w = math.ceil(h / 2), math.ceil(w / 2)
    if h * w != pixels:
        raise UnsupportedPipelineError(
            f"An attention layer has {pixels} pixels, which is not the latents' {tuple(latents.shape[-2:])} halved."
        )
    return h, w
