"""PixArt-alpha and PixArt-Sigma: a transformer with cross-attention to T5's tokens, whose padding is masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shapefirst.families.embeddings import Embeddings
from shapefirst.families.family import Family

__all__ = ["PixArt", "cleans_captions"]


class PixArt(Family):
    """T5's tokens under a mask. See the module."""

    name = "PixArt"
    masks_padding = True

    def encode(self, pipe: Any, prompts: Sequence[str], negatives: Sequence[str] | None, images: int) -> Embeddings:
        text, text_mask, null, null_mask = pipe.encode_prompt(
            list(prompts),
            negative_prompt=list(negatives or [""] * len(prompts)),
            device=pipe._execution_device,
            num_images_per_prompt=images,
            clean_caption=cleans_captions(),
        )
        return Embeddings(text, null, text_mask, null_mask)

    def evaluate(
        self, pipe: Any, denoiser: Any, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        size: dict[str, torch.Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if denoiser.config.sample_size == 128 and getattr(denoiser, "use_additional_conditions", True):
            # PixArt-alpha's 1024-pixel model is told the picture's size.
            height, width = (pipe.vae_scale_factor * side for side in x.shape[-2:])
            size["resolution"] = x.new_tensor([[height, width]]).expand(len(x), -1)
            size["aspect_ratio"] = x.new_tensor([[height / width]]).expand(len(x), -1)
        out: torch.Tensor = denoiser(
            x,
            encoder_hidden_states=rows["text"],
            encoder_attention_mask=rows["mask"],
            timestep=t.expand(len(x)),
            added_cond_kwargs=size,
            return_dict=False,
        )[0]
        # The other half is the learned sigma, which these solvers do not use.
        return out.chunk(2, dim=1)[0] if out.shape[1] == 2 * x.shape[1] else out


def cleans_captions() -> bool:
    """Whether PixArt's own call can clean captions, as it does by default: it needs two more packages for that."""
    from diffusers.utils import is_bs4_available, is_ftfy_available

    return bool(is_bs4_available() and is_ftfy_available())
