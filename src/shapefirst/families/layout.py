"""Which diffusers pipelines can be steered: where their denoiser is, and how they lay out guidance.

Stock text-to-image pipelines put both branches of classifier-free guidance in one batch of 2B rows, null first:

    noise_pred = denoiser(torch.cat([latents] * 2), t, torch.cat([null, text]))
    noise_null, noise_text = noise_pred.chunk(2)

128 pipeline files of diffusers 0.42 do so. Others have a third branch (InstructPix2Pix: the image) or call the
denoiser once per branch ("true CFG": Flux, Qwen-Image): those are refused here, before anything runs.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers.utils.torch_utils import unwrap_module

from shapefirst.errors import UnsupportedPipelineError

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


def check_layout(pipeline_class: type) -> None:
    """Raise UnsupportedPipelineError unless the class runs guidance as one batch of null and text.

    The test reads the signature and the names used by the class's `__call__`; `shapefirst.guidance.blocks` checks the
    batch itself when the first step is about to drop a branch.
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
    if not {"prompt", "guidance_scale", "do_classifier_free_guidance", "chunk"} <= used:
        raise UnsupportedPipelineError(
            f"{name} has no classifier-free guidance in one batch, so there is no text branch to drop; use a pipeline "
            "such as StableDiffusionPipeline or PixArtAlphaPipeline."
        )


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
    control = unwrap_module(getattr(pipe, "controlnet", None))
    return [control] if isinstance(control, torch.nn.Module) else []
