"""U-Nets on pixels and sound, without text, or with a conditioning of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
from diffusers.pipelines.deprecated.wuerstchen import WuerstchenDiffNeXt, WuerstchenPrior

from . import Tiny, tiny
from .kandinsky import decoder
from .unet_parts import (
    BETAS,
    SIZE,
    WIDE,
    clip_tokenizer,
    ddim,
    each,
    filled,
    listening,
    pictures,
    prompts,
    text_encoder,
    unet,
    vae,
)
from .unets import Conditions, image, row, stable_diffusion


def floyd(name: str, **options: Any) -> Any:
    """It paints pixels, and its U-Net predicts a variance too, of which the text branch's counts."""
    given = {"addition_embed_type": "text", "addition_embed_type_num_heads": 2, "encoder_hid_dim_type": None}
    net = decoder("text", **{**given, "in_channels": 3, "out_channels": 6, **options})
    parts = {
        "tokenizer": None,
        "text_encoder": None,
        "unet": net,
        "scheduler": diffusers.DDPMScheduler(**BETAS, variance_type="learned_range", clip_sample=False),
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
        "requires_safety_checker": False,
    }
    if "SuperResolution" in name:
        parts["image_noising_scheduler"] = diffusers.DDPMScheduler(**BETAS)
    return getattr(diffusers, name)(**parts)


PIXELS = {"output_type": "pt"}


@tiny("IFPipeline")
def floyd_text() -> Tiny:
    return row(floyd("IFPipeline"), options=PIXELS)


@tiny("IFImg2ImgPipeline")
def floyd_image() -> Tiny:
    return row(
        floyd("IFImg2ImgPipeline"),
        lambda numbers: {"image": pictures(numbers, SIZE)},
        options={**PIXELS, "strength": 1.0},
    )


