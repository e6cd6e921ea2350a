"""Stable Diffusion 3: a transformer with joint attention, trained by flow matching. It takes the tokens of CLIP and of
T5 one after the other, and both CLIPs' pooled embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shapefirst.families.embeddings import Embeddings
from shapefirst.families.family import Family

__all__ = ["StableDiffusion3"]


class StableDiffusion3(Family):
    """Tokens of CLIP and T5, and pooled ones. See the module."""

    name = "Stable Diffusion 3"
    pools = True
    tokenizers = ("tokenizer", "tokenizer_3")
    no_positions = (
        "Stable Diffusion 3 is given CLIP's tokens and T5's one after the other, in joint attention: what is said "
        "about the positions of [SOS], words and [EOS] does not apply to it."
    )

    def encode(self, pipe: Any, prompts: Sequence[str], negatives: Sequence[str] | None, images: int) -> Embeddings:
        text, null, text_pooled, null_pooled = pipe.encode_prompt(
            list(prompts),
            None,
            None,
            device=pipe._execution_device,
            num_images_per_prompt=images,
            do_classifier_free_guidance=True,
            negative_prompt=None if negatives is None else list(negatives),
        )
        return Embeddings(text, null, text_pooled=text_pooled, null_pooled=null_pooled)

    def evaluate(
        self, pipe: Any, denoiser: Any, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        out: torch.Tensor = denoiser(
            hidden_states=x,
            timestep=t.expand(len(x)),
            encoder_hidden_states=rows["text"],
            pooled_projections=rows["pooled"],
            return_dict=False,
        )[0]
        return out
