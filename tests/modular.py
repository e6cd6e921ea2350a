"""Tiny modular pipelines with random weights, and a guider that does what the equations say at full cost.

Their blocks for text and pictures are left out, as diffusers lets anybody do: a call takes embeddings and gives
latents, and no tokenizer is needed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import naive
import torch
from diffusers.guiders import ClassifierFreeGuidance

STEPS = 6
W = 4.0


@dataclass
class Modular:
    """A tiny modular pipeline.

    Attributes:
        pipe: The pipeline.
        conditions: The number of images -> what a call is given of them.
        denoisers: Its networks that are counted.
        guiders: The names of its guiders.
        level: Timestep -> u.
        out: What it gives.
    """

    pipe: Any
    conditions: Callable[[int], dict[str, Any]]
    denoisers: tuple[Any, ...]
    guiders: tuple[str, ...] = ("guider",)
    level: Callable[[float], float] = lambda t: t / 1000
    out: str = "latents"
    calls: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for place, denoiser in enumerate(self.denoisers):
            denoiser.eval().register_forward_hook(lambda *_, place=place: self.calls.append(place))

    def __call__(self, *guiders: Any, images: int = 2, num_inference_steps: int = STEPS, **more: Any) -> torch.Tensor:
        """The latents that it makes, guided so; what was evaluated is in `calls`."""
        self.pipe.update_components(**dict(zip(self.guiders, guiders, strict=True)))
        self.calls.clear()
        given = {"num_inference_steps": num_inference_steps, **self.conditions(images), **more}
        generator = torch.Generator().manual_seed(0)
        out = self.pipe(output=self.out, generator=generator, **given)
        return torch.cat(out) if isinstance(out, list) else out


class Naive(ClassifierFreeGuidance):
    """Both branches in every call, whatever is made of them; see `naive`.

    Args:
        guided: Whether a step is guided.
        keep: The branch of the others, or "neither".
        order: The polynomial's, if there is one.
        level: Timestep -> u.
        step_of: Call -> step.
    """

    def __init__(
        self,
        guided: Callable[[int], bool],
        keep: str = "null",
        order: int | None = None,
        level: Callable[[float], float] = lambda t: t / 1000,
        step_of: Callable[[int], int] = lambda call: call,
        **options: Any,
    ) -> None:
        super().__init__(**{"guidance_scale": W, **options})
        self.guided, self.keep, self.order, self.level, self.step_of = guided, keep, order, level, step_of
        self.seen: dict[float, tuple[torch.Tensor, torch.Tensor]] = {}

    def set_state(self, step: int, num_inference_steps: int, timestep: torch.Tensor) -> None:
        super().set_state(step, num_inference_steps, timestep)
        if step == 0:
            self.seen = {}

    def forward(self, pred_cond: torch.Tensor, pred_uncond: torch.Tensor) -> Any:
        text, null, u = pred_cond, pred_uncond, self.level(float(self._timestep))
        if self.guided(self.step_of(self._step)):
            self.seen.pop(u, None)
            self.seen[u] = null, text
        else:
            places = list(self.seen)[-1 - (self.order or 0) :]

            def along(value: Callable[[Any, Any], torch.Tensor]) -> torch.Tensor:
                return naive.polynomial(places, [value(*self.seen[at]) for at in places], u).to(text.dtype)

            if self.order is None:
                null = text = null if self.keep == "null" else text
            elif self.keep == "neither":
                null, text = along(lambda null, text: null), along(lambda null, text: text)
            elif self.keep == "null":
                text = null + along(lambda null, text: text - null)
            else:
                null = text - along(lambda null, text: text - null)
        return super().forward(text, null)

    def _is_cfg_enabled(self) -> bool:
        return True  # also in the second half of a solver that calls twice a step


def made(blocks: Any, **parts: Any) -> Any:
    """A pipeline of some blocks without those for text and pictures."""
    for name in ("text_encoder", "ip_adapter", "vae_encoder", "controlnet_vae_encoder", "decode"):
        blocks.sub_blocks.pop(name, None)
    pipe = blocks.init_pipeline()
    pipe.update_components(**parts)
    return pipe


def normal(number: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(number))


def listens(model: Any, *parts: str, times: float = 4.0) -> Any:
    """The model with some weights scaled: a random one hardly hears its prompt."""
    with torch.no_grad():
        scaled = [
            weight.mul_(times) for name, weight in model.named_parameters() if any(part in name for part in parts)
        ]
    assert scaled, parts
    return model


def text(tokens: int, width: int, **more: tuple[int, ...]) -> Callable[[int], dict[str, Any]]:
    """Embeddings of prompts and negative prompts, (images, tokens, width), and others of these shapes per image."""

    def conditions(images: int) -> dict[str, Any]:
        shapes = {"prompt_embeds": (tokens, width), **more}
        names = [prefix + name for prefix in ("", "negative_") for name in shapes]
        of = {name: shapes[name.removeprefix("negative_")] for name in names}
        return {name: normal(number, images, *of[name], scale=2) for number, name in enumerate(names)}

    return conditions


def flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def stable_diffusion_xl(make_pipe: Any, scheduler: Any = None) -> Modular:
    from diffusers import StableDiffusionXLAutoBlocks

    xl = make_pipe("sdxl")
    scheduler = xl.scheduler if scheduler is None else scheduler
    unet = copy.deepcopy(xl.unet)
    pipe = made(StableDiffusionXLAutoBlocks(), unet=unet, scheduler=scheduler, vae=xl.vae)
    size = {"height": 16, "width": 16, "original_size": (16, 16), "target_size": (16, 16)}
    embeddings = text(77, 32, pooled_prompt_embeds=(16,))
    level = lambda t: torch.tensor(naive.sigma_over_alpha(scheduler, t)).log1p().item()  # noqa: E731
    return Modular(pipe, lambda n: {**embeddings(n), **size}, (unet,), level=level)


def stable_diffusion_3(make_pipe: Any) -> Modular:
    from diffusers import SD3Transformer2DModel, StableDiffusion3AutoBlocks

    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
    )
    pipe = made(StableDiffusion3AutoBlocks(), transformer=network, scheduler=flow())
    embeddings = text(5, 16, pooled_prompt_embeds=(16,))
    return Modular(pipe, lambda n: {**embeddings(n), "height": 64, "width": 64}, (network,))


def flux_2(make_pipe: Any) -> Modular:
    from diffusers import Flux2Transformer2DModel
    from diffusers.modular_pipelines import Flux2KleinBaseAutoBlocks

    torch.manual_seed(0)
    network = Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    listens(network, "context_embedder")
    pipe = made(Flux2KleinBaseAutoBlocks(), transformer=network, scheduler=flow())
    return Modular(pipe, lambda n: {**text(5, 16)(n), "height": 64, "width": 64}, (network,))


def qwen_image(make_pipe: Any) -> Modular:
    from diffusers import QwenImageTransformer2DModel
    from diffusers.modular_pipelines import QwenImageAutoBlocks

    torch.manual_seed(0)
    network = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(2, 2, 4),
    )
    listens(network, "txt_in")
    pipe = made(QwenImageAutoBlocks(), transformer=network, scheduler=flow())

    def conditions(images: int) -> dict[str, Any]:
        masks = {f"{sign}prompt_embeds_mask": torch.ones(images, 5, dtype=torch.long) for sign in ("", "negative_")}
        return {**text(5, 16)(images), **masks, "height": 64, "width": 64}

    return Modular(pipe, conditions, (network,))


def _wan_transformer() -> Any:
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )


def _wan(images: int) -> dict[str, Any]:
    return {**text(5, 16)(images), "height": 32, "width": 32, "num_frames": 5}


def wan(make_pipe: Any) -> Modular:
    from diffusers.modular_pipelines import WanBlocks

    torch.manual_seed(0)
    network = _wan_transformer()
    return Modular(made(WanBlocks(), transformer=network, scheduler=flow()), _wan, (network,))


def wan_22(make_pipe: Any) -> Modular:
    from diffusers.modular_pipelines import Wan22Blocks

    torch.manual_seed(0)
    networks = _wan_transformer(), _wan_transformer()
    pipe = made(Wan22Blocks(), transformer=networks[0], transformer_2=networks[1], scheduler=flow())
    return Modular(pipe, _wan, networks, guiders=("guider", "guider_2"))


def helios(make_pipe: Any) -> Modular:
    """A video in two chunks, each with a loop of its own."""
    from diffusers import HeliosScheduler, HeliosTransformer3DModel
    from diffusers.modular_pipelines import HeliosAutoBlocks

    torch.manual_seed(0)
    network = HeliosTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=16,
        ffn_dim=16,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_dim=(4, 4, 4),
        has_multi_term_memory_patch=True,
        guidance_cross_attn=True,
        zero_history_timestep=True,
        is_amplify_history=False,
    )
    scheduler = HeliosScheduler(stage_range=[0, 1], stages=1, use_dynamic_shifting=True)
    pipe = made(HeliosAutoBlocks(), transformer=network, scheduler=scheduler)
    size = {"height": 16, "width": 16, "num_frames": 41}
    return Modular(pipe, lambda n: {**text(5, 16)(n), **size}, (network,), out="latent_chunks")


def z_image(make_pipe: Any) -> Modular:
    from diffusers import ZImageTransformer2DModel
    from diffusers.modular_pipelines import ZImageAutoBlocks

    torch.manual_seed(0)
    network = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        rope_theta=256.0,
        axes_dims=[4, 2, 2],
        axes_lens=[64, 16, 16],
    )
    with torch.no_grad():  # they begin with whatever there is
        network.x_pad_token.fill_(1.0)
        network.cap_pad_token.fill_(1.0)
    pipe = made(ZImageAutoBlocks(), transformer=network, scheduler=flow())

    def conditions(images: int) -> dict[str, Any]:
        embeddings = {name: list(value) for name, value in text(5, 16)(images).items()}
        return {**embeddings, "height": 64, "width": 64}

    return Modular(pipe, conditions, (network,))


#: The name of a pipeline -> its builder.
PIPELINES: dict[str, Callable[[Any], Modular]] = {
    "Stable Diffusion XL": stable_diffusion_xl,
    "Stable Diffusion 3": stable_diffusion_3,
    "Flux 2": flux_2,
    "Qwen-Image": qwen_image,
    "Wan": wan,
    "Z-Image": z_image,
}
