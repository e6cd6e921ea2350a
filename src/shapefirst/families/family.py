"""The seam between policies and pipelines: what a family of pipelines can simply say of itself.

There are three ways to meet a pipeline. In "one batch" a call of the denoiser has the rows of every branch; in "two
calls" each branch has a call of its own; "whole calls" is the way of all others, and of any where guidance is off: a
call is evaluated as the pipeline would, or what it would give is extrapolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.arguments import ROWED, SHARED
from shapefirst.families.embeddings import Embeddings

__all__ = ["Family", "Way"]


Way: TypeAlias = Literal["one batch", "two calls", "whole calls"]


class Family:
    """Pipelines that are guided alike; a subclass says how a loop of our own runs them, too.

    Methods take the pipeline, which is only read.

    Attributes:
        name: What people call it.
        way: How `guide` meets them.
        branches: What a guided step evaluates for every image, in the order of the batch's rows or of the calls.
        without_text: Those of them that do not see the text. The first stands for what is dropped.
        denoisers: Names of the parts that run in every step; none: all that are given a timestep.
        beside: Names of the parts that run in every step only to feed the denoiser, with rows of every branch.
        same_latents: Whether every branch is given the same latents.
        rowed: Arguments of the denoiser with rows of their own for each image and branch, beyond `families.arguments`.
        shared: Those that are the same for all, likewise.
        timestep: The denoiser's argument that is the timestep, if it has none of the usual names.
        refused: Why no policy can be followed, as the end of a sentence that the class's name begins, if so.
        masks_padding: Whether the denoiser sees no padding.
        pools: Whether the denoiser is given the prompt in one vector besides.
        no_positions: Why a prompt's tokens have no positions that its tokenizer tells, if they have none.
        tokenizers: The pipeline's, whose tokens stand one after the other in the prompt's embeddings.
    """

    name: str = ""
    way: Way = "one batch"
    branches: tuple[str, ...] = ("null", "text")
    without_text: tuple[str, ...] = ("null",)
    denoisers: tuple[str, ...] = ()
    beside: tuple[str, ...] = ("controlnet",)
    same_latents: bool = True
    rowed: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    timestep: str | None = None
    refused: str | None = None
    masks_padding: bool = False
    pools: bool = False
    no_positions: str | None = None
    tokenizers: tuple[str, ...] = ("tokenizer",)

    def __init__(self, **what: Any) -> None:
        for attribute, value in what.items():
            assert hasattr(self, attribute)
            setattr(self, attribute, value)

    def has_rows(self, argument: str) -> bool | None:
        """Whether an argument of the denoiser has rows of each image and branch; None if that is not known."""
        if argument in self.rowed or argument in self.shared:
            return argument in self.rowed
        return argument in ROWED or (False if argument in SHARED else None)

    def guides(self, pipe: Any, denoiser: Any) -> bool | None:
        """Whether a denoiser is guided where the pipeline says that it guides; None: as it says."""
        return None

    def turn(self, names: Mapping[str, Any], pipe: Any, denoiser: Any, timesteps: Sequence[float]) -> range:
        """The positions in the list of timesteps at which it is this denoiser's turn, where several take turns."""
        return range(len(timesteps))

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
        overflows = vae.dtype == torch.float16 and config.get("force_upcast", False)  # SDXL's own, in half precision
        mean, std = (config.get(f"latents_{name}") for name in ("mean", "std"))
        if mean is not None and std is not None:
            mean, std = (latents.new_tensor(values)[:, None, None] for values in (mean, std))
            latents = latents * std / config.scaling_factor + mean
        else:
            latents = latents / config.scaling_factor + (config.get("shift_factor") or 0.0)
        if overflows:
            vae.float()  # of `to(dtype)` diffusers warns, whatever the model
        try:
            pixels: torch.Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        finally:
            if overflows:
                vae.half()
        return pixels