@tiny("IFSuperResolutionPipeline")
def floyd_large() -> Tiny:
    """The small picture, with noise, is joined to the channels; its noise level is a class, a row each."""
    pipe = floyd("IFSuperResolutionPipeline", in_channels=6, class_embed_type="timestep")
    return row(
        pipe,
        lambda numbers: {"image": pictures(numbers, SIZE // 2)},
        options={**PIXELS, "height": SIZE, "width": SIZE, "noise_level": 100},
    )


def count(numbers: Sequence[int]) -> dict[str, Any]:
    return {"batch_size": len(numbers)}


def unconditional() -> Any:
    return diffusers.UNet2DModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )


def one_branch(pipe: Any, conditions: Conditions, **options: Any) -> Tiny:
    return Tiny(pipe, conditions, options, way="whole calls", branches=("text",), denoisers=("unet",))


@tiny("DDPMPipeline")
def ddpm() -> Tiny:
    pipe = diffusers.DDPMPipeline(unet=unconditional(), scheduler=diffusers.DDPMScheduler(**BETAS))
    return one_branch(pipe, count, output_type="np")


@tiny("DDIMPipeline")
def ddim_alone() -> Tiny:
    return one_branch(diffusers.DDIMPipeline(unet=unconditional(), scheduler=ddim()), count, output_type="np")


@tiny("ConsistencyModelPipeline")
def consistency() -> Tiny:
    """Its timesteps are logarithms of sigma, a quarter of a thousand times."""
    pipe = diffusers.ConsistencyModelPipeline(
        unet=unconditional(), scheduler=diffusers.CMStochasticIterativeScheduler(sigma_max=2.0)
    )
    return one_branch(pipe, count, output_type="pt")


@tiny("DanceDiffusionPipeline")
def dance() -> Tiny:
    """Sound, (sounds, channels, samples)."""
    net = diffusers.UNet1DModel(
        sample_size=32,
        sample_rate=32,
        in_channels=2,
        out_channels=2,
        extra_in_channels=64,
        flip_sin_to_cos=True,
        use_timestep_embedding=False,
        time_embedding_type="fourier",
        mid_block_type="UNetMidBlock1D",
        block_out_channels=(32, 32),
        down_block_types=("DownBlock1DNoSkip", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1DNoSkip"),
    )
    pipe = diffusers.DanceDiffusionPipeline(unet=net, scheduler=diffusers.IPNDMScheduler())
    return one_branch(pipe, count, output_type=None, audio_length_in_s=1.0)


@tiny("MarigoldDepthPipeline")
def marigold() -> Tiny:
    """The picture is joined to the latents; a run for each batch of pictures, and no text."""
    pipe = diffusers.MarigoldDepthPipeline(
        unet=unet(in_channels=8),
        vae=vae(),
        scheduler=ddim(),
        text_encoder=text_encoder(),
        tokenizer=clip_tokenizer(),
        prediction_type="depth",
        default_processing_resolution=2 * SIZE,
    )
    return one_branch(pipe, lambda numbers: {"image": pictures(numbers), "batch_size": len(numbers)}, output_type="pt")


@tiny("LDMTextToImagePipeline")
def latent_diffusion() -> Tiny:
    pipe = diffusers.LDMTextToImagePipeline(
        vqvae=vae(), bert=text_encoder(), tokenizer=clip_tokenizer(), unet=unet(), scheduler=ddim()
    )
    options = {"guidance_scale": 4.0, "output_type": "np", "height": 2 * SIZE, "width": 2 * SIZE}
    return Tiny(pipe, prompts, options, denoisers=("unet",), way="one batch")


@tiny("LatentConsistencyModelImg2ImgPipeline")
def latent_consistency_image() -> Tiny:
    pipe = stable_diffusion(
        "LatentConsistencyModelImg2ImgPipeline",
        unet=unet(time_cond_proj_dim=8),
        scheduler=diffusers.LCMScheduler(**BETAS),
    )
    words = row(pipe).conditions

    def given(numbers: Sequence[int]) -> dict[str, Any]:
        return {"prompt_embeds": words(numbers)["prompt_embeds"], **image(numbers)}

    return one_branch(pipe, given, guidance_scale=4.0, strength=1.0)


@tiny("WuerstchenPriorPipeline")
def wuerstchen_prior() -> Tiny:
    """Text first, then null; the denoiser returns a tensor, and its timestep is called r."""
    net = WuerstchenPrior(c_in=4, c=16, c_cond=WIDE, c_r=8, depth=2, nhead=2, dropout=0.0)
    pipe = diffusers.WuerstchenPriorPipeline(
        tokenizer=None,
        text_encoder=text_encoder(),
        prior=listening(listening(net, 10.0, "kv_mapper"), 0.1, "out.1"),  # it divides by what it is told here
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        latent_mean=1.0,
        latent_std=0.0,
        resolution_multiple=2.0,
    )
    options = {"height": SIZE, "width": SIZE, "output_type": "pt"}
    return row(pipe, options=options, denoisers=("prior",), branches=("text", "null"))


@tiny("WuerstchenDecoderPipeline")
def wuerstchen() -> Tiny:
    """Text first, then null, whose embedded picture is zeros. Several images can only have one prompt."""
    net = WuerstchenDiffNeXt(
        c_in=4,
        c_out=4,
        c_r=8,
        patch_size=1,
        c_cond=WIDE,
        c_hidden=[16, 16],
        nhead=[-1, 2],
        blocks=[1, 1],
        level_config=["CT", "CTA"],
        inject_effnet=[False, True],
        effnet_embd=4,
        clip_embd=WIDE,
        dropout=0.0,
    )
    pipe = diffusers.WuerstchenDecoderPipeline(
        tokenizer=clip_tokenizer(),
        text_encoder=text_encoder(),
        decoder=filled(net),
        scheduler=diffusers.DDPMWuerstchenScheduler(),
        vqgan=None,
        latent_dim_scale=2.0,
    )

    options = {"guidance_scale": 2.0, "prompt": ["a red cat"]}
    return Tiny(
        pipe,
        lambda numbers: {"image_embeddings": each(numbers, 4, SIZE // 2, SIZE // 2, about=60)},
        options,
        denoisers=("decoder",),
        branches=("text", "null"),
        way="one batch",
    )
