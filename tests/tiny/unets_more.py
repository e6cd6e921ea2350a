"""Relatives of Stable Diffusion that condition its U-Net by something of their own."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
    T5Config,
    T5EncoderModel,
)

from . import STEPS, Tiny, tiny
from .kandinsky import prior
from .unet_parts import (
    BETAS,
    PICTURE,
    SIZE,
    WIDE,
    awake,
    clip_tokenizer,
    ddim,
    each,
    embeddings,
    image_encoder,
    listening,
    masks,
    pictures,
    prompts,
    text_encoder,
    unet,
    vae,
)
from .unets import image, row, stable_diffusion
from .unets_xl import net as xl_net
from .unets_xl import xl, xl_row


def encoders() -> dict[str, Any]:
    return {"text_encoder": text_encoder(), "tokenizer": clip_tokenizer()}


@tiny("StableUnCLIPPipeline")
def stable_unclip() -> Tiny:
    """Two runs with a scheduler each: the prior's, then the U-Net's, which takes the embedding for a class."""
    pipe = diffusers.StableUnCLIPPipeline(
        prior_tokenizer=clip_tokenizer(),
        prior_text_encoder=text_encoder("CLIPTextModelWithProjection"),
        prior=prior(),
        prior_scheduler=diffusers.UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDE),
        image_noising_scheduler=diffusers.DDPMScheduler(**BETAS),
        unet=unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDE),
        scheduler=ddim(),
        vae=vae(),
        **encoders(),
    )
    runs = {"prior_num_inference_steps": STEPS, "num_inference_steps": STEPS}
    options = {"guidance_scale": 4.0, **runs}
    schedulers = {"prior": "prior_scheduler"}
    denoisers = ("prior", "unet")
    return Tiny(pipe, prompts, options, denoisers=denoisers, way="one batch", runs=2, schedulers=schedulers)


@tiny("StableUnCLIPImg2ImgPipeline")
def stable_unclip_image() -> Tiny:
    """What a picture shows is a class of the text branch; the null branch's is zeros."""
    pipe = diffusers.StableUnCLIPImg2ImgPipeline(
        feature_extractor=None,
        image_encoder=image_encoder(),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDE),
        image_noising_scheduler=diffusers.DDPMScheduler(**BETAS),
        text_encoder=None,
        tokenizer=None,
        unet=unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDE),
        scheduler=ddim(),
        vae=vae(),
    )
    return row(pipe, lambda numbers: {"image_embeds": each(numbers, WIDE, about=70)})


@tiny("StableDiffusionImageVariationPipeline")
def variation() -> Tiny:
    """A picture's embedding stands where text does elsewhere; the null branch's is zeros."""
    pipe = diffusers.StableDiffusionImageVariationPipeline(
        vae=vae(),
        image_encoder=image_encoder(),
        unet=unet(),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    options = {"guidance_scale": 4.0, "height": PICTURE, "width": PICTURE}
    return Tiny(pipe, image, options, denoisers=("unet",), way="one batch")


@tiny("PaintByExamplePipeline")
def paint_by_example() -> Tiny:
    """An example's embedding stands where text does elsewhere; the hole and its surroundings join the latents."""
    config = CLIPVisionConfig(
        hidden_size=WIDE,
        projection_dim=WIDE,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=PICTURE,
        intermediate_size=WIDE,
        patch_size=PICTURE // 2,
    )
    pipe = diffusers.PaintByExamplePipeline(
        vae=vae(),
        image_encoder=PaintByExampleImageEncoder(config, proj_size=WIDE),
        unet=unet(in_channels=9),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=None,
    )

    def given(numbers: Sequence[int]) -> dict[str, Any]:
        shown = pictures([number + 50 for number in numbers])
        return {"example_image": shown, "image": 2 * pictures(numbers) - 1, "mask_image": masks(numbers)}

    options = {"guidance_scale": 4.0, "height": PICTURE, "width": PICTURE}
    return Tiny(pipe, given, options, denoisers=("unet",), way="one batch")


@tiny("StableDiffusionGLIGENPipeline")
def gligen() -> Tiny:
    """Boxes are told through an attention argument, masked out in the null branch, and only in the first steps."""
    net = unet(attention_type="gated")
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "alpha" in name:
                weight.fill_(1.0)  # zeros, that let no box through
    pipe = stable_diffusion("StableDiffusionGLIGENPipeline", unet=net, **encoders())
    boxes = {"gligen_phrases": ["cat", "moose"], "gligen_boxes": [[0.1, 0.1, 0.5, 0.5], [0.5, 0.2, 0.9, 0.9]]}
    return row(pipe, options={**boxes, "gligen_scheduled_sampling_beta": 0.5})


@tiny("SemanticStableDiffusionPipeline")
def semantic() -> Tiny:
    """Null, text, and a branch for each edit; all are looked at where the edit sets in."""
    pipe = stable_diffusion("SemanticStableDiffusionPipeline", **encoders())
    edit = {"editing_prompt": ["a dog"], "edit_warmup_steps": 1, "edit_threshold": 0.5}
    options = {"guidance_scale": 4.0, **edit}
    branches = ("null", "text", "edit")
    return Tiny(pipe, prompts, options, denoisers=("unet",), way="whole calls", branches=branches)


@tiny("StableDiffusionControlNetXSPipeline")
def control_xs() -> Tiny:
    """The ControlNet is a part of the denoiser."""
    net = unet(layers_per_block=2)
    adapter = diffusers.ControlNetXSAdapter.from_unet(
        net, size_ratio=1.0, conditioning_embedding_out_channels=(4, 4), num_attention_heads=2
    )
    pipe = stable_diffusion("StableDiffusionControlNetXSPipeline", unet=net, controlnet=adapter)
    return row(pipe, image)


@tiny("StableDiffusionXLControlNetUnionPipeline")
def control_union() -> Tiny:
    """One ControlNet for several kinds of hints, of which it is told the kind."""
    net = xl_net()
    names = inspect.signature(diffusers.ControlNetUnionModel).parameters
    control = diffusers.ControlNetUnionModel(
        **{name: net.config[name] for name in names if name in net.config},
        conditioning_embedding_out_channels=(4, 4),
        num_trans_channel=8,
        num_trans_head=2,
        num_proj_channel=8,
    )
    pipe = xl("StableDiffusionXLControlNetUnionPipeline", unet=net, controlnet=awake(control, 0.03))
    return xl_row(
        pipe, lambda numbers: {"control_image": pictures(numbers)}, options={"control_mode": 0}, beside=("controlnet",)
    )


def vocoder() -> Any:
    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=SIZE,
            sampling_rate=160,
            upsample_initial_channel=4,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3],
            resblock_dilation_sizes=[[1]],
        )
    )


