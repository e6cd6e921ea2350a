"""Stable Diffusion XL: a U-Net that takes the channels of two CLIP text encoders side by side, the second one's pooled
embedding, and the picture's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shapefirst.families.embeddings import Embeddings
from shapefirst.families.family import Family

__all__ = ["StableDiffusionXL"]


class StableDiffusionXL(Family):
    """Two CLIPs' tokens side by side, pooled ones, and the picture's size. See the module."""

    name = "Stable Diffusion XL"
    pools = True

    def encode(self, pipe: Any, prompts: Sequence[str], negatives: Sequence[str] | None, images: int) -> Embeddings:
        text, null, text_pooled, null_pooled = pipe.encode_prompt(
            list(prompts),
            device=pipe._execution_device,
            num_images_per_prompt=images,
            do_classifier_free_guidance=True,
            negative_prompt=None if negatives is None else list(negatives),  # none at all: zeros, in most models
        )
        return Embeddings(text, null, text_pooled=text_pooled, null_pooled=null_pooled)

    def evaluate(
        self, pipe: Any, denoiser: Any, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        height, width = (side * pipe.vae_scale_factor for side in x.shape[-2:])
        size = pipe._get_add_time_ids(
            (height, width),
            (0, 0),
            (height, width),
            dtype=x.dtype,
            text_encoder_projection_dim=pipe.text_encoder_2.config.projection_dim,
        )
        out: torch.Tensor = denoiser(
            x,
            t,
            encoder_hidden_states=rows["text"],
            added_cond_kwargs={"text_embeds": rows["pooled"], "time_ids": size.to(x.device).expand(len(x), -1)},
            return_dict=False,
        )[0]
        return out
