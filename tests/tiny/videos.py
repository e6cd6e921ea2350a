"""Tiny pipelines of videos that run both branches in one batch: CogVideoX, LTX, Mochi, Allegro and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from conftest import BETAS
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

from tiny import STEPS, Tiny, shared, tiny
from tiny.embeddings import loud, picture
from tiny.pictures import (
    GUIDED,
    HALF_WAY,
    LENGTH,
    SIDE,
    TINY,
    UNGUIDED,
    WIDTH,
    flow,
    masked_prompts,
    pipeline,
    prompts,
    without_null,
)

FRAMES = 3  # of latents
VIDEO = {"height": 8 * SIDE, "width": 8 * SIDE, "num_frames": 4 * (FRAMES - 1) + 1, **GUIDED}

#: Rows with as many calls a generation, because not every step has the same.
CALLS = {"AnyFlowFARPipeline": 2 * STEPS + 1}
#: Rows whose class fails with more than one image.
ALONE = ("LTXConditionPipeline with a later picture",)


def videos(numbers: Sequence[int]) -> torch.Tensor:
    return picture(numbers, FRAMES, 3, 8 * SIDE, 8 * SIDE)


def with_pictures(conditions: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    return lambda numbers: {**conditions(numbers), "image": picture(numbers, 3, 8 * SIDE, 8 * SIDE)}


# --- CogVideoX


@shared
def _cog_autoencoder() -> Any:
    return diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(4,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=1,
    )


def _cog(name: str, conditions: Callable[..., Any] = prompts, *, inputs: int = 4, **more: Any) -> Tiny:
    """`inputs` is the number of the denoiser's input channels: 4 are the latents'."""
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_layers=1,
        num_attention_heads=1,
        attention_head_dim=16,
        in_channels=inputs,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        max_text_seq_length=LENGTH,
        sample_width=SIDE,
        sample_height=SIDE,
        sample_frames=4 * FRAMES - 3,
        **more.pop("sizes", {"use_rotary_positional_embeddings": True}),
    )
    zero_snr = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler = getattr(diffusers, more.pop("scheduler", "CogVideoXDDIMScheduler"))(**zero_snr)
    vae = more.pop("vae", None)
    pipe = pipeline(name, transformer=loud(transformer), vae=vae, scheduler=scheduler)
    options = {**VIDEO, **({"num_frames": FRAMES} if vae else {}), **more.pop("options", {})}
    return Tiny(pipe, conditions, {key: value for key, value in options.items() if value is not None}, **more)


@tiny("CogVideoXPipeline")
def cog() -> Tiny:
    return _cog("CogVideoXPipeline")


@tiny("CogVideoXPipeline without rotary tables")
def cog_plain() -> Tiny:
    return _cog("CogVideoXPipeline", sizes={})


# One frame of four patches: as many rows of the rotary tables as a guided batch of two videos has.
@tiny("CogVideoXPipeline of four tokens")
def cog_four() -> Tiny:
    return _cog("CogVideoXPipeline", options={"num_frames": 1})


# It steps in a way of its own, with noise, and is given the prediction before.
@tiny("CogVideoXPipeline with CogVideoXDPMScheduler")
def cog_dpm() -> Tiny:
    return _cog("CogVideoXPipeline", scheduler="CogVideoXDPMScheduler")


# The scale grows from 1 to its value.
@tiny("CogVideoXPipeline with dynamic guidance")
def cog_dynamic() -> Tiny:
    return _cog("CogVideoXPipeline", options={"use_dynamic_cfg": True})


@tiny("CogVideoXImageToVideoPipeline")
def cog_image() -> Tiny:
    return _cog("CogVideoXImageToVideoPipeline", with_pictures(prompts), inputs=8, vae=_cog_autoencoder())


# One patch a frame: as many rows of the rotary tables as a guided batch of one video has.
@tiny("CogVideoXImageToVideoPipeline of two tokens")
def cog_image_two() -> Tiny:
    side = 16
    return _cog(
        "CogVideoXImageToVideoPipeline",
        lambda numbers: {**prompts(numbers), "image": picture(numbers, 3, side, side)},
        inputs=8,
        vae=_cog_autoencoder(),
        options={"height": side, "width": side, "num_frames": 2},
    )


@tiny("CogVideoXImageToVideoPipeline of four tokens")
def cog_image_four() -> Tiny:
    options = {"num_frames": 1}
    parts = {"inputs": 8, "vae": _cog_autoencoder()}
    return _cog("CogVideoXImageToVideoPipeline", with_pictures(prompts), **parts, options=options)


# Patches of two frames, and one number for the whole batch besides the timesteps.
@tiny("CogVideoXImageToVideoPipeline 1.5")
def cog_image_15() -> Tiny:
    sizes = {"use_rotary_positional_embeddings": True, "patch_size_t": 2, "ofs_embed_dim": 8, "patch_bias": False}
    parts = {"inputs": 8, "vae": _cog_autoencoder(), "sizes": sizes}
    return _cog("CogVideoXImageToVideoPipeline", with_pictures(prompts), **parts)


@tiny("CogVideoXVideoToVideoPipeline")
def cog_video() -> Tiny:
    return _cog(
        "CogVideoXVideoToVideoPipeline",
        lambda numbers: {**prompts(numbers), "video": videos(numbers)},
        vae=_cog_autoencoder(),
        options={**HALF_WAY, "num_frames": None},
    )


@tiny("CogVideoXFunControlPipeline")
def cog_control() -> Tiny:
    return _cog(
        "CogVideoXFunControlPipeline",
        lambda numbers: {**prompts(numbers), "control_video": videos(numbers)},
        inputs=8,
        vae=_cog_autoencoder(),
        options={"num_frames": None},
    )


# --- LTX


@shared
def _ltx_autoencoder() -> Any:
    """Its latents are of hardly any variance: what is drawn of a picture is the first video's for all of a batch."""
    sizes = {"block_out_channels": (4,), "layers_per_block": (1, 1), "spatio_temporal_scaling": (True,)}
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=4,
        patch_size=16,
        down_block_types=("LTXVideoDownBlock3D",),
        **sizes,
        **{f"decoder_{name}": value for name, value in sizes.items()},
        decoder_inject_noise=(False, False),
        downsample_type=("conv",),
        upsample_residual=(False,),
        upsample_factor=(1,),
    )
    with torch.no_grad():
        vae.encoder.conv_out.conv.weight[-1], vae.encoder.conv_out.conv.bias[-1] = 0, -30
    return vae