SOUND = {"guidance_scale": 4.0, "audio_length_in_s": 0.4}


def clap() -> Any:
    return ClapTextModelWithProjection(
        ClapTextConfig(
            vocab_size=40,
            hidden_size=WIDE,
            intermediate_size=WIDE,
            num_hidden_layers=1,
            num_attention_heads=2,
            projection_dim=WIDE,
        )
    )


def sounding(name: str, **unet_options: Any) -> Tiny:
    """Latents are of a spectrogram; text is a class, a row each, and there is no attention to it."""
    options = {"cross_attention_dim": (8,), "projection_class_embeddings_input_dim": WIDE, **unet_options}
    parts = {"feature_extractor": None} if name == "MusicLDMPipeline" else {}
    pipe = getattr(diffusers, name)(
        vae=vae(in_channels=1, out_channels=1),
        text_encoder=clap(),
        tokenizer=None,
        unet=unet(class_embed_type="simple_projection", **options),
        scheduler=ddim(),
        vocoder=vocoder(),
        **parts,
    )
    return Tiny(pipe, lambda numbers: embeddings(numbers, WIDE), SOUND, denoisers=("unet",), way="one batch")


@tiny("MusicLDMPipeline")
def music() -> Tiny:
    return sounding("MusicLDMPipeline")


@tiny("AudioLDMPipeline")
def audio_first() -> Tiny:
    return sounding("AudioLDMPipeline", class_embeddings_concat=True)


@tiny("AudioLDM2Pipeline")
def audio() -> Tiny:
    """The U-Net attends to two texts, one of which a language model has written; one is masked, a row each."""
    net = diffusers.AudioLDM2UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIZE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=(WIDE, WIDE),
        attention_head_dim=4,
    )
    pipe = diffusers.AudioLDM2Pipeline(
        vae=vae(in_channels=1, out_channels=1),
        text_encoder=None,
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=8, d_model=WIDE, d_kv=8, d_ff=8, num_layers=1, num_heads=2)),
        projection_model=None,
        language_model=GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=8, n_embd=WIDE, n_layer=1, n_head=2)),
        tokenizer=None,
        tokenizer_2=None,
        feature_extractor=None,
        unet=listening(net),
        scheduler=ddim(),
        vocoder=vocoder(),
    )

    def given(numbers: Sequence[int]) -> dict[str, Any]:
        counts = {
            f"{prefix}attention_mask": (torch.arange(5) < count).long().expand(len(numbers), -1)
            for prefix, count in (("", 3), ("negative_", 4))
        }
        generated = embeddings(numbers, 4, WIDE, prefix="generated_prompt_embeds")
        return {**embeddings(numbers, 5, WIDE), **generated, **counts}

    return Tiny(pipe, given, SOUND, denoisers=("unet",), way="one batch")
