"""Stable Diffusion XL and Kolors: pipelines whose U-Net also listens to pooled text and to the picture's measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import diffusers
import torch
from diffusers.pipelines.kolors import ChatGLMModel
from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig
from transformers import BatchEncoding

from . import STEPS, Tiny, shared, tiny
from .unet_parts import PICTURE, SIZE, WIDE, ddim, each, unet, vae
from .unets import WORDS, Conditions, also, control_net, hole, image, image_prompts, pooled, row, with_image_prompts

HALF = {"num_inference_steps": 2 * STEPS}


def net(measures: int = 6, **options: Any) -> Any:
    pooled_and_measures = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": WIDE + measures * 8,
    }
    return unet(**pooled_and_measures, **options)


def xl(name: str, **parts: Any) -> Any:
    given = {"vae": vae(), "text_encoder": None, "tokenizer": None, "scheduler": ddim()}
    if "Kolors" not in name:
        given |= {"text_encoder_2": None, "tokenizer_2": None}
    return getattr(diffusers, name)(**{**given, "unet": net(), **parts})


def xl_row(pipe: Any, *conditions: Conditions, **more: Any) -> Tiny:
    return row(pipe, pooled, *conditions, **more)


def hints(numbers: Sequence[int]) -> Any:
    return each(numbers, 3, PICTURE, PICTURE, about=20).sigmoid()


def xl_controlled(name: str, *conditions: Conditions, key: str = "image", **options: Any) -> Tiny:
    denoiser = net()
    pipe = xl(name, unet=denoiser, controlnet=control_net(denoiser))
    return xl_row(pipe, *conditions, lambda numbers: {key: hints(numbers)}, options=options, beside=("controlnet",))


@tiny("StableDiffusionXLPipeline")
def text_to_image() -> Tiny:
    return xl_row(xl("StableDiffusionXLPipeline"))


@tiny("StableDiffusionXLPipeline without guidance")
def unguided() -> Tiny:
    options = {"guidance_scale": 1.0}
    return xl_row(xl("StableDiffusionXLPipeline"), options=options, way="whole calls", branches=("text",))


@tiny("StableDiffusionXLPipeline that ends early")
def base() -> Tiny:
    """Half of the scheduler's timesteps are left to a refiner."""
    return xl_row(
        xl("StableDiffusionXLPipeline", scheduler=ddim(timestep_spacing="trailing")),
        options={**HALF, "denoising_end": 0.5},
    )


@tiny("StableDiffusionXLPipeline with IP-Adapter")
def image_prompt() -> Tiny:
    pipe = xl("StableDiffusionXLPipeline", unet=with_image_prompts(net()))
    return xl_row(pipe, options=image_prompts())


@tiny("StableDiffusionXLImg2ImgPipeline")
def image_to_image() -> Tiny:
    return xl_row(xl("StableDiffusionXLImg2ImgPipeline"), image, options={**HALF, "strength": 0.5})


@tiny("StableDiffusionXLImg2ImgPipeline that starts late")
def refiner() -> Tiny:
    """It takes over latents half-way, and its U-Net is told how beautiful the picture is to be."""
    pipe = xl(
        "StableDiffusionXLImg2ImgPipeline",
        unet=net(measures=5),
        scheduler=ddim(timestep_spacing="trailing"),
        requires_aesthetics_score=True,
    )
    return xl_row(
        pipe, lambda numbers: {"image": each(numbers, 4, SIZE, SIZE, about=7)}, options={**HALF, "denoising_start": 0.5}
    )


@tiny("StableDiffusionXLInpaintPipeline")
def inpaint() -> Tiny:
    options = {"strength": 1.0, "height": PICTURE, "width": PICTURE}
    return xl_row(xl("StableDiffusionXLInpaintPipeline"), image, hole, options=options)


@tiny("StableDiffusionXLControlNetPipeline")
def control() -> Tiny:
    return xl_controlled("StableDiffusionXLControlNetPipeline")


@tiny("StableDiffusionXLControlNetImg2ImgPipeline")
def control_image() -> Tiny:
    return xl_controlled("StableDiffusionXLControlNetImg2ImgPipeline", image, key="control_image", strength=1.0)


