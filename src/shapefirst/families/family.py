"""What a family of pipelines says of itself, so that a sampling loop of our own can run any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Embeddings", "Family"]


@dataclass(frozen=True)
class Embeddings:
    """A batch of encoded prompts: L token positions of D channels.

    Attributes:
        text: (B, L, D), the prompts.
        null: (B, L, D), the empty or negative prompts.
        text_mask: (B, L), where the encoder masks its padding (T5), else None.
        null_mask: (B, L), likewise.
        text_pooled: (B, P), the prompts in one vector each, where the denoiser takes that besides (SDXL, SD 3), else
            None. It is made from the first [EOS].
        null_pooled: (B, P), likewise.
    """

    text: torch.Tensor
    null: torch.Tensor
    text_mask: torch.Tensor | None = None
    null_mask: torch.Tensor | None = None
    text_pooled: torch.Tensor | None = None
    null_pooled: torch.Tensor | None = None

    def equals(self, other: Embeddings) -> bool:
        """Whether the others are the same, bit for bit."""
        pairs = [(mine, getattr(other, name)) for name, mine in vars(self).items()]
        return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)

    def rows(self) -> dict[str, torch.Tensor]:
        """ "text", "mask" and "pooled", as far as there are such, each (2B, ...), null first."""
        pairs = {
            "text": (self.null, self.text),
            "mask": (self.null_mask, self.text_mask),
            "pooled": (self.null_pooled, self.text_pooled),
        }
        return {
            name: torch.cat([null, text])
            for name, (null, text) in pairs.items()
            if null is not None and text is not None
        }


class Family(ABC):
    """Pipelines that are encoded and evaluated alike. Methods take the pipeline, which is only read.

    Attributes:
        name: What people call it.
        masks_padding: Whether the denoiser sees no padding.
        pools: Whether the denoiser is given the prompt in one vector besides.
        no_positions: Why a prompt's tokens have no positions that its tokenizer tells, if they have none.
    """

    name: str
    masks_padding: bool = False
    pools: bool = False
    no_positions: str | None = None

    @abstractmethod
    def encode(self, pipe: Any, prompts: Sequence[str], negatives: Sequence[str] | None, images: int) -> Embeddings:
        """The prompts' embeddings as the pipeline's own call makes them, ``images`` of each; None is its own null."""

    @abstractmethod
    def evaluate(
        self, pipe: Any, denoiser: Any, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """One call of the denoiser: latents (R, C, H, W), a timestep, and R rows of `Embeddings.rows` -> the model's
        own output (noise, v or a flow), (R, C, H, W)."""
