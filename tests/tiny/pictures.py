"""Tiny pipelines of pictures with a transformer: Stable Diffusion 3, PixArt, Sana, Hunyuan-DiT and others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import torch
from conftest import BETAS

from tiny import STEPS, Tiny, shared, tiny
from tiny.embeddings import loud, masks, null, picture, text

SIDE, LENGTH, WIDTH = 4, 4, 16  # of latents; of prompts, in tokens; of networks
TINY = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": WIDTH // 2}
GUIDED = {"guidance_scale": 4.0}
HALF_WAY = {"num_inference_steps": 2 * STEPS, "strength": 0.5}
UNGUIDED: dict[str, Any] = {"way": "whole calls", "branches": ("text",)}
#: Rows with as many calls a generation, because not every step has the same.
CALLS = {"StableDiffusion3Pipeline with layers skipped": STEPS + 3}
#: Rows whose class fails with more than one image.
ALONE = ("PRXPipeline",)
# The denoiser's attention splits the batch in three: whole images can be taken out of it, but no branch of an image.
PERTURBED: dict[str, Any] = {"way": "whole calls", "branches": ("null", "text", "perturbed")}


@shared
def autoencoder(channels: int = 4) -> Any:
    """Its latents are as large as its pictures, and of hardly any variance."""
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,), norm_num_groups=2, latent_channels=channels, sample_size=SIDE, shift_factor=0.1
    )
    with torch.no_grad():
        vae.quant_conv.weight[channels:], vae.quant_conv.bias[channels:] = 0, -30
    return vae


def pipeline(name: str, *absent: str, **parts: Any) -> Any:
    """A pipeline that is given embeddings, and has nothing that would make them."""
    return getattr(diffusers, name)(**dict.fromkeys(("text_encoder", "tokenizer", *absent)), **parts)


def drawn(conditions: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """For pipelines that draw latents of pictures without a generator: what they draw is the same in each run."""

    def seeded(numbers: Sequence[int]) -> dict[str, Any]:
        torch.manual_seed(0)
        return conditions(numbers)

    return seeded


def without_null(conditions: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The same without what the null branch is given."""
    return lambda numbers: {name: of for name, of in conditions(numbers).items() if not name.startswith("negative")}


def ddim() -> Any:
    return diffusers.DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler()


def prompts(numbers: Sequence[int]) -> dict[str, Any]:
    return {"prompt_embeds": text(numbers, LENGTH, WIDTH), "negative_prompt_embeds": null(numbers, LENGTH, WIDTH)}


def masked_prompts(numbers: Sequence[int]) -> dict[str, Any]:
    return {
        **prompts(numbers),
        "prompt_attention_mask": masks(numbers, LENGTH),
        "negative_prompt_attention_mask": masks([number + 1 for number in numbers], LENGTH),
    }


# --- Stable Diffusion 3


def _sd3_sizes() -> dict[str, Any]:
    sizes = {"sample_size": SIDE, "pos_embed_max_size": 8, "in_channels": 16, "out_channels": 16}
    return {**TINY, **sizes, **dict.fromkeys(("joint_attention_dim", "caption_projection_dim"), WIDTH)}


@shared
def _sd3_transformer() -> Any:
    return loud(diffusers.SD3Transformer2DModel(pooled_projection_dim=WIDTH, **_sd3_sizes()))


def _sd3_conditions(numbers: Sequence[int]) -> dict[str, Any]:
    pooled = {
        f"{kind}pooled_prompt_embeds": of(numbers, WIDTH, kind=1) for kind, of in (("", text), ("negative_", null))
    }
    return {**prompts(numbers), **pooled}


