"""Pictures made in stages: Stable Cascade, unCLIP, Shap-E and what descends from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
from diffusers.pipelines.deprecated.unclip import UnCLIPTextProjModel

from . import STEPS, Tiny, tiny
from .kandinsky import decoder, prior
from .unet_parts import SIZE, WIDE, clip_tokenizer, each, filled, listening, prompts, text_encoder
from .unets import also


def cascade(**options: Any) -> Any:
    given = {
        "conditioning_dim": WIDE,
        "block_out_channels": (16, 16),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "down_blocks_repeat_mappers": (1, 1),
        "up_blocks_repeat_mappers": (1, 1),
        "switch_level": (False,),
        "timestep_ratio_embedding_dim": 8,
        "clip_text_pooled_in_channels": WIDE,
        "clip_seq": 2,
    }
    net = filled(diffusers.models.StableCascadeUNet(**{**given, **options}))
    return listening(listening(net, 4.0, "clip_"), 10.0, "kv_mapper")


def words(numbers: Sequence[int]) -> dict[str, Any]:
    """Embeddings and pooled ones, which Stable Cascade names its own way."""
    given = {}
    for about, prefix in ((40, ""), (41, "negative_")):
        given[f"{prefix}prompt_embeds"] = each(numbers, 5, WIDE, about=about)
        given[f"{prefix}prompt_embeds_pooled"] = each(numbers, 1, WIDE, about=about + 10)
    return given


@tiny("StableCascadePriorPipeline")
def cascade_prior() -> Tiny:
    """Text first, then null; a timestep for each row; its scheduler's last timestep is left out."""
    pipe = diffusers.StableCascadePriorPipeline(
        tokenizer=None,
        text_encoder=text_encoder("CLIPTextModelWithProjection"),  # only asked for its dtype
        prior=cascade(in_channels=4, out_channels=4, clip_text_in_channels=WIDE, clip_image_in_channels=WIDE),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        resolution_multiple=2.0,
    )
    options = {"guidance_scale": 4.0, "height": 8, "width": 8, "output_type": "pt"}
    return Tiny(pipe, words, options, branches=("text", "null"), denoisers=("prior",), way="one batch")


def cascade_pipe() -> Any:
    return diffusers.StableCascadeDecoderPipeline(
        decoder=cascade(in_channels=4, out_channels=4, effnet_in_channels=4),
        tokenizer=None,
        text_encoder=text_encoder("CLIPTextModelWithProjection"),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=None,
        latent_dim_scale=2.0,
    )


def embedded(numbers: Sequence[int]) -> dict[str, Any]:
    return {"image_embeddings": each(numbers, 4, SIZE // 2, SIZE // 2, about=60)}


@tiny("StableCascadeDecoderPipeline")
def cascade_decoder() -> Tiny:
    """Text first, then null, whose embedded picture is zeros."""
    options = {"guidance_scale": 2.0}
    conditions = also(words, embedded)
    return Tiny(cascade_pipe(), conditions, options, branches=("text", "null"), denoisers=("decoder",), way="one batch")


@tiny("StableCascadeDecoderPipeline without guidance")
def cascade_decoder_alone() -> Tiny:
    """As it is by default."""
    conditions = also(words, embedded)
    return Tiny(cascade_pipe(), conditions, branches=("text",), denoisers=("decoder",), way="whole calls")


def spread(**options: Any) -> Any:
    return diffusers.UnCLIPScheduler(num_train_timesteps=1000, **options)


@tiny("UnCLIPPipeline")
def unclip() -> Tiny:
    """Three runs with a scheduler each; the last one has no guidance, and another network takes its last step."""
    small = {"sample_size": 2 * SIZE, "in_channels": 6, "out_channels": 3, "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {
        "block_out_channels": (8, 8),
        "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
        "add_attention": False,
    }
    pipe = diffusers.UnCLIPPipeline(
        prior=prior(),
        decoder=decoder(
            None,
            in_channels=3,
            out_channels=6,
            encoder_hid_dim=None,
            encoder_hid_dim_type=None,
            class_embed_type="identity",
        ),
        text_encoder=text_encoder("CLIPTextModelWithProjection"),
        tokenizer=clip_tokenizer(),
        text_proj=UnCLIPTextProjModel(clip_embeddings_dim=WIDE, time_embed_dim=32, cross_attention_dim=WIDE),
        super_res_first=diffusers.UNet2DModel(**small, **blocks),
        super_res_last=diffusers.UNet2DModel(**small, **blocks),
        prior_scheduler=spread(variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0),
        decoder_scheduler=spread(variance_type="learned_range", prediction_type="sample"),
        super_res_scheduler=spread(variance_type="fixed_small_log", prediction_type="sample"),
    )
    runs = {f"{name}_num_inference_steps": STEPS for name in ("prior", "decoder", "super_res")}
    options = {**runs, "num_inference_steps": None, "output_type": "np"}
    denoisers = ("prior", "decoder", "super_res_first", "super_res_last")
    names = ("prior", "decoder", "super_res", "super_res")
    schedulers = {part: f"{name}_scheduler" for part, name in zip(denoisers, names, strict=True)}
    return Tiny(pipe, prompts, options, denoisers=denoisers, way="one batch", runs=3, schedulers=schedulers)


@tiny("ShapEPipeline")
def shap_e() -> Tiny:
    """A prior over tokens, which also predicts a variance that is left out; published with a solver of two calls."""
    net = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        embedding_dim=4,
        num_embeddings=8,
        embedding_proj_dim=WIDE,
        time_embed_dim=16,
        num_layers=1,
        clip_embed_dim=8,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    pipe = diffusers.ShapEPipeline(
        prior=net,
        text_encoder=text_encoder("CLIPTextModelWithProjection"),
        tokenizer=clip_tokenizer(),
        scheduler=diffusers.EulerDiscreteScheduler(num_train_timesteps=1024, prediction_type="sample"),
        shap_e_renderer=None,
    )
    return Tiny(pipe, prompts, {"guidance_scale": 4.0}, denoisers=("prior",), way="one batch")
