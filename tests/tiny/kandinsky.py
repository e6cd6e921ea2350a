"""Kandinsky: a prior that turns text into the embedding of a picture, and U-Nets that paint what it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from conftest import _t5_tokenizer
from diffusers.pipelines.kandinsky import MultilingualCLIP
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig
from transformers import CLIPImageProcessor

from . import STEPS, Tiny, shared, tiny
from .unet_parts import (
    BETAS,
    PICTURE,
    WIDE,
    clip_tokenizer,
    embeddings,
    image_encoder,
    listening,
    masks,
    pictures,
    prompts,
    text_encoder,
)
from .unets import Conditions, also

TOKENS = 77
SIZES = {"height": PICTURE, "width": PICTURE}
GUIDED = {"guidance_scale": 4.0}


@shared
def movq() -> Any:
    return diffusers.VQModel(
        block_out_channels=(32, 32),  # it normalizes groups of 32
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )


def decoder(hears: str, **options: Any) -> Any:
    """A U-Net that also predicts a variance, which is as wide."""
    given = {
        "sample_size": PICTURE // 2,
        "in_channels": 4,
        "out_channels": 8,
        "addition_embed_type": hears,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "encoder_hid_dim": WIDE,
        "encoder_hid_dim_type": "text_image_proj" if hears == "text_image" else "image_proj",
        "cross_attention_dim": WIDE,
        "attention_head_dim": 4,
        "resnet_time_scale_shift": "scale_shift",
    }
    return listening(diffusers.UNet2DConditionModel(**{**given, **options}), where="add_v_proj")


def steps(**options: Any) -> Any:
    return diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1, **options)


def prior() -> Any:
    made = diffusers.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDE, num_layers=1, num_embeddings=TOKENS
    )
    torch.nn.init.ones_(made.clip_std)
    for weight in (made.embedding_proj.weight, made.encoder_hidden_states_proj.weight):
        with torch.no_grad():
            weight.mul_(4)  # it hardly listens either
    return made


def prior_parts(prefix: str = "") -> dict[str, Any]:
    parts = {
        "prior": prior(),
        "image_encoder": image_encoder(),
        "text_encoder": text_encoder("CLIPTextModelWithProjection"),
        "tokenizer": clip_tokenizer(),
        "scheduler": diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=1000,
            clip_sample=True,
            clip_sample_range=5.0,
        ),
        "image_processor": CLIPImageProcessor(size=PICTURE, crop_size=PICTURE),
    }
    return {prefix + name: made for name, made in parts.items()}


def embedded(numbers: Sequence[int]) -> dict[str, Any]:
    """Of pictures, (images, WIDE): what a prior would have made of prompts."""
    return embeddings(numbers, WIDE, prefix="image_embeds")


def image(numbers: Sequence[int]) -> dict[str, Any]:
    return {"image": pictures(numbers)}


def hole(numbers: Sequence[int]) -> dict[str, Any]:
    return {"mask_image": masks(numbers)}


def hint(numbers: Sequence[int]) -> dict[str, Any]:
    return {"hint": pictures(numbers, 4 * PICTURE)}


def row(pipe: Any, *conditions: Conditions, options: Any = None, **more: Any) -> Tiny:
    given = {**GUIDED, "output_type": "pt", **(options or {})}
    return Tiny(pipe, also(*conditions), given, **{"denoisers": ("unet",), "way": "one batch", **more})


@tiny("KandinskyPriorPipeline")
def first_prior() -> Tiny:
    """It predicts the embedding itself, not noise. A negative prompt would be one more image of the batch."""
    pipe = diffusers.KandinskyPriorPipeline(**prior_parts())
    return row(pipe, prompts, denoisers=("prior",))


@tiny("KandinskyPipeline")
def first() -> Tiny:
    return row(first_decoder("KandinskyPipeline"), prompts, negatives, embedded, options=SIZES)


@tiny("KandinskyImg2ImgPipeline")
def first_image() -> Tiny:
    options = {**SIZES, "strength": 1.0}
    pipe = first_decoder("KandinskyImg2ImgPipeline")
    return row(pipe, prompts, negatives, embedded, image, options=options)


@tiny("KandinskyV22PriorPipeline")
def second_prior() -> Tiny:
    return row(diffusers.KandinskyV22PriorPipeline(**prior_parts()), prompts, denoisers=("prior",))


def second_decoder(name: str, **options: Any) -> Any:
    return getattr(diffusers, name)(unet=decoder("image", **options), scheduler=steps(), movq=movq())


@tiny("KandinskyV22Pipeline")
def second() -> Tiny:
    return row(second_decoder("KandinskyV22Pipeline"), embedded, options={**SIZES, "output_type": "latent"})


@tiny("KandinskyV22Img2ImgPipeline")
def second_image() -> Tiny:
    options = {**SIZES, "strength": 1.0, "output_type": "latent"}
    return row(second_decoder("KandinskyV22Img2ImgPipeline"), embedded, image, options=options)


@tiny("KandinskyV22ControlnetPipeline")
def second_control() -> Tiny:
    """What it is to follow is a picture that the U-Net takes itself, the same for both branches."""
    net = decoder("image_hint", in_channels=8)
    pipe = diffusers.KandinskyV22ControlnetPipeline(unet=net, scheduler=steps(), movq=movq())
    return row(pipe, embedded, hint, options=SIZES)


@tiny("KandinskyV22CombinedPipeline")
def second_combined() -> Tiny:
    """Two runs: the prior's steps, with a scheduler of its own, then the decoder's."""
    pipe = diffusers.KandinskyV22CombinedPipeline(
        unet=decoder("image"), scheduler=steps(), movq=movq(), **prior_parts("prior_")
    )
    runs = {"prior_num_inference_steps": STEPS, "num_inference_steps": STEPS, "prior_guidance_scale": 4.0}
    options = {**SIZES, **runs, "output_type": "latent"}
    schedulers = {"prior_prior": "prior_scheduler"}
    return row(pipe, prompts, options=options, denoisers=("prior_prior", "unet"), runs=2, schedulers=schedulers)


@shared
def multilingual() -> Any:
    return MultilingualCLIP(
        MCLIPConfig(
            numDims=WIDE,
            transformerDimensions=WIDE,
            hidden_size=WIDE,
            intermediate_size=WIDE,
            num_attention_heads=2,
            num_hidden_layers=1,
            vocab_size=40,
        )
    )


def first_decoder(name: str) -> Any:
    parts = {"text_encoder": multilingual(), "tokenizer": _t5_tokenizer(), "movq": movq()}
    return getattr(diffusers, name)(**parts, unet=decoder("text_image"), scheduler=steps())


def negatives(numbers: Sequence[int]) -> dict[str, Any]:
    return {"negative_prompt": ["bad"] * len(numbers)}


def third(name: str) -> Any:
    net = listening(
        diffusers.Kandinsky3UNet(
            in_channels=4,
            time_embedding_dim=4,
            groups=1,  # of few channels, it would blow rounding up
            attention_head_dim=4,
            layers_per_block=3,
            block_out_channels=(8, 16),
            cross_attention_dim=WIDE,
            encoder_hid_dim=WIDE,
        )
    )
    return getattr(diffusers, name)(unet=net, scheduler=steps(), movq=movq(), text_encoder=None, tokenizer=None)


def masked_words(numbers: Sequence[int]) -> dict[str, Any]:
    """Of five tokens, the first three of prompts and the first four of negative prompts count."""
    counts = {
        f"{prefix}attention_mask": (torch.arange(5) < count).long().expand(len(numbers), -1)
        for prefix, count in (("", 3), ("negative_", 4))
    }
    return {**embeddings(numbers, 5, WIDE), **counts}


@tiny("Kandinsky3Pipeline")
def third_text() -> Tiny:
    """(w + 1) text - w null; tokens are masked, a row each."""
    options = {**SIZES, "guidance_scale": 3.0, "output_type": "latent"}
    return row(third("Kandinsky3Pipeline"), masked_words, options=options)


@tiny("Kandinsky3Img2ImgPipeline")
def third_image() -> Tiny:
    options = {"guidance_scale": 3.0, "num_inference_steps": 2 * STEPS, "strength": 0.5, "output_type": "latent"}
    return row(third("Kandinsky3Img2ImgPipeline"), masked_words, image, options=options)
