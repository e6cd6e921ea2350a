"""Other text-to-video transformers of flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers.hooks import LayerSkipConfig

from tiny import Tiny, shared, tiny
from tiny.flow import ALONE, TWO_CALLS, Nothing, both, each, flow_scheduler, listens, masks, parts, texts

SIZE = {"height": 32, "width": 32, "num_frames": 5}  # 2 frames of 4 x 4 latents


@shared
def hunyuan_transformer(guidance_embeds: bool) -> Any:
    transformer = diffusers.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        mlp_ratio=1.0,
        patch_size=1,
        guidance_embeds=guidance_embeds,
        text_embed_dim=8,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 2, 4),
    )
    return listens(transformer, "attn", times=2)


def hunyuan_both(numbers: Sequence[int]) -> dict[str, Any]:
    return {
        **both(numbers),
        **masks(numbers, "prompt_attention_mask"),
        "pooled_prompt_embeds": each(numbers, 8, at=100),
        "negative_pooled_prompt_embeds": each(numbers, 8, at=300),
    }


@tiny("HunyuanVideoPipeline")
def hunyuan() -> Tiny:
    pipe = diffusers.HunyuanVideoPipeline(**parts("_2", transformer=hunyuan_transformer(guidance_embeds=True)))
    return Tiny(pipe, lambda numbers: texts(hunyuan_both(numbers)), {**SIZE, "guidance_scale": 4.0}, **ALONE)


@tiny("HunyuanVideoPipeline with true CFG")
def hunyuan_true_cfg() -> Tiny:
    pipe = diffusers.HunyuanVideoPipeline(**parts("_2", transformer=hunyuan_transformer(guidance_embeds=True)))
    return Tiny(pipe, hunyuan_both, {**SIZE, "guidance_scale": 1.0, "true_cfg_scale": 4.0}, **TWO_CALLS)


@shared
def hunyuan15_transformer() -> Any:
    transformer = diffusers.HunyuanVideo15Transformer3DModel(
        in_channels=9,  # latents, and a picture and a mask besides
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=1.0,
        text_embed_dim=8,
        text_embed_2_dim=8,
        image_embed_dim=8,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    return listens(transformer, "attn", times=2)


@shared
def hunyuan15_autoencoder() -> Any:
    return diffusers.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(8, 8),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=2,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )


def hunyuan15_both(numbers: Sequence[int]) -> dict[str, Any]:
    """Two prompts each: the second is of letters in the video."""
    given = {**both(numbers), **masks(numbers, "prompt_embeds_mask")}
    for prefix, at in (("", 500), ("negative_", 700)):
        given[f"{prefix}prompt_embeds_2"] = each(numbers, 2, 8, at=at)
        given[f"{prefix}prompt_embeds_mask_2"] = torch.ones(len(numbers), 2)
    return given


def hunyuan15(guider: Any, **layout: Any) -> Tiny:
    given = parts("_2", transformer=hunyuan15_transformer(), vae=hunyuan15_autoencoder(), guider=guider)
    pipe = diffusers.HunyuanVideo15Pipeline(**given)
    pipe.vision_num_semantic_tokens = 2  # tokens of a picture that is not there: 729
    return Tiny(pipe, hunyuan15_both, {"height": 16, "width": 16, "num_frames": 3}, **layout)


@tiny("HunyuanVideo15Pipeline")
def hunyuan15_guided() -> Tiny:
    return hunyuan15(diffusers.ClassifierFreeGuidance(guidance_scale=4.0), **TWO_CALLS)


@tiny("HunyuanVideo15Pipeline with skip-layer guidance")
def hunyuan15_skipping() -> Tiny:
    """A third call, of the text again without a layer, in all steps but the first; by its defaults in fewer."""
    guider = diffusers.SkipLayerGuidance(
        guidance_scale=4.0,
        skip_layer_config=LayerSkipConfig(indices=[1], fqn="transformer_blocks", skip_attention=False, skip_ff=True),
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=1.0,
    )
    return hunyuan15(guider, **{**TWO_CALLS, "calls": 3, "varies": True})


@shared
def kandinsky_transformer() -> Any:
    transformer = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        in_text_dim=8,
        in_text_dim2=8,
        time_dim=8,
        out_visual_dim=4,
        model_dim=16,
        ff_dim=16,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(4, 2, 2),
    )
    for name, weight in transformer.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(weight, std=0.2)  # zeros when new: nothing would pass
    return transformer


def kandinsky_both(numbers: Sequence[int]) -> dict[str, Any]:
    given = {}
    for prefix, at, tokens in (("", 0, 3), ("negative_", 200, 2)):
        given[f"{prefix}prompt_embeds_qwen"] = each(numbers, tokens, 8, at=at, scale=3)
        given[f"{prefix}prompt_embeds_clip"] = each(numbers, 8, at=at + 100)
        given[f"{prefix}prompt_cu_seqlens"] = torch.arange(len(numbers) + 1) * tokens  # where each prompt begins
    return given


@tiny("Kandinsky5T2VPipeline")
def kandinsky_video() -> Tiny:
    pipe = diffusers.Kandinsky5T2VPipeline(**parts("_2", transformer=kandinsky_transformer()))
    return Tiny(pipe, kandinsky_both, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


@tiny("Kandinsky5T2IPipeline")
def kandinsky_image() -> Tiny:
    pipe = diffusers.Kandinsky5T2IPipeline(**parts("_2", transformer=kandinsky_transformer()))
    pipe.resolutions = [(32, 32)]
    return Tiny(pipe, kandinsky_both, {"height": 32, "width": 32, "guidance_scale": 4.0}, **TWO_CALLS)


@shared
def cosmos_transformer() -> Any:
    transformer = diffusers.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=1,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=1.0,
        text_embed_dim=8,
        adaln_lora_dim=4,
        max_size=(4, 8, 8),
        concat_padding_mask=False,  # which needs torchvision
    )
    return listens(transformer, "attn2", times=2)


@tiny("CosmosTextToWorldPipeline")
def cosmos_video() -> Tiny:
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80, sigma_data=0.5, final_sigmas_type="sigma_min", prediction_type="epsilon"
    )
    given = parts(
        transformer=cosmos_transformer(), scheduler=scheduler, safety_checker=Nothing()
    )  # of prompts and frames
    pipe = diffusers.CosmosTextToWorldPipeline(**given)
    return Tiny(pipe, both, {**SIZE, "num_frames": 9, "guidance_scale": 4.0}, **TWO_CALLS)


@tiny("Cosmos2TextToImagePipeline")
def cosmos2_image() -> Tiny:
    given = parts(
        transformer=cosmos_transformer(),
        scheduler=flow_scheduler(use_karras_sigmas=True),
        safety_checker=Nothing(),
    )
    pipe = diffusers.Cosmos2TextToImagePipeline(**given)
    return Tiny(pipe, both, {"height": 32, "width": 32, "guidance_scale": 4.0}, **TWO_CALLS)