def _ltx(name: str, conditions: Callable[..., Any] = masked_prompts, options: Any = (), **more: Any) -> Tiny:
    transformer = diffusers.LTXVideoTransformer3DModel(
        **TINY, in_channels=4, out_channels=4, cross_attention_dim=WIDTH, caption_channels=WIDTH
    )
    # Four tokens: as many rows of whatever belongs to them as a guided batch of two videos has.
    sizes = {"height": 64, "width": 32, "num_frames": 3, **GUIDED}
    pipe = pipeline(name, transformer=loud(transformer), vae=_ltx_autoencoder(), scheduler=flow())
    return Tiny(pipe, conditions, {**sizes, **dict(options)}, **more)


@tiny("LTXPipeline")
def ltx() -> Tiny:
    return _ltx("LTXPipeline")


@tiny("LTXPipeline without guidance")
def ltx_unguided() -> Tiny:
    return _ltx("LTXPipeline", options={"guidance_scale": 1.0}, **UNGUIDED)


# Every token has a timestep: the picture's is 0.
@tiny("LTXImageToVideoPipeline")
def ltx_image() -> Tiny:
    return _ltx(
        "LTXImageToVideoPipeline", lambda numbers: {**masked_prompts(numbers), "image": picture(numbers, 3, 64, 32)}
    )


@tiny("LTXConditionPipeline")
def ltx_condition() -> Tiny:
    return _ltx("LTXConditionPipeline")


# The picture's tokens have timestep 0. Whoever gives pictures gives all videos the same. Noise that is added to it in
# every step would not be the same in a batch: the first video's generator is used once more.
@tiny("LTXConditionPipeline with a picture")
def ltx_condition_picture() -> Tiny:
    frame = LTXVideoCondition(image=picture([0], 3, 64, 32), frame_index=0)
    return _ltx("LTXConditionPipeline", options={"conditions": [frame], "image_cond_noise_scale": 0.0})


# A picture of a later frame is given as tokens of its own, half noise. It has a single row for any number of videos.
@tiny("LTXConditionPipeline with a later picture")
def ltx_condition_later() -> Tiny:
    frame = LTXVideoCondition(image=picture([0], 3, 64, 32), frame_index=2, strength=0.5)
    return _ltx("LTXConditionPipeline", images=(0,), options={"conditions": [frame]})


# --- Sana


def _sana(name: str, conditions: Callable[..., Any] = masked_prompts, *, vae: Any = None, **options: Any) -> Tiny:
    transformer = diffusers.SanaVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        sample_size=SIDE,
        rope_max_seq_len=8,
    )
    pipe = pipeline(name, transformer=loud(transformer), vae=vae, scheduler=flow())
    sizes = {"height": 8 * SIDE, "width": 8 * SIDE, "frames": 4 * (FRAMES - 1) + 1, "use_resolution_binning": False}
    return Tiny(pipe, conditions, {**sizes, "negative_prompt": None, **GUIDED, **options})


@tiny("SanaVideoPipeline")
def sana_video() -> Tiny:
    return _sana("SanaVideoPipeline")


