"""Other text-to-image transformers of flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch

from tiny import Tiny, normal, shared, tiny
from tiny.flow import ALONE, TWO_CALLS, autoencoder, both, each, listens, masks, parts, pictures, texts

SIZE = {"height": 64, "width": 64}  # 8 x 8 latents


@tiny("CogView4Pipeline")
def cogview4() -> Tiny:
    transformer = diffusers.CogView4Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=8,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(16, 16),
    )
    pipe = diffusers.CogView4Pipeline(**parts(transformer=listens(transformer, "attn")))
    return Tiny(pipe, both, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


@shared
def lumina2_transformer() -> Any:
    return diffusers.Lumina2Transformer2DModel(
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(16, 16, 16),
        cap_feat_dim=8,
    )


def lumina2_both(numbers: Sequence[int]) -> dict[str, Any]:
    return {**both(numbers), **masks(numbers, "prompt_attention_mask")}


@tiny("Lumina2Pipeline")
def lumina2() -> Tiny:
    pipe = diffusers.Lumina2Pipeline(**parts(transformer=lumina2_transformer()))
    return Tiny(pipe, lumina2_both, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


@shared
def z_image_transformer() -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        axes_dims=[4, 2, 2],
        axes_lens=[64, 16, 16],
    )
    torch.nn.init.normal_(transformer.x_pad_token)  # whatever the memory held, when new
    torch.nn.init.normal_(transformer.cap_pad_token)
    return transformer


def listed(numbers: Sequence[int]) -> dict[str, Any]:
    """Lists of embeddings, (tokens, channels) each: null prompts are shorter."""
    return {
        "prompt_embeds": [normal(number, 3, 8, scale=3)[0] for number in numbers],
        "negative_prompt_embeds": [normal(200 + number, 2, 8, scale=3)[0] for number in numbers],
    }


@tiny("ZImagePipeline")
def z_image() -> Tiny:
    pipe = diffusers.ZImagePipeline(**parts(transformer=z_image_transformer()))
    return Tiny(pipe, listed, {**SIZE, "guidance_scale": 4.0}, branches=("text", "null"))


@tiny("ZImagePipeline without guidance")
def z_image_turbo() -> Tiny:
    pipe = diffusers.ZImagePipeline(**parts(transformer=z_image_transformer()))
    return Tiny(pipe, lambda numbers: texts(listed(numbers)), {**SIZE, "guidance_scale": 0.0}, **ALONE)


@tiny("ZImageImg2ImgPipeline")
def z_image_img2img() -> Tiny:
    return Tiny(
        diffusers.ZImageImg2ImgPipeline(**parts(transformer=z_image_transformer(), vae=autoencoder(4))),
        lambda numbers: {**listed(numbers), "image": pictures(numbers, 3, 8, 8)},
        {"height": 8, "width": 8, "guidance_scale": 4.0, "num_inference_steps": 8, "strength": 0.75},
        branches=("text", "null"),
    )


@shared
def hunyuan_transformer(guidance_embeds: bool = False, use_meanflow: bool = False) -> Any:
    transformer = diffusers.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        mlp_ratio=1.0,
        guidance_embeds=guidance_embeds,
        text_embed_dim=8,
        text_embed_2_dim=8,
        rope_axes_dim=(4, 4),
        use_meanflow=use_meanflow,
    )
    return listens(transformer, "attn", times=2)


def hunyuan_both(numbers: Sequence[int]) -> dict[str, Any]:
    """Two prompts each: the second, that of letters in the picture, is empty."""
    second = {"prompt_embeds_2": torch.zeros(len(numbers), 2, 8), "prompt_embeds_mask_2": torch.zeros(len(numbers), 2)}
    nulls = {f"negative_{name}": value for name, value in second.items()}
    return {**both(numbers), **masks(numbers, "prompt_embeds_mask"), **second, **nulls}


@tiny("HunyuanImagePipeline with a guider")
def hunyuan() -> Tiny:
    guider = diffusers.AdaptiveProjectedMixGuidance(guidance_scale=4.0, adaptive_projected_guidance_start_step=3)
    pipe = diffusers.HunyuanImagePipeline(**parts("_2", transformer=hunyuan_transformer(), guider=guider))
    return Tiny(pipe, hunyuan_both, {"height": 256, "width": 256}, **TWO_CALLS)


@tiny("HunyuanImagePipeline distilled")
def hunyuan_distilled() -> Tiny:
    transformer = hunyuan_transformer(guidance_embeds=True, use_meanflow=True)
    pipe = diffusers.HunyuanImagePipeline(**parts("_2", transformer=transformer))
    return Tiny(
        pipe,
        lambda numbers: texts(hunyuan_both(numbers)),
        {"height": 256, "width": 256, "distilled_guidance_scale": 4.0},
        **ALONE,
    )


@tiny("HiDreamImagePipeline")
def hidream() -> Tiny:
    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        given = {}
        for prefix, at in (("", 0), ("negative_", 200)):
            layers = torch.stack([each(numbers, 3, 8, at=at + 1000 * layer, scale=3) for layer in range(2)])
            given[f"{prefix}prompt_embeds_llama3"] = layers  # (layers, images, tokens, channels)
            given[f"{prefix}prompt_embeds_t5"] = each(numbers, 2, 8, at=at + 2000, scale=3)
            given[f"{prefix}pooled_prompt_embeds"] = each(numbers, 8, at=at + 3000)
        return given

    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[8, 8],
        text_emb_dim=8,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(8, 8),
        llama_layers=(0, 1),
    )
    pipe = diffusers.HiDreamImagePipeline(**parts("_2", "_3", "_4", transformer=transformer))
    pipe.default_sample_size = 8  # it scales every size to this area
    return Tiny(pipe, conditions, {**SIZE, "guidance_scale": 4.0})


@tiny("GlmImagePipeline")
def glm_image() -> Tiny:
    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        return {**both(numbers), "prior_token_ids": each(numbers, 16, at=500).gt(0).long()}

    transformer = diffusers.GlmImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=8,
        time_embed_dim=8,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=2,
    )
    pipe = diffusers.GlmImagePipeline(**parts(transformer=transformer, processor=None, vision_language_encoder=None))
    return Tiny(pipe, conditions, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


@tiny("ErnieImagePipeline")
def ernie_image() -> Tiny:
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=16,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=16,
        in_channels=4,
        out_channels=4,
        patch_size=1,
        text_in_dim=8,
        rope_axes_dim=(4, 2, 2),
    )
    for layer in (transformer.final_linear, transformer.adaLN_modulation[-1]):
        torch.nn.init.normal_(layer.weight, std=0.2)  # zeros when new
    pipe = diffusers.ErnieImagePipeline(**parts(transformer=transformer))
    return Tiny(pipe, listed, {**SIZE, "guidance_scale": 4.0})


@tiny("Krea2Pipeline")
def krea2() -> Tiny:
    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        return {
            "prompt_embeds": each(numbers, 3, 2, 8, scale=3),  # (images, tokens, layers, channels)
            "negative_prompt_embeds": each(numbers, 3, 2, 8, at=200, scale=3),
            **{name: mask.bool() for name, mask in masks(numbers, "prompt_embeds_mask").items()},
        }

    transformer = diffusers.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=8,
        num_text_layers=2,
        text_num_attention_heads=1,
        text_num_key_value_heads=1,
        text_intermediate_size=8,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    pipe = diffusers.Krea2Pipeline(**parts(transformer=transformer))
    return Tiny(pipe, conditions, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)
