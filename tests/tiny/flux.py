"""Flux and what is built like it: packed latents (images, tokens, channels), rotary tables from ids of all tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import PIL.Image
import torch

from tiny import Tiny, shared, tiny
from tiny.flow import ALONE, TWO_CALLS, Nothing, autoencoder, both, each, listens, masks, parts, pictures, texts, told

#: Two heads of 8 and their rotary axes.
SMALL = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "axes_dims_rope": (2, 2, 4),
    "joint_attention_dim": 8,
}
SIZE = {"height": 64, "width": 64}  # 8 x 8 latents without an autoencoder, 4 x 4 tokens


@shared
def flux_transformer(in_channels: int = 64, out_channels: int | None = None, guidance_embeds: bool = False) -> Any:
    return diffusers.FluxTransformer2DModel(
        in_channels=in_channels,
        out_channels=out_channels,
        guidance_embeds=guidance_embeds,
        pooled_projection_dim=8,
        **SMALL,
    )


def flux_parts(*channels: int, guidance_embeds: bool = False, **more: Any) -> dict[str, Any]:
    transformer = flux_transformer(*channels, guidance_embeds=guidance_embeds)
    return parts("_2", transformer=transformer, **more)


def flux_text(numbers: Sequence[int]) -> dict[str, Any]:
    return {**texts(both(numbers)), "pooled_prompt_embeds": each(numbers, 8, at=100)}


def flux_both(numbers: Sequence[int]) -> dict[str, Any]:
    null = {"negative_pooled_prompt_embeds": each(numbers, 8, at=300)}
    return {**flux_text(numbers), **both(numbers), **null}


def latents(numbers: Sequence[int]) -> torch.Tensor:
    """An image in an autoencoder's latents, which these pipelines take as it is."""
    return each(numbers, 16, 8, 8, at=400)


@tiny("FluxPipeline")
def flux() -> Tiny:
    pipe = diffusers.FluxPipeline(**flux_parts(guidance_embeds=True))
    return Tiny(pipe, flux_text, {**SIZE, "guidance_scale": 4.0}, **ALONE)


@tiny("FluxPipeline with true CFG")
def flux_true_cfg() -> Tiny:
    return Tiny(diffusers.FluxPipeline(**flux_parts()), flux_both, {**SIZE, "true_cfg_scale": 4.0}, **TWO_CALLS)


@tiny("FluxImg2ImgPipeline with true CFG")
def flux_img2img() -> Tiny:
    return Tiny(
        diffusers.FluxImg2ImgPipeline(**flux_parts()),
        lambda numbers: {**flux_both(numbers), "image": latents(numbers)},
        {**SIZE, "true_cfg_scale": 4.0, "num_inference_steps": 8, "strength": 0.75},  # the last 6 of 8 steps
        **TWO_CALLS,
    )


@tiny("FluxInpaintPipeline")
def flux_inpaint() -> Tiny:
    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        image, mask = latents(numbers), pictures(numbers, 1, 64, 64).round()
        return {**flux_text(numbers), "image": image, "masked_image_latents": image, "mask_image": mask}

    pipe = diffusers.FluxInpaintPipeline(**flux_parts(guidance_embeds=True))
    return Tiny(pipe, conditions, {**SIZE, "guidance_scale": 4.0, "strength": 1.0}, **ALONE)


@tiny("FluxFillPipeline")
def flux_fill() -> Tiny:
    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        image, mask = pictures(numbers, 3, 8, 8), pictures(numbers, 1, 8, 8).round()
        return {**flux_text(numbers), "image": image, "mask_image": mask}

    pipe = diffusers.FluxFillPipeline(**flux_parts(132, 64, guidance_embeds=True, vae=autoencoder()))
    return Tiny(pipe, conditions, {"height": 8, "width": 8, "guidance_scale": 4.0}, **ALONE)


@tiny("FluxControlPipeline")
def flux_control() -> Tiny:
    return Tiny(
        diffusers.FluxControlPipeline(**flux_parts(128, 64, guidance_embeds=True, vae=autoencoder())),
        lambda numbers: {**flux_text(numbers), "control_image": pictures(numbers, 3, 8, 8)},
        {"height": 8, "width": 8, "guidance_scale": 4.0},
        **ALONE,
    )


@shared
def flux_controlnet() -> Any:
    controlnet = diffusers.FluxControlNetModel(in_channels=64, pooled_projection_dim=8, **SMALL)
    for layer in (
        *controlnet.controlnet_blocks,
        *controlnet.controlnet_single_blocks,
        controlnet.controlnet_x_embedder,
    ):
        torch.nn.init.normal_(layer.weight, std=0.2)  # zeros when new: it would say nothing
    return controlnet


def flux_controlled(way: Any, conditions: Any, **options: Any) -> Tiny:
    pipe = diffusers.FluxControlNetPipeline(**flux_parts(vae=autoencoder(), controlnet=flux_controlnet()))
    return Tiny(
        pipe,
        lambda numbers: {**conditions(numbers), "control_image": pictures(numbers, 3, 8, 8)},
        {"height": 8, "width": 8, **options},
        beside=("controlnet",),
        **way,
    )


@tiny("FluxControlNetPipeline")
def flux_with_controlnet() -> Tiny:
    return flux_controlled(ALONE, flux_text)


@tiny("FluxControlNetPipeline with true CFG")
def flux_with_controlnet_true_cfg() -> Tiny:
    return flux_controlled(TWO_CALLS, flux_both, true_cfg_scale=4.0)


@tiny("FluxKontextPipeline")
def flux_kontext() -> Tiny:
    return Tiny(
        diffusers.FluxKontextPipeline(**flux_parts(guidance_embeds=True)),
        lambda numbers: {**flux_text(numbers), "image": latents(numbers)},
        {**SIZE, "max_area": 64 * 64, "guidance_scale": 4.0},
        **ALONE,
    )