def _sd3(name: str, *pictures: str, parts: dict[str, Any] | None = None, options: Any = (), **more: Any) -> Tiny:
    """`pictures` are the names of pictures and masks that its call takes."""
    pipe = pipeline(
        name,
        *("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
        transformer=_sd3_transformer(),
        vae=autoencoder(16),
        scheduler=flow(),
        **(parts or {}),
    )

    def conditions(numbers: Sequence[int]) -> dict[str, Any]:
        return {**_sd3_conditions(numbers), **{what: given(what, numbers) for what in pictures}}

    def given(what: str, numbers: Sequence[int]) -> torch.Tensor:
        right_half = (torch.arange(size[1]) >= size[1] // 2).float().expand(len(numbers), 1, *size)
        return right_half if "mask" in what else picture(numbers, 3, *size)

    options = {"height": SIDE, "width": SIDE, **GUIDED, **dict(options)}
    size = options["height"], options["width"]
    return Tiny(pipe, drawn(conditions), options, **more)


@tiny("StableDiffusion3Pipeline")
def sd3() -> Tiny:
    return _sd3("StableDiffusion3Pipeline")


@tiny("StableDiffusion3Pipeline without guidance")
def sd3_unguided() -> Tiny:
    return _sd3("StableDiffusion3Pipeline", options={"guidance_scale": 1.0}, **UNGUIDED)


# In steps 1 to 3 of 6 the text branch is called once more, by itself and without some layers.
@tiny("StableDiffusion3Pipeline with layers skipped")
def sd3_skipping() -> Tiny:
    return _sd3(
        "StableDiffusion3Pipeline", varies=True, options={"skip_guidance_layers": [1], "skip_layer_guidance_stop": 0.6}
    )


@tiny("StableDiffusion3Img2ImgPipeline")
def sd3_img2img() -> Tiny:
    return _sd3("StableDiffusion3Img2ImgPipeline", "image", options=HALF_WAY)


@tiny("StableDiffusion3InpaintPipeline")
def sd3_inpaint() -> Tiny:
    return _sd3("StableDiffusion3InpaintPipeline", "image", "mask_image", options=HALF_WAY)


def _sd3_control_net(channels: int = 0) -> Any:
    net = diffusers.SD3ControlNetModel(
        pooled_projection_dim=WIDTH,
        extra_conditioning_channels=channels,
        force_zeros_for_pooled_projection=False,
        **_sd3_sizes(),
    )
    return loud(net)


@tiny("StableDiffusion3ControlNetPipeline")
def sd3_control() -> Tiny:
    return _sd3(
        "StableDiffusion3ControlNetPipeline",
        "control_image",
        parts={"controlnet": _sd3_control_net()},
        options={"height": 8, "width": 8},
        beside=("controlnet",),
    )


# Its latents' mask is one channel more of what the ControlNet sees.
@tiny("StableDiffusion3ControlNetInpaintingPipeline")
def sd3_control_inpainting() -> Tiny:
    return _sd3(
        "StableDiffusion3ControlNetInpaintingPipeline",
        "control_image",
        "control_mask",
        parts={"controlnet": _sd3_control_net(1)},
        options={"height": 8, "width": 8},
        beside=("controlnet",),
    )


@tiny("StableDiffusion3PAGPipeline")
def sd3_pag() -> Tiny:
    return _sd3("StableDiffusion3PAGPipeline", parts={"pag_applied_layers": "blocks.1"}, **PERTURBED)


@tiny("StableDiffusion3PAGImg2ImgPipeline")
def sd3_pag_img2img() -> Tiny:
    parts = {"pag_applied_layers": "blocks.1"}
    return _sd3("StableDiffusion3PAGImg2ImgPipeline", "image", parts=parts, options=HALF_WAY, **PERTURBED)


# --- PixArt


@shared
def _pixart_transformer(sample_size: int) -> Any:
    return loud(
        diffusers.PixArtTransformer2DModel(
            **{**TINY, "attention_head_dim": 12},  # of both heads a third has to be a whole number
            sample_size=sample_size,
            cross_attention_dim=24,
            caption_channels=WIDTH,
            use_additional_conditions=sample_size == 128,
        )
    )


def _pixart(name: str, sample_size: int = SIDE, *, parts: dict[str, Any] | None = None, **more: Any) -> Tiny:
    pipe = pipeline(
        name,
        vae=None,
        transformer=_pixart_transformer(sample_size),
        scheduler=diffusers.DPMSolverMultistepScheduler(**BETAS),
        **(parts or {}),
    )
    options = {
        "height": 8 * SIDE,
        "width": 8 * SIDE,
        "negative_prompt": None,
        "use_resolution_binning": False,
        **GUIDED,
    }
    return Tiny(pipe, masked_prompts, options, **more)


@tiny("PixArtAlphaPipeline")
def pixart_alpha() -> Tiny:
    return _pixart("PixArtAlphaPipeline")


# The denoiser is told the picture's resolution and shape, once a row, in a dictionary.
@tiny("PixArtAlphaPipeline with resolutions")
def pixart_alpha_resolutions() -> Tiny:
    return _pixart("PixArtAlphaPipeline", 128)


@tiny("PixArtSigmaPipeline")
def pixart_sigma() -> Tiny:
    return _pixart("PixArtSigmaPipeline")


@tiny("PixArtSigmaPAGPipeline")
def pixart_sigma_pag() -> Tiny:
    return _pixart("PixArtSigmaPAGPipeline", parts={"pag_applied_layers": "blocks.1"}, **PERTURBED)


# --- Sana


def _sana_sizes() -> dict[str, Any]:
    cross = {"num_cross_attention_heads": 2, "cross_attention_head_dim": WIDTH // 2, "cross_attention_dim": WIDTH}
    return {**TINY, **cross, "in_channels": 4, "out_channels": 4, "caption_channels": WIDTH, "sample_size": SIDE}


@shared
def _sana_transformer(guided: bool = False) -> Any:
    more = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"} if guided else {}
    return loud(diffusers.SanaTransformer2DModel(**_sana_sizes(), **more))


def _sana(name: str, conditions: Callable[..., Any] = masked_prompts, options: Any = (), **more: Any) -> Tiny:
    parts = {"transformer": _sana_transformer(), "scheduler": flow(), "vae": None, **more.pop("parts", {})}
    pipe = pipeline(name, **parts)
    sizes = {"height": 32 * SIDE, "width": 32 * SIDE, "use_resolution_binning": False}
    return Tiny(pipe, conditions, {**sizes, **GUIDED, **dict(options)}, **more)


@tiny("SanaPipeline")
def sana() -> Tiny:
    return _sana("SanaPipeline", options={"negative_prompt": None})


@tiny("SanaPAGPipeline")
def sana_pag() -> Tiny:
    options = {"height": 8 * SIDE, "width": 8 * SIDE, "negative_prompt": None}  # a missing autoencoder is one of 8 here
    return _sana("SanaPAGPipeline", parts={"pag_applied_layers": "blocks.1"}, options=options, **PERTURBED)


# The scale is an argument of the denoiser. After every step but the last the scheduler adds noise.
@tiny("SanaSprintPipeline")
def sana_sprint() -> Tiny:
    return _sana(
        "SanaSprintPipeline",
        without_null(masked_prompts),
        parts={"transformer": _sana_transformer(True), "scheduler": diffusers.SCMScheduler()},
        options={"intermediate_timesteps": None},
        **UNGUIDED,
    )


@shared
def _sana_autoencoder() -> Any:
    """Its pictures are 32 times as large as its latents."""
    blocks = {f"{part}_block_out_channels": (4,) * 6 for part in ("encoder", "decoder")}
    layers = {f"{part}_layers_per_block": (1,) * 6 for part in ("encoder", "decoder")}
    kinds = {f"{part}_block_types": "ResBlock" for part in ("encoder", "decoder")}
    scales = {f"{part}_qkv_multiscales": ((),) * 6 for part in ("encoder", "decoder")}
    return diffusers.AutoencoderDC(latent_channels=4, **blocks, **layers, **kinds, **scales)


def _sana_pictures(conditions: Callable[..., Any], name: str) -> Callable[..., Any]:
    return lambda numbers: {**conditions(numbers), name: picture(numbers, 3, 32 * SIDE, 32 * SIDE)}


@tiny("SanaSprintImg2ImgPipeline")
def sana_sprint_img2img() -> Tiny:
    return _sana(
        "SanaSprintImg2ImgPipeline",
        _sana_pictures(without_null(masked_prompts), "image"),
        parts={
            "transformer": _sana_transformer(True),
            "scheduler": diffusers.SCMScheduler(),
            "vae": _sana_autoencoder(),
        },
        options={"intermediate_timesteps": None, **HALF_WAY},
        **UNGUIDED,
    )


@tiny("SanaControlNetPipeline")
def sana_control() -> Tiny:
    net = loud(diffusers.SanaControlNetModel(**{**_sana_sizes(), "num_layers": 1}))
    return _sana(
        "SanaControlNetPipeline",
        _sana_pictures(masked_prompts, "control_image"),
        parts={"controlnet": net, "vae": _sana_autoencoder()},
        options={"negative_prompt": None},
        beside=("controlnet",),
    )


# --- Hunyuan-DiT


def _hunyuan_sizes() -> dict[str, Any]:
    said = {"cross_attention_dim": WIDTH, "cross_attention_dim_t5": WIDTH, "pooled_projection_dim": WIDTH}
    lengths = {"text_len": LENGTH, "text_len_t5": LENGTH}
    sizes = {"num_attention_heads": 2, "attention_head_dim": WIDTH // 2, "hidden_size": WIDTH, "patch_size": 2}
    return {**said, **lengths, **sizes, "in_channels": 4, "sample_size": SIDE, "activation_fn": "gelu-approximate"}


@shared
def _hunyuan_transformer() -> Any:
    return loud(diffusers.HunyuanDiT2DModel(num_layers=4, **_hunyuan_sizes()))


def _hunyuan_conditions(numbers: Sequence[int]) -> dict[str, Any]:
    return {
        **masked_prompts(numbers),
        "prompt_embeds_2": text(numbers, LENGTH, WIDTH, kind=1),
        "negative_prompt_embeds_2": null(numbers, LENGTH, WIDTH, kind=1),
        "prompt_attention_mask_2": masks(numbers, LENGTH),
        "negative_prompt_attention_mask_2": masks(numbers, LENGTH),
    }


def _hunyuan(name: str, conditions: Callable[..., Any] = _hunyuan_conditions, **more: Any) -> Tiny:
    pipe = pipeline(
        name,
        *("text_encoder_2", "tokenizer_2", "safety_checker", "feature_extractor"),
        requires_safety_checker=False,
        scheduler=ddim(),
        **{"transformer": _hunyuan_transformer(), "vae": None, **more.pop("parts", {})},
    )
    # Four patches: as many rows of the rotary tables as a guided batch of two images has.
    options = {"height": 8 * SIDE, "width": 8 * SIDE, "use_resolution_binning": False, **GUIDED}
    return Tiny(pipe, conditions, {**options, **more.pop("options", {})}, **more)


@tiny("HunyuanDiTPipeline")
def hunyuan() -> Tiny:
    return _hunyuan("HunyuanDiTPipeline")


@tiny("HunyuanDiTPAGPipeline")
def hunyuan_pag() -> Tiny:
    return _hunyuan("HunyuanDiTPAGPipeline", parts={"pag_applied_layers": "blocks.1"}, **PERTURBED)


@tiny("HunyuanDiTControlNetPipeline")
def hunyuan_control() -> Tiny:
    net = diffusers.HunyuanDiT2DControlNetModel(transformer_num_layers=4, **_hunyuan_sizes())
    side = 16  # it rounds to sixteens
    return _hunyuan(
        "HunyuanDiTControlNetPipeline",
        drawn(lambda numbers: {**_hunyuan_conditions(numbers), "control_image": picture(numbers, 3, side, side)}),
        parts={"controlnet": loud(net), "vae": autoencoder()},
        options={"height": side, "width": side},
        beside=("controlnet",),
    )


# --- Others


@tiny("CogView3PlusPipeline")
def cogview3() -> Tiny:
    transformer = diffusers.CogView3PlusTransformer2DModel(
        **TINY,
        in_channels=4,
        out_channels=4,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=8,
        sample_size=SIDE,
    )
    scheduler = diffusers.CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    pipe = pipeline("CogView3PlusPipeline", transformer=loud(transformer), scheduler=scheduler, vae=None)
    return Tiny(pipe, prompts, {"height": 8 * SIDE, "width": 8 * SIDE, **GUIDED})


@tiny("BriaPipeline")
def bria() -> Tiny:
    transformer = diffusers.BriaTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        joint_attention_dim=WIDTH,
        axes_dims_rope=[4, 2, 2],
    )
    pipe = pipeline("BriaPipeline", transformer=loud(transformer), scheduler=flow(), vae=autoencoder())
    # Four patches and four tokens: as many ids as a guided batch of two images has rows.
    return Tiny(pipe, prompts, {"height": SIDE, "width": SIDE, **GUIDED})


@tiny("AuraFlowPipeline")
def auraflow() -> Tiny:
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=SIDE,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        joint_attention_dim=WIDTH,
        caption_projection_dim=WIDTH,
        pos_embed_max_size=16,
    )
    pipe = pipeline("AuraFlowPipeline", transformer=loud(transformer), scheduler=flow(), vae=None)
    return Tiny(pipe, masked_prompts, {"height": 8 * SIDE, "width": 8 * SIDE, **GUIDED})


def _prx(**more: Any) -> Tiny:
    transformer = diffusers.PRXTransformer2DModel(
        in_channels=4, context_in_dim=WIDTH, hidden_size=WIDTH, mlp_ratio=2.0, num_heads=2, depth=2, axes_dim=[4, 4]
    )
    pipe = pipeline("PRXPipeline", transformer=loud(transformer), scheduler=flow(), vae=None)
    options = {"height": 8 * SIDE, "width": 8 * SIDE, "use_resolution_binning": False, **GUIDED}
    return Tiny(pipe, masked_prompts, {**options, **more.pop("options", {})}, **more)


# Guided it hands over two timesteps, however many rows there are: it fails with more than one image.
@tiny("PRXPipeline")
def prx() -> Tiny:
    return _prx(images=(0,))


@tiny("PRXPipeline without guidance")
def prx_unguided() -> Tiny:
    return _prx(options={"guidance_scale": 1.0}, **UNGUIDED)


# Three of the latents' four channels are guided; the fourth is the text branch's.
@tiny("LuminaPipeline")
def lumina() -> Tiny:
    transformer = diffusers.LuminaNextDiT2DModel(
        sample_size=SIDE,
        hidden_size=WIDTH,
        num_layers=2,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        cross_attention_dim=WIDTH,
    )
    pipe = pipeline("LuminaPipeline", transformer=loud(transformer), scheduler=flow(), vae=None)
    return Tiny(pipe, masked_prompts, {"height": 8 * SIDE, "width": 8 * SIDE, **GUIDED}, branches=("text", "null"))


# It hands on pictures alone, and has no text: its conditions are the numbers of classes.
@tiny("DiTPipeline")
def dit() -> Tiny:
    transformer = diffusers.DiTTransformer2DModel(**TINY, out_channels=8, sample_size=SIDE)
    pipe = diffusers.DiTPipeline(transformer=loud(transformer), vae=autoencoder(), scheduler=ddim())
    return Tiny(pipe, lambda numbers: {"class_labels": list(numbers)}, GUIDED, branches=("text", "null"))
