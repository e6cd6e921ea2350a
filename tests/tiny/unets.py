"""Stable Diffusion: pipelines around a U-Net that listens to one text encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import torch

from . import Tiny, tiny
from .unet_parts import BETAS, PICTURE, SIZE, WIDE, awake, ddim, each, embeddings, masks, pictures, unet, vae

WORDS = 5
Conditions = Callable[[Sequence[int]], dict[str, Any]]


def words(numbers: Sequence[int]) -> dict[str, Any]:
    return embeddings(numbers, WORDS, WIDE)


def text_only(numbers: Sequence[int]) -> dict[str, Any]:
    return {"prompt_embeds": words(numbers)["prompt_embeds"]}


def pooled(numbers: Sequence[int]) -> dict[str, Any]:
    return embeddings(numbers, WIDE, prefix="pooled_prompt_embeds")


def image(numbers: Sequence[int]) -> dict[str, Any]:
    return {"image": pictures(numbers)}


def hole(numbers: Sequence[int]) -> dict[str, Any]:
    return {"mask_image": masks(numbers)}


def depth(numbers: Sequence[int]) -> dict[str, Any]:
    return {"depth_map": pictures(numbers, channels=1)[:, 0]}


def also(*conditions: Conditions) -> Conditions:
    """All of them."""
    return lambda numbers: {key: value for given in conditions for key, value in given(numbers).items()}


def stable_diffusion(name: str, **parts: Any) -> Any:
    given = {
        "vae": vae(),
        "text_encoder": None,
        "tokenizer": None,
        "scheduler": ddim(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    return getattr(diffusers, name)(**{**given, "unet": unet(), **parts})


def row(pipe: Any, *conditions: Conditions, **more: Any) -> Tiny:
    """One whose guidance is a batch, null first, unless more is said."""
    options = {"guidance_scale": 4.0, **more.pop("options", {})}
    return Tiny(pipe, also(words, *conditions), options, **{"way": "one batch", "denoisers": ("unet",), **more})


@tiny("StableDiffusionPipeline")
def text_to_image() -> Tiny:
    return row(stable_diffusion("StableDiffusionPipeline"))


@tiny("StableDiffusionPipeline without guidance")
def unguided() -> Tiny:
    pipe = stable_diffusion("StableDiffusionPipeline")
    return row(pipe, options={"guidance_scale": 1.0}, way="whole calls", branches=("text",))


@tiny("StableDiffusionImg2ImgPipeline")
def image_to_image() -> Tiny:
    return row(stable_diffusion("StableDiffusionImg2ImgPipeline"), image, options={"strength": 1.0})


@tiny("StableDiffusionInpaintPipeline")
def inpaint() -> Tiny:
    pipe = stable_diffusion("StableDiffusionInpaintPipeline")
    return row(pipe, image, hole, options={"strength": 1.0, "height": PICTURE, "width": PICTURE})


@tiny("StableDiffusionInpaintPipeline with a U-Net that sees the mask")
def inpaint_trained() -> Tiny:
    pipe = stable_diffusion("StableDiffusionInpaintPipeline", unet=unet(in_channels=9))
    return row(pipe, image, hole, options={"strength": 1.0, "height": PICTURE, "width": PICTURE})


@tiny("StableDiffusionDepth2ImgPipeline")
def depth_to_image() -> Tiny:
    parts = {"vae": vae(), "text_encoder": None, "tokenizer": None, "scheduler": ddim(), "depth_estimator": None}
    pipe = diffusers.StableDiffusionDepth2ImgPipeline(**parts, unet=unet(in_channels=5), feature_extractor=None)
    return row(pipe, image, depth, options={"strength": 1.0})


@tiny("StableDiffusionUpscalePipeline")
def upscale() -> Tiny:
    """Noise is added to the small picture once, of a level that is an embedded class."""
    pipe = diffusers.StableDiffusionUpscalePipeline(
        vae=vae(scaling_factor=0.08333),
        text_encoder=None,
        tokenizer=None,
        unet=unet(in_channels=7, num_class_embeds=100),
        low_res_scheduler=diffusers.DDPMScheduler(**BETAS),
        scheduler=ddim(),
    )
    return row(pipe, lambda numbers: {"image": pictures(numbers, SIZE)})


@tiny("StableDiffusionLatentUpscalePipeline")
def upscale_latents() -> Tiny:
    """Its U-Net gives a channel more than is used, and is told a quarter of log sigma for a timestep."""
    net = unet(
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=(32, 64, 64),  # K blocks normalize groups of 32
        time_cond_proj_dim=128 + WIDE,
        conv_in_kernel=1,
        conv_out_kernel=1,
        down_block_types=("KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"),
        in_channels=8,
        out_channels=5,
        mid_block_type=None,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        up_block_types=("KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"),
    )
    pipe = diffusers.StableDiffusionLatentUpscalePipeline(
        vae=vae(),
        text_encoder=None,
        tokenizer=None,
        unet=net,
        scheduler=diffusers.EulerDiscreteScheduler(**BETAS, prediction_type="sample"),
    )
    return row(pipe, lambda numbers: {"image": each(numbers, 4, SIZE, SIZE, about=7)}, pooled)


def control_net(net: Any) -> Any:
    options = {"conditioning_embedding_out_channels": (4, 4), "controlnet_conditioning_channel_order": "rgb"}
    return awake(diffusers.ControlNetModel.from_unet(net, load_weights_from_unet=True, **options))


def controlled(name: str, *conditions: Conditions, nets: int = 1, key: str = "image", **options: Any) -> Tiny:
    net = unet()
    controls = [control_net(net) for _ in range(nets)]
    pipe = stable_diffusion(name, unet=net, controlnet=controls[0] if nets == 1 else controls)

    def hints(numbers: Sequence[int]) -> dict[str, Any]:
        made = [each(numbers, 3, PICTURE, PICTURE, about=20 + i).sigmoid() for i in range(nets)]
        return {key: made[0] if nets == 1 else made}

    return row(pipe, *conditions, hints, options=options, beside=("controlnet",))


@tiny("StableDiffusionControlNetPipeline")
def control() -> Tiny:
    return controlled("StableDiffusionControlNetPipeline")


@tiny("StableDiffusionControlNetPipeline twice")
def control_twice() -> Tiny:
    return controlled("StableDiffusionControlNetPipeline", nets=2)


@tiny("StableDiffusionControlNetPipeline guessing")
def control_guessing() -> Tiny:
    """The ControlNet is only given the text branch's rows, and adds nothing to the null branch's."""
    return controlled("StableDiffusionControlNetPipeline", guess_mode=True)


@tiny("StableDiffusionControlNetImg2ImgPipeline")
def control_image() -> Tiny:
    return controlled("StableDiffusionControlNetImg2ImgPipeline", image, key="control_image", strength=1.0)


@tiny("StableDiffusionControlNetInpaintPipeline")
def control_inpaint() -> Tiny:
    return controlled("StableDiffusionControlNetInpaintPipeline", image, hole, key="control_image", strength=1.0)


@tiny("StableDiffusionAdapterPipeline")
def adapter() -> Tiny:
    """A T2I-Adapter runs once, before the steps; the U-Net is given a list of its maps in each."""
    made = diffusers.T2IAdapter(channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter")
    pipe = stable_diffusion("StableDiffusionAdapterPipeline", adapter=made)
    return row(pipe, image, options={"height": PICTURE, "width": PICTURE})


def with_image_prompts(net: Any, adapters: int = 1) -> Any:
    """A U-Net whose attention also listens to pictures: IP-Adapter's layers, with random weights."""

    def weights() -> dict[str, dict[str, torch.Tensor]]:
        sizes = [(net.get_submodule(name.removesuffix(".processor")).to_k) for name in net.attn_processors]
        listens = {i: layer.weight.shape for i, layer in enumerate(sizes) if i % 2}
        attention = {
            f"{i}.to_{what}_ip.weight": 0.5 * torch.randn(shape) for i, shape in listens.items() for what in "kv"
        }
        wide = net.config.cross_attention_dim
        projection = {
            "proj.weight": 0.5 * torch.randn(4 * wide, WIDE),
            "proj.bias": torch.zeros(4 * wide),
            "norm.weight": torch.ones(wide),
            "norm.bias": torch.zeros(wide),
        }
        return {"image_proj": projection, "ip_adapter": attention}

    net._load_ip_adapter_weights([weights() for _ in range(adapters)], low_cpu_mem_usage=False)
    return net