# Every place has a timestep: the picture's is 0. With a generator for each video it takes one picture for all.
@tiny("SanaImageToVideoPipeline")
def sana_image() -> Tiny:
    vae = diffusers.AutoencoderKLWan(
        base_dim=2,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    return _sana("SanaImageToVideoPipeline", vae=vae, image=picture([0], 3, 8 * SIDE, 8 * SIDE))


# --- Others


@tiny("LattePipeline")
def latte() -> Tiny:
    transformer = diffusers.LatteTransformer3DModel(
        **TINY,
        in_channels=4,
        out_channels=8,
        patch_size=2,
        sample_size=SIDE,
        video_length=FRAMES,
        cross_attention_dim=WIDTH,
        caption_channels=WIDTH,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
    )
    scheduler = diffusers.DDIMScheduler(**BETAS, clip_sample=False)
    pipe = pipeline("LattePipeline", transformer=loud(transformer), vae=None, scheduler=scheduler)
    sizes = {"height": 8 * SIDE, "width": 8 * SIDE, "video_length": FRAMES}
    return Tiny(pipe, prompts, {**sizes, "negative_prompt": None, **GUIDED})


# Its timesteps rise, and are those that its denoiser is given.
@tiny("MochiPipeline")
def mochi() -> Tiny:
    transformer = diffusers.MochiTransformer3DModel(
        **TINY, pooled_projection_dim=WIDTH, text_embed_dim=WIDTH, time_embed_dim=8, max_sequence_length=LENGTH
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    pipe = pipeline("MochiPipeline", transformer=loud(transformer), vae=None, scheduler=scheduler)
    return Tiny(pipe, masked_prompts, {**VIDEO, "num_frames": 6 * (FRAMES - 1) + 1})


# What tells the tokens' places has a first size of one, of the three axes or of the tokens, never of the batch.
@tiny("AllegroPipeline")
def allegro() -> Tiny:
    transformer = diffusers.AllegroTransformer3DModel(
        **{**TINY, "attention_head_dim": 12},
        cross_attention_dim=24,
        caption_channels=WIDTH,
        sample_height=SIDE,
        sample_width=SIDE,
        sample_frames=2,
    )
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**BETAS)
    pipe = pipeline("AllegroPipeline", transformer=loud(transformer, 1.5), vae=None, scheduler=scheduler)
    return Tiny(pipe, masked_prompts, {**VIDEO, "num_frames": 8, "negative_prompt": None})


@shared
def _magvit() -> Any:
    return diffusers.AutoencoderKLMagvit(
        block_out_channels=(4, 4),
        down_block_types=("SpatialDownBlock3D",) * 2,
        up_block_types=("SpatialUpBlock3D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )


def _easy(name: str, conditions: Callable[..., Any] = masked_prompts, *, inputs: int = 4, **options: Any) -> Tiny:
    transformer = diffusers.EasyAnimateTransformer3DModel(
        num_layers=1,
        mmdit_layers=1,
        num_attention_heads=1,
        attention_head_dim=16,
        in_channels=inputs,
        out_channels=4,
        patch_size=2,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        sample_width=SIDE,
        sample_height=SIDE,
        resize_inpaint_mask_directly=False,
        add_noise_in_inpaint_model=False,
    )
    pipe = pipeline(name, transformer=loud(transformer), vae=_magvit(), scheduler=flow())
    sizes = {"height": 16, "width": 16, "num_frames": 1, "negative_prompt": None}
    return Tiny(pipe, conditions, {**sizes, **GUIDED, **options})


@tiny("EasyAnimatePipeline")
def easy_animate() -> Tiny:
    return _easy("EasyAnimatePipeline")


@tiny("EasyAnimateInpaintPipeline")
def easy_inpaint() -> Tiny:
    half = torch.zeros(1, 1, 1, 16, 16)
    half[..., 8:] = 255

    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        masks = half.expand(len(numbers), -1, -1, -1, -1)
        return {**masked_prompts(numbers), "video": picture(numbers, 3, 1, 16, 16), "mask_video": masks}

    return _easy("EasyAnimateInpaintPipeline", conditions, inputs=12)


# --- AnyFlow


def _anyflow_sizes() -> dict[str, Any]:
    sizes = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4}
    return {**sizes, "text_dim": WIDTH, "freq_dim": 8, "ffn_dim": WIDTH, "rope_max_seq_len": 8}


def _anyflow(name: str, transformer: Any, options: Any = (), conditions: Any = prompts, **more: Any) -> Tiny:
    pipe = pipeline(name, transformer=loud(transformer), vae=None, scheduler=diffusers.FlowMapEulerDiscreteScheduler())
    return Tiny(pipe, conditions, {**VIDEO, **dict(options)}, **more)


# Each frame has a timestep, and one to go to.
@tiny("AnyFlowPipeline")
def anyflow() -> Tiny:
    return _anyflow("AnyFlowPipeline", diffusers.AnyFlowTransformer3DModel(**_anyflow_sizes()))


@tiny("AnyFlowPipeline without guidance")
def anyflow_unguided() -> Tiny:
    transformer = diffusers.AnyFlowTransformer3DModel(**_anyflow_sizes())
    return _anyflow("AnyFlowPipeline", transformer, {"guidance_scale": 1.0}, without_null(prompts), **UNGUIDED)


# Two runs one after the other, of a frame each. In between the denoiser is called once, and fills its keys and values.
@tiny("AnyFlowFARPipeline")
def anyflow_far() -> Tiny:
    transformer = diffusers.AnyFlowFARTransformer3DModel(**_anyflow_sizes(), chunk_partition=(1, 1))
    return _anyflow("AnyFlowFARPipeline", transformer, {"num_frames": 5}, refused="remember the frames")