@shared
def flux2_transformer(guidance_embeds: bool) -> Any:
    transformer = diffusers.Flux2Transformer2DModel(
        **{**SMALL, "axes_dims_rope": (2, 2, 2, 2)},
        in_channels=64,
        timestep_guidance_channels=8,
        guidance_embeds=guidance_embeds,
    )
    return listens(transformer, "attn", times=3)


@shared
def flux2_autoencoder(blocks: int = 1) -> Any:
    return diffusers.AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(4,) * blocks,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


@tiny("Flux2Pipeline")
def flux2() -> Tiny:
    pipe = diffusers.Flux2Pipeline(**parts(transformer=flux2_transformer(guidance_embeds=True)))
    return Tiny(pipe, lambda numbers: texts(both(numbers)), {**SIZE, "guidance_scale": 4.0}, **ALONE)


@tiny("Flux2KleinPipeline")
def flux2_klein() -> Tiny:
    transformer = flux2_transformer(guidance_embeds=False)
    pipe = diffusers.Flux2KleinPipeline(**parts(transformer=transformer, vae=flux2_autoencoder()))
    return Tiny(pipe, both, {"height": 8, "width": 8, "guidance_scale": 4.0}, **TWO_CALLS)


@tiny("Flux2KleinPipeline distilled")
def flux2_klein_distilled() -> Tiny:
    transformer = flux2_transformer(guidance_embeds=False)
    pipe = diffusers.Flux2KleinPipeline(**parts(transformer=transformer, vae=flux2_autoencoder()), is_distilled=True)
    return Tiny(pipe, lambda numbers: texts(both(numbers)), {"height": 8, "width": 8}, **ALONE)


@tiny("Flux2KleinKVPipeline")
def flux2_klein_kv() -> Tiny:
    """The first call returns the keys and values of a picture's tokens, which all others are given."""
    picture = PIL.Image.fromarray(pictures((7,), 64, 64, 3).mul(255).byte()[0].numpy())
    transformer = flux2_transformer(guidance_embeds=False)
    pipe = diffusers.Flux2KleinKVPipeline(**parts(transformer=transformer, vae=flux2_autoencoder(4)), is_distilled=True)
    return Tiny(pipe, lambda numbers: {**texts(both(numbers)), "image": picture}, SIZE, varies=True, **ALONE)


@shared
def chroma_transformer() -> Any:
    return diffusers.ChromaTransformer2DModel(
        in_channels=64,
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
        **SMALL,
    )


def chroma_both(numbers: Sequence[int]) -> dict[str, Any]:
    return {**both(numbers), **{name: mask.float() for name, mask in masks(numbers, "prompt_attention_mask").items()}}


@tiny("ChromaPipeline")
def chroma() -> Tiny:
    pipe = diffusers.ChromaPipeline(**parts(transformer=chroma_transformer()))
    return Tiny(pipe, chroma_both, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


@tiny("ChromaImg2ImgPipeline")
def chroma_img2img() -> Tiny:
    return Tiny(
        diffusers.ChromaImg2ImgPipeline(**parts(transformer=chroma_transformer(), vae=autoencoder())),
        lambda numbers: {**chroma_both(numbers), "image": pictures(numbers, 3, 8, 8)},
        {"height": 8, "width": 8, "guidance_scale": 4.0, "num_inference_steps": 8, "strength": 0.75},
        **TWO_CALLS,
    )


@tiny("OvisImagePipeline")
def ovis() -> Tiny:
    transformer = diffusers.OvisImageTransformer2DModel(in_channels=64, **SMALL)
    pipe = diffusers.OvisImagePipeline(**parts(transformer=transformer))
    return Tiny(
        pipe, lambda numbers: {**both(numbers), "negative_prompt": None}, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS
    )


@tiny("LongCatImagePipeline")
def longcat() -> Tiny:
    transformer = diffusers.LongCatImageTransformer2DModel(in_channels=64, pooled_projection_dim=8, **SMALL)
    pipe = diffusers.LongCatImagePipeline(**parts(transformer=transformer, text_processor=None))
    pipe._encode_prompt = lambda prompts: told(prompts, 3, 8, scale=3)
    return Tiny(
        pipe,
        lambda numbers: {
            "prompt": [str(number) for number in numbers],
            "negative_prompt": [str(200 + number) for number in numbers],
        },
        {**SIZE, "guidance_scale": 4.0, "enable_prompt_rewrite": False},
        **TWO_CALLS,
    )


@tiny("BriaFiboPipeline")
def bria_fibo() -> Tiny:
    def embeddings(prompt: Sequence[str], **_: Any) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        tokens = 2 if prompt[0].startswith("2") else 3  # null prompts are shorter, so that padding is masked
        layers = [told([f"{prompt}{layer}" for prompt in prompt], tokens, 8, scale=3) for layer in range(3)]
        return torch.cat(layers[-2:], dim=-1), layers, torch.ones(len(prompt), tokens)

    transformer = diffusers.BriaFiboTransformer2DModel(
        in_channels=16, text_encoder_dim=8, **{**SMALL, "axes_dims_rope": (0, 4, 4), "joint_attention_dim": 16}
    )
    pipe = diffusers.BriaFiboPipeline(**parts(transformer=transformer, text_encoder=Nothing()))
    pipe.get_prompt_embeds = embeddings
    return Tiny(
        pipe,
        lambda numbers: {
            "prompt": [str(number) for number in numbers],
            "negative_prompt": [str(200 + number) for number in numbers],
        },
        {**SIZE, "guidance_scale": 4.0},
    )
