"""Qwen-Image: true CFG, whose guided prediction is given the length of the text's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch

from tiny import Tiny, tiny
from tiny.flow import each, flow_scheduler, listens, pictures, shared

SMALL = {
    "in_channels": 64,
    "out_channels": 16,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 8,
    "axes_dims_rope": (2, 2, 4),
}
SIZE = {"height": 64, "width": 64}
TWO_CALLS: Any = {"way": "two calls", "branches": ("text", "null"), "calls": 2}


@shared
def transformer(guidance_embeds: bool = False) -> Any:
    return listens(diffusers.QwenImageTransformer2DModel(guidance_embeds=guidance_embeds, **SMALL), "attn")


@shared
def autoencoder() -> Any:
    """Halves pictures; its latents are as wide as the real one's."""
    return diffusers.AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False])


def parts(**more: Any) -> dict[str, Any]:
    given = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    return {**given, "scheduler": flow_scheduler(), "transformer": transformer(), **more}


def text(numbers: Sequence[int]) -> dict[str, Any]:
    """The last token of a prompt is padding."""
    mask = torch.tensor([[1, 1, 0]] * len(numbers))
    return {"prompt_embeds": each(numbers, 3, 8, scale=3), "prompt_embeds_mask": mask}


def both(numbers: Sequence[int]) -> dict[str, Any]:
    null, mask = each(numbers, 2, 8, at=200, scale=3), torch.ones(len(numbers), 2)
    return {**text(numbers), "negative_prompt_embeds": null, "negative_prompt_embeds_mask": mask}


@tiny("QwenImagePipeline")
def qwen() -> Tiny:
    return Tiny(diffusers.QwenImagePipeline(**parts()), both, {**SIZE, "true_cfg_scale": 4.0}, **TWO_CALLS)


@tiny("QwenImagePipeline without guidance")
def qwen_without_guidance() -> Tiny:
    options = {**SIZE, "true_cfg_scale": 1.0}
    return Tiny(diffusers.QwenImagePipeline(**parts()), text, options, way="whole calls", branches=("text",))


@tiny("QwenImageImg2ImgPipeline")
def qwen_img2img() -> Tiny:
    return Tiny(
        diffusers.QwenImageImg2ImgPipeline(**parts(vae=autoencoder())),
        lambda numbers: {**both(numbers), "image": pictures(numbers, 3, 16, 16)},
        {"height": 16, "width": 16, "true_cfg_scale": 4.0, "num_inference_steps": 8, "strength": 0.75},
        **TWO_CALLS,
    )


@tiny("QwenImageInpaintPipeline")
def qwen_inpaint() -> Tiny:
    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        image, mask = pictures(numbers, 3, 16, 16), pictures(numbers, 1, 16, 16).round()
        return {**both(numbers), "image": image, "mask_image": mask}

    pipe = diffusers.QwenImageInpaintPipeline(**parts(vae=autoencoder()))
    options = {"height": 16, "width": 16, "true_cfg_scale": 4.0, "strength": 1.0}
    return Tiny(pipe, conditions, options, **TWO_CALLS)


@shared
def controlnet() -> Any:
    net = diffusers.QwenImageControlNetModel(**SMALL)
    for layer in (*net.controlnet_blocks, net.controlnet_x_embedder):
        torch.nn.init.normal_(layer.weight, std=0.2)  # zeros when new: it would say nothing
    return net


@tiny("QwenImageControlNetPipeline")
def qwen_controlnet() -> Tiny:
    return Tiny(
        diffusers.QwenImageControlNetPipeline(**parts(vae=autoencoder(), controlnet=controlnet())),
        lambda numbers: {**both(numbers), "control_image": pictures(numbers, 3, 16, 16)},
        {"height": 16, "width": 16, "true_cfg_scale": 4.0},
        beside=("controlnet",),
        **TWO_CALLS,
    )
