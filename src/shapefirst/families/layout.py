"""Which diffusers pipelines can be steered, where their denoiser is, and what runs beside it.

Stock text-to-image pipelines put both branches of classifier-free guidance in one batch of 2B rows, null first:

    noise_pred = denoiser(torch.cat([latents] * 2), t, torch.cat([null, text]))
    noise_null, noise_text = noise_pred.chunk(2)

Those that are known to, since they were run against a reference, stand in `families.FAMILIES`. Any other is refused
before anything runs: many have a third branch (InstructPix2Pix: the image), call the denoiser once per branch ("true
CFG": Flux, Qwen-Image) or hand it tensors of which cannot be told what belongs to which branch.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families import family_of_class
from shapefirst.families.family import Family

__all__ = ["check_layout", "controls_of", "denoiser_of"]

#: Parameters of `__call__` that betray another layout than null and text in one batch.
_OTHER_LAYOUTS = {
    "image_guidance_scale": "a third branch for the image",
    "pag_scale": "a branch with perturbed attention",
    "sag_scale": "an extra evaluation for self-attention guidance",
    "true_cfg_scale": "one denoiser call per branch",
    "guidance_scale_2": "two denoisers",
    "editing_prompt": "a branch per edit",
    "prior_guidance_scale": "two guided models",
    "view_batch_size": "a batch for each view of the picture",
}


def check_layout(pipeline_class: type) -> Family:
    """The family of a class of pipelines that is known to run guidance as one batch of null and text.

    A class of one's own that derives from one in `families.FAMILIES` is taken for it, unless what its `__call__` uses
    betrays another layout; `shapefirst.guidance.one_batch` looks at the batch itself when the first step is about to
    drop a branch.

    Raises:
        UnsupportedPipelineError: It is not.
    """
    name = pipeline_class.__name__
    calls = [vars(base)["__call__"] for base in pipeline_class.__mro__ if "__call__" in vars(base)]
    codes = [code for call in calls if (code := getattr(inspect.unwrap(call), "__code__", None))]
    used = {used for code in codes for used in (*code.co_names, *code.co_varnames)}
    for parameter, layout in _OTHER_LAYOUTS.items():
        if parameter in used:
            raise UnsupportedPipelineError(
                f"{name} lays out its guidance with {layout}; shapefirst steers pipelines that run the null and the "
                "text branch in one batch, such as StableDiffusionPipeline or PixArtAlphaPipeline."
            )
    return family_of_class(pipeline_class)


def denoiser_of(pipe: Any) -> Any:
    """The pipeline's denoiser, the module `pipe.unet` or `pipe.transformer`.

    Raises:
        UnsupportedPipelineError: The pipeline has none or several, an unknown layout, or its denoiser is offloaded by
            accelerate, which re-wraps it after every call and would silently undo whatever was attached.
    """
    check_layout(type(pipe))
    # torch.compile's wrapper goes on calling what it wraps, and that is where a hook belongs.
    parts = (unwrap_module(getattr(pipe, name, None)) for name in ("unet", "transformer"))
    found = [part for part in parts if isinstance(part, torch.nn.Module)]
    if len(found) != 1:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} has {len(found)} denoisers; shapefirst needs one, in `unet` or `transformer`."
        )
    if hasattr(found[0], "_hf_hook"):
        raise UnsupportedPipelineError(
            f"The denoiser of this {type(pipe).__name__} is offloaded by accelerate, which re-wraps it after every "
            "call; call pipe.remove_all_hooks() and move the pipeline with pipe.to(device) first."
        )
    return found[0]


def controls_of(pipe: Any) -> list[torch.nn.Module]:
    """The parts of a pipeline that run in every step only to feed its denoiser, with rows for both branches."""
    parts = (unwrap_module(getattr(pipe, name, None)) for name in check_layout(type(pipe)).beside)
    return [part for part in parts if isinstance(part, torch.nn.Module)]
