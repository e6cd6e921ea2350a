"""Encoded prompts, of every family alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Embeddings"]


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