@tiny("StableDiffusionXLControlNetInpaintPipeline")
def control_inpaint() -> Tiny:
    name = "StableDiffusionXLControlNetInpaintPipeline"
    return xl_controlled(name, image, hole, key="control_image", strength=1.0)


@tiny("StableDiffusionXLAdapterPipeline")
def adapter() -> Tiny:
    """A T2I-Adapter runs once, before the steps; the U-Net is given a list of its maps in the first of them."""
    made = diffusers.T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter")
    pipe = xl("StableDiffusionXLAdapterPipeline", adapter=made)
    options = {"height": PICTURE, "width": PICTURE, "adapter_conditioning_factor": 0.5}
    return xl_row(pipe, image, options=options)


@tiny("StableDiffusionXLInstructPix2PixPipeline")
def instructed() -> Tiny:
    """Three rows an image: text with the picture, no text with the picture, neither."""
    pipe = xl("StableDiffusionXLInstructPix2PixPipeline", unet=net(in_channels=8))
    options = {"image_guidance_scale": 1.5, "height": PICTURE, "width": PICTURE}
    return xl_row(pipe, image, options=options, branches=("text", "image", "null"))


@tiny("StableDiffusionXLPAGPipeline")
def perturbed() -> Tiny:
    """Its attention layers look for the perturbed branch in the last third of the rows."""
    pipe = xl("StableDiffusionXLPAGPipeline", pag_applied_layers="mid")
    return xl_row(pipe, options={"pag_scale": 2.0}, way="whole calls", branches=("null", "text", "perturbed"))


@tiny("StableDiffusionXLPAGImg2ImgPipeline")
def perturbed_image() -> Tiny:
    pipe = xl("StableDiffusionXLPAGImg2ImgPipeline", pag_applied_layers="mid")
    options = {"pag_scale": 2.0, "strength": 1.0}
    return xl_row(pipe, image, options=options, way="whole calls", branches=("null", "text", "perturbed"))


@tiny("StableDiffusionXLControlNetPAGPipeline")
def perturbed_control() -> Tiny:
    made = xl_controlled("StableDiffusionXLControlNetPAGPipeline", pag_scale=2.0)
    return replace(made, way="whole calls", branches=("null", "text", "perturbed"))


@tiny("KolorsPipeline")
def kolors() -> Tiny:
    return xl_row(xl("KolorsPipeline"))


class Letters:
    """What Kolors asks of its tokenizer: a token a letter."""

    def __call__(self, prompts: list[str], **_: Any) -> BatchEncoding:
        ids = torch.tensor([[ord(letter) - ord("a") for letter in f"{prompt:a<{WORDS}}"] for prompt in prompts])
        places = torch.arange(WORDS).expand_as(ids)
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids), "position_ids": places})


@shared
def chat_glm() -> Any:
    encoder = ChatGLMModel(
        ChatGLMConfig(
            num_layers=2,
            padded_vocab_size=26,
            hidden_size=WIDE,
            ffn_hidden_size=WIDE,
            kv_channels=8,
            num_attention_heads=2,
            multi_query_attention=True,
            multi_query_group_num=1,
            seq_length=WORDS,
            add_qkv_bias=True,
            rmsnorm=True,
            original_rope=True,
        )
    )
    for weight in encoder.parameters():  # some are left as memory was
        torch.nn.init.normal_(weight, std=0.3)
    return encoder


@tiny("KolorsImg2ImgPipeline")
def kolors_image() -> Tiny:
    """It takes prompts alone: it forgets the pooled embeddings that it is given."""
    pipe = xl("KolorsImg2ImgPipeline", text_encoder=chat_glm(), tokenizer=Letters())

    def words(numbers: Sequence[int]) -> dict[str, Any]:
        prompts = [f"cat{chr(ord('a') + number)}" for number in numbers]
        return {"prompt": prompts, "negative_prompt": ["bad"] * len(numbers)}

    return replace(row(pipe), conditions=also(words, image), options={"guidance_scale": 4.0, "strength": 1.0})


@tiny("KolorsPAGPipeline")
def kolors_perturbed() -> Tiny:
    pipe = xl("KolorsPAGPipeline", pag_applied_layers="mid")
    return xl_row(pipe, options={"pag_scale": 2.0}, way="whole calls", branches=("null", "text", "perturbed"))