def image_prompts(pictures: int = 1) -> dict[str, Any]:
    """Embeddings, (2, pictures, WIDE): a null one and that of pictures, which diffusers has all images listen to."""
    return {"ip_adapter_image_embeds": [each((0, 1), pictures, WIDE, about=30)]}


@tiny("StableDiffusionPipeline with IP-Adapter")
def image_prompt() -> Tiny:
    pipe = stable_diffusion("StableDiffusionPipeline", unet=with_image_prompts(unet()))
    return row(pipe, options=image_prompts())


def masked(count: int) -> Tiny:
    """Each picture has a part of the image, which is the same for all images of a batch."""
    pipe = stable_diffusion("StableDiffusionPipeline", unet=with_image_prompts(unet()))
    pipe.set_ip_adapter_scale([[1.0] * count])
    halves = torch.zeros(1, count, PICTURE, PICTURE)
    for i in range(count):
        halves[:, i, :, i * PICTURE // 2 : (i + 1) * PICTURE // 2] = 1
    return row(pipe, options={**image_prompts(count), "cross_attention_kwargs": {"ip_adapter_masks": [halves]}})


@tiny("StableDiffusionPipeline with IP-Adapter and a mask")
def masked_image_prompt() -> Tiny:
    return masked(1)


@tiny("StableDiffusionPipeline with IP-Adapter and two masks")
def masked_image_prompts() -> Tiny:
    return masked(2)


@tiny("StableDiffusionInstructPix2PixPipeline")
def instructed() -> Tiny:
    """Three rows an image: text with the picture, no text with the picture, neither."""
    pipe = stable_diffusion("StableDiffusionInstructPix2PixPipeline", unet=unet(in_channels=8))
    options = {"image_guidance_scale": 1.5}
    return row(pipe, image, options=options, branches=("text", "image", "null"))


@tiny("StableDiffusionPAGPipeline")
def perturbed() -> Tiny:
    """Its attention layers look for the perturbed branch in the last third of the rows."""
    pipe = stable_diffusion("StableDiffusionPAGPipeline", pag_applied_layers="mid")
    return row(pipe, options={"pag_scale": 2.0}, way="whole calls", branches=("null", "text", "perturbed"))


@tiny("StableDiffusionPAGPipeline without classifier-free guidance")
def perturbed_only() -> Tiny:
    """Its attention layers look for the perturbed branch in the last half of the rows."""
    pipe = stable_diffusion("StableDiffusionPAGPipeline", pag_applied_layers="mid")
    options = {"pag_scale": 2.0, "guidance_scale": 1.0}
    return row(pipe, options=options, way="whole calls", branches=("text", "perturbed"))


@tiny("StableDiffusionPAGImg2ImgPipeline")
def perturbed_image() -> Tiny:
    pipe = stable_diffusion("StableDiffusionPAGImg2ImgPipeline", pag_applied_layers="mid")
    options = {"pag_scale": 2.0, "strength": 1.0}
    return row(pipe, image, options=options, way="whole calls", branches=("null", "text", "perturbed"))


@tiny("StableDiffusionControlNetPAGPipeline")
def perturbed_control() -> Tiny:
    made = controlled("StableDiffusionControlNetPAGPipeline", pag_scale=2.0)
    return replace(made, way="whole calls", branches=("null", "text", "perturbed"))


@tiny("LatentConsistencyModelPipeline")
def latent_consistency() -> Tiny:
    """Its guidance is distilled: the U-Net is told the scale, a row an image."""
    pipe = diffusers.LatentConsistencyModelPipeline(
        vae=vae(),
        text_encoder=None,
        tokenizer=None,
        unet=unet(time_cond_proj_dim=8),
        scheduler=diffusers.LCMScheduler(**BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return Tiny(pipe, text_only, {"guidance_scale": 4.0}, branches=("text",), denoisers=("unet",), way="whole calls")


@tiny("StableDiffusionPanoramaPipeline")
def panorama() -> Tiny:
    """A call for each view, with rows that alternate, null first, and a state of the scheduler a view. Prompts' rows do
    not, so that the first image of several is given two null rows."""
    pipe = stable_diffusion("StableDiffusionPanoramaPipeline", vae=None)
    pipe.get_views = partial(pipe.get_views, window_size=SIZE // 2, stride=SIZE // 2)  # 64 and 8, without an option
    options = {"height": 4 * SIZE, "width": 8 * SIZE}
    return row(pipe, options=options, way="whole calls", calls=2)


@tiny("StableDiffusionSAGPipeline")
def self_attention() -> Tiny:
    """After null and text come null's rows once more, of a picture blurred where the first call's attention was."""
    pipe = stable_diffusion("StableDiffusionSAGPipeline")
    return row(pipe, options={"sag_scale": 0.75}, way="whole calls", calls=2, refused="reads its attention maps")


@tiny("StableDiffusionLDM3DPipeline")
def with_depth() -> Tiny:
    pipe = stable_diffusion("StableDiffusionLDM3DPipeline", vae=vae(in_channels=6, out_channels=6), image_encoder=None)
    return row(pipe, options={"output_type": "np"})
