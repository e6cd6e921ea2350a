"""Qwen-Image: true CFG, whose guided prediction is given the length of the text's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch

from tiny import Tiny, shared, tiny
from tiny.flow import ALONE, TWO_CALLS, both, listens, masks, parts, pictures, texts

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


@shared
def transformer(guidance_embeds: bool = False) -> Any:
    return listens(diffusers.QwenImageTransformer2DModel(guidance_embeds=guidance_embeds, **SMALL), "attn")


@shared
def autoencoder() -> Any:
    """Halves pictures; its latents are as wide as the real one's."""
    return diffusers.AutoencoderKLQwenImage(base_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False])


def qwen_parts(**more: Any) -> dict[str, Any]:
    return parts(transformer=transformer(), **more)


def qwen_both(numbers: Sequence[int]) -> dict[str, Any]:
    return {**both(numbers), **masks(numbers, "prompt_embeds_mask")}


@tiny("QwenImagePipeline")
def qwen() -> Tiny:
    return Tiny(diffusers.QwenImagePipeline(**qwen_parts()), qwen_both, {**SIZE, "true_cfg_scale": 4.0}, **TWO_CALLS)


@tiny("QwenImagePipeline without guidance")
def qwen_without_guidance() -> Tiny:
    options = {**SIZE, "true_cfg_scale": 1.0}
    pipe = diffusers.QwenImagePipeline(**qwen_parts())
    return Tiny(pipe, lambda numbers: texts(qwen_both(numbers)), options, **ALONE)


@tiny("QwenImageImg2ImgPipeline")
def qwen_img2img() -> Tiny:
    return Tiny(
        diffusers.QwenImageImg2ImgPipeline(**qwen_parts(vae=autoencoder())),
        lambda numbers: {**qwen_both(numbers), "image": pictures(numbers, 3, 16, 16)},
        {"height": 16, "width": 16, "true_cfg_scale": 4.0, "num_inference_steps": 8, "strength": 0.75},
        **TWO_CALLS,
    )


@tiny("QwenImageInpaintPipeline")
def qwen_inpaint() -> Tiny:
    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        image, mask = pictures(numbers, 3, 16, 16), pictures(numbers, 1, 16, 16).round()
        return {**qwen_both(numbers), "image": image, "mask_image": mask}

    pipe = diffusers.QwenImageInpaintPipeline(**qwen_parts(vae=autoencoder()))
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
        diffusers.QwenImageControlNetPipeline(**qwen_parts(vae=autoencoder(), controlnet=controlnet())),
        lambda numbers: {**qwen_both(numbers), "control_image": pictures(numbers, 3, 16, 16)},
        {"height": 16, "width": 16, "true_cfg_scale": 4.0},
        beside=("controlnet",),
        **TWO_CALLS,
    )
