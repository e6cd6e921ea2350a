"""Wan and SkyReels: videos (images, channels, frames, rows, columns), true CFG, one transformer or two in turn."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from tiny import Tiny, shared, tiny
from tiny.flow import ALONE, TWO_CALLS, both, flow_scheduler, listens, parts, pictures, texts

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "out_channels": 16,
    "text_dim": 8,
    "freq_dim": 8,
    "ffn_dim": 16,
    "num_layers": 1,
    "rope_max_seq_len": 16,
}
SIZE = {"height": 32, "width": 32, "num_frames": 5}  # 2 frames of 4 x 4 latents


@shared
def transformer(number: int = 1, in_channels: int = 16) -> Any:
    torch.manual_seed(number)
    return listens(diffusers.WanTransformer3DModel(in_channels=in_channels, **SMALL), "attn2", times=2)


@shared
def sky_transformer() -> Any:
    return listens(diffusers.SkyReelsV2Transformer3DModel(in_channels=16, **SMALL), "attn2", times=2)


@shared
def autoencoder() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=3, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def unipc() -> Any:
    """The solver of the real ones."""
    return diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan_parts(**more: Any) -> dict[str, Any]:
    return parts(**{"scheduler": unipc(), "transformer": transformer(), **more})


@tiny("WanPipeline")
def wan() -> Tiny:
    return Tiny(diffusers.WanPipeline(**wan_parts()), both, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


@tiny("WanPipeline without guidance")
def wan_without_guidance() -> Tiny:
    pipe = diffusers.WanPipeline(**wan_parts())
    return Tiny(pipe, lambda numbers: texts(both(numbers)), {**SIZE, "guidance_scale": 1.0}, **ALONE)


@tiny("WanPipeline with two transformers")
def wan_two() -> Tiny:
    given = wan_parts(transformer_2=transformer(2), scheduler=flow_scheduler())
    pipe = diffusers.WanPipeline(**given, boundary_ratio=0.5)
    options = {**SIZE, "guidance_scale": 4.0, "guidance_scale_2": 3.0}
    return Tiny(pipe, both, options, denoisers=("transformer", "transformer_2"), **TWO_CALLS)


@tiny("WanPipeline with a timestep a token")
def wan_tokens() -> Tiny:
    pipe = diffusers.WanPipeline(**wan_parts(), expand_timesteps=True)
    return Tiny(pipe, both, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


def with_picture(pipe: Any) -> Tiny:
    """One picture for all videos: with a generator each, the class encodes every picture once for every video."""
    picture = pictures((7,), 3, 32, 32)
    return Tiny(pipe, lambda numbers: {**both(numbers), "image": picture}, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


@tiny("WanImageToVideoPipeline")
def wan_image() -> Tiny:
    given = wan_parts(vae=autoencoder(), image_encoder=None, image_processor=None, transformer=transformer(1, 36))
    return with_picture(diffusers.WanImageToVideoPipeline(**given))


@tiny("WanImageToVideoPipeline with a timestep a token")
def wan_image_tokens() -> Tiny:
    given = wan_parts(vae=autoencoder(), image_encoder=None, image_processor=None)
    return with_picture(diffusers.WanImageToVideoPipeline(**given, expand_timesteps=True))


@tiny("WanVideoToVideoPipeline")
def wan_video() -> Tiny:
    return Tiny(
        diffusers.WanVideoToVideoPipeline(**wan_parts(vae=autoencoder())),
        lambda numbers: {**both(numbers), "video": list(pictures(numbers, 5, 3, 32, 32))},
        {"height": 32, "width": 32, "guidance_scale": 4.0, "num_inference_steps": 8, "strength": 0.75},
        **TWO_CALLS,
    )


@tiny("SkyReelsV2Pipeline")
def skyreels() -> Tiny:
    pipe = diffusers.SkyReelsV2Pipeline(**wan_parts(transformer=sky_transformer()))
    return Tiny(pipe, both, {**SIZE, "guidance_scale": 4.0}, **TWO_CALLS)


@tiny("SkyReelsV2DiffusionForcingPipeline")
def skyreels_forcing() -> Tiny:
    pipe = diffusers.SkyReelsV2DiffusionForcingPipeline(**wan_parts(transformer=sky_transformer()))
    return Tiny(pipe, both, {**SIZE, "prompt": None, "guidance_scale": 4.0}, copies=True, **TWO_CALLS)
