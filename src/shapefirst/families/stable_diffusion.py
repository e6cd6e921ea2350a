"""Stable Diffusion 1 and 2: a U-Net, and one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shapefirst.families.embeddings import Embeddings
from shapefirst.families.family import Family

__all__ = ["StableDiffusion"]


class StableDiffusion(Family):
    """One CLIP's tokens. See the module."""

    name = "Stable Diffusion"

    def encode(self, pipe: Any, prompts: Sequence[str], negatives: Sequence[str] | None, images: int) -> Embeddings:
        text, null = pipe.encode_prompt(
            list(prompts),
            device=pipe._execution_device,
            num_images_per_prompt=images,
            do_classifier_free_guidance=True,
            negative_prompt=list(negatives or [""] * len(prompts)),
        )
        return Embeddings(text, null)

    def evaluate(
        self, pipe: Any, denoiser: Any, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        out: torch.Tensor = denoiser(x, t, encoder_hidden_states=rows["text"], return_dict=False)[0]
        return out
