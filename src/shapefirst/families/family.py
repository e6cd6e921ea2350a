"""The seam between policies and pipelines: what a family of pipelines can simply say of itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.embeddings import Embeddings

__all__ = ["Family"]


class Family:
    """Pipelines that are guided alike, here in one batch; a subclass says how a loop of our own runs them, too.

    Methods take the pipeline, which is only read.

    Attributes:
        name: What people call it.
        way: How `guide` meets them: a key of ``guidance.blocks.WAYS``.
        branches: What a guided step evaluates for every image, in the order of the batch's rows.
        beside: Names of the parts that run in every step only to feed the denoiser, with rows of every branch.
        masks_padding: Whether the denoiser sees no padding.
        pools: Whether the denoiser is given the prompt in one vector besides.
        no_positions: Why a prompt's tokens have no positions that its tokenizer tells, if they have none.
    """

    name: str = ""
    way: str = "one batch"
    branches: tuple[Literal["null", "text"], ...] = ("null", "text")
    beside: tuple[str, ...] = ("controlnet",)
    masks_padding: bool = False
    pools: bool = False
    no_positions: str | None = None

    def encode(self, pipe: Any, prompts: Sequence[str], negatives: Sequence[str] | None, images: int) -> Embeddings:
        """The prompts' embeddings as the pipeline's own call makes them, ``images`` of each; None is its own null."""
        raise UnsupportedPipelineError(
            f"A loop of our own (studies, sweeps, tune and denoise) cannot run {type(pipe).__name__}: guide() can."
        )

    def evaluate(
        self, pipe: Any, denoiser: Any, x: torch.Tensor, t: torch.Tensor, rows: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """One call of the denoiser: latents (R, C, H, W), a timestep, and R rows of `Embeddings.rows` -> the model's
        own output (noise, v or a flow), (R, C, H, W)."""
        raise NotImplementedError

    def decode(self, pipe: Any, latents: torch.Tensor) -> torch.Tensor:
        """Clean latents (B, C, H, W) in the model's own scale -> pixels (B, 3, H, W), from -1 to 1."""
        vae, config = pipe.vae, pipe.vae.config
        dtype = vae.dtype
        overflows = dtype == torch.float16 and config.get("force_upcast", False)  # SDXL's own, in half precision
        mean, std = (config.get(f"latents_{name}") for name in ("mean", "std"))
        if mean is not None and std is not None:
            mean, std = (latents.new_tensor(values)[:, None, None] for values in (mean, std))
            latents = latents * std / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor + (config.get("shift_factor") or 0.0)
        vae.to(torch.float32 if overflows else dtype)
        try:
            pixels: torch.Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        finally:
            vae.to(dtype)
        return pixels
