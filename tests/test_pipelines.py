"""Pipelines that share a denoiser, what feeds it, and generations that take turns on it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import diffusers
import pytest
import torch
from test_guidance import PROMPTS, SEEDS, W, denoiser_of

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.guidance.hook import ModuleHook
from shapefirst.sampling.loop import generators

N = 5


class Row(NamedTuple):
    """A pipeline of the matrix, and what its call takes besides prompts, seeds, steps and scale."""

    pipe: Any
    options: dict[str, Any]

    def __call__(self, prompts: list[str] = PROMPTS, seeds: list[int] = SEEDS) -> torch.Tensor:
        options = {"num_inference_steps": N, "guidance_scale": W, "output_type": "latent", **self.options}
        out = self.pipe(prompts, generator=generators(seeds), **options)
        return out.frames if hasattr(out, "frames") else out.images


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def over(name: str, pipe: Any, **more: Any) -> Any:
    made = getattr(diffusers, name)(**{**pipe.components, **more})
    made.set_progress_bar_config(disable=True)
    return made


def control_net(pipe: Any) -> Any:
    torch.manual_seed(1)
    options = {"conditioning_embedding_out_channels": (4, 4), "controlnet_conditioning_channel_order": "rgb"}
    net = diffusers.ControlNetModel.from_unet(pipe.unet, load_weights_from_unet=True, **options).eval()
    with torch.no_grad():  # it begins with zeros, that do nothing
        for weight in net.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return net


def stable_diffusion_3(make_pipe: Any) -> Any:
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

    torch.manual_seed(2)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=8,
    ).eval()
    xl = make_pipe("sdxl")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    encoders = {"text_encoder": xl.text_encoder_2, "text_encoder_2": xl.text_encoder_2}
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, sample_size=16, shift_factor=0.1, **blocks),
        tokenizer=xl.tokenizer,
        tokenizer_2=xl.tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
        **encoders,
    )


def animate_diff(make_pipe: Any) -> Any:
    torch.manual_seed(0)
    pipe = make_pipe(deep=True)  # so has a video's U-Net
    motion = diffusers.MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2
    )
    parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    made = diffusers.AnimateDiffPipeline(**parts, unet=copy.deepcopy(pipe.unet), motion_adapter=motion)
    made.set_progress_bar_config(disable=True)
    made.unet.eval()
    return made


PIXART = {"use_resolution_binning": False, "clean_caption": False}
CONTROL = "StableDiffusionControlNetPipeline"


def controlled(make_pipe: Any) -> Row:
    """A pipeline with a ControlNet."""
    pipe = make_pipe("sd-epsilon", deep=True)  # a ControlNet has a middle
    made = over(CONTROL, pipe, controlnet=control_net(pipe), requires_safety_checker=False)
    return Row(made, {"image": image()})


@contextmanager
def control_rows(pipe: Any) -> Iterator[list[int]]:
    """The rows that enter its ControlNets, a call each."""
    nets = getattr(getattr(pipe, "controlnet", None), "nets", None) or [getattr(pipe, "controlnet", None)]
    seen: list[int] = []
    handles = [
        net.conv_in.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        for net in nets
        if net is not None
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


# --- pipelines that share a denoiser ----------------------------------------------------------------------------------


class Outer(ModuleHook):
    """Stands before all other hooks, as if the pipeline gave its denoiser something else."""

    nearness = -1

    def around(self, forward: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = self.blocks[-1](args, kwargs)
        return forward(*args, **kwargs)


def handing_on(denoiser: Any, change: Callable[[Any, Any], Any]) -> Callable[[], None]:
    """From here on the denoiser is given other arguments, until what this returns is called."""
    hook = Outer.enter(None, denoiser, change)
    return lambda: hook.leave(change)


def handing_on_copies(denoiser: Any) -> Any:
    """From here on the denoiser is given copies of its timesteps, which do not tell the list that they are from."""

    def copied(args: Any, kwargs: Any) -> Any:
        args = tuple(x.clone() if isinstance(x, torch.Tensor) and x.ndim == 0 else x for x in args)
        return args, {name: x.clone() if name == "timestep" else x for name, x in kwargs.items()}

    return handing_on(denoiser, copied)


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun"])
@pytest.mark.parametrize("copies", [False, True])
def test_a_copy_that_shares_the_denoiser_is_followed_by_its_own_steps(make_pipe, request, kind, sampler, copies):
    pipe, other = make_pipe(kind), make_pipe(kind, sampler)
    assert denoiser_of(pipe) is denoiser_of(other)
    if copies:
        request.addfinalizer(handing_on_copies(denoiser_of(pipe)))
    options = {"generator": generators([0]), "output_type": "latent", "guidance_scale": W}
    options |= PIXART if kind == "pixart" else {}
    pipe("a cat", num_inference_steps=20, **options)
    with text_until(other, 5) as evaluations:
        expected = other("a cat", num_inference_steps=10, **{**options, "generator": generators([1])}).images
    rows = evaluations.rows
    assert rows == (19 + 10 if sampler == "heun" else 15)
    with text_until(pipe, 5) as evaluations:
        found = other("a cat", num_inference_steps=10, **{**options, "generator": generators([1])}).images
    assert evaluations.rows == rows
    assert torch.equal(found, expected)


def test_another_pipeline_of_another_layout_is_followed_by_its_own(make_pipe):
    pipe = make_pipe()
    views = over("StableDiffusionPanoramaPipeline", pipe, requires_safety_checker=False)
    call = {"height": 16, "width": 16, "num_inference_steps": 4, "output_type": "latent"}
    with guide(pipe, "every:2") as evaluations:
        views("a cat", **call)
    assert evaluations.rows == evaluations.asked / 2
    with text_until(pipe, 2) as evaluations, pytest.warns(UserWarning, match="no branch to drop"):
        views("a cat", **call)
    assert evaluations.rows == evaluations.asked


# --- what feeds the denoiser -----------------------------------------------------------------------------------------


def test_what_a_control_net_is_not_told_may_not_change_while_it_rests(make_pipe):
    pipe, options = controlled(make_pipe)
    scale = {"attention_scale": torch.ones(1)}

    def change(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 2:
            scale["attention_scale"] = torch.zeros(1)
        return tensors

    def given(args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "added_cond_kwargs": dict(scale)}

    stop = handing_on(pipe.unet, given)
    call = {"num_inference_steps": 6, "guidance_scale": W, "output_type": "latent", "callback_on_step_end": change}
    with guide(pipe, "paper:2"):
        pipe("a cat", **options, **call)
    scale["attention_scale"] = torch.ones(1)
    with guide(pipe, "every:2"), pytest.raises(ShapefirstError, match="changed in step 3, in which its ControlNet"):
        pipe("a cat", **options, **call)
    stop()


def test_a_prompt_that_changes_runs_the_control_net_again(make_pipe):
    pipe, options = controlled(make_pipe)
    other = pipe.encode_prompt("a dog", "cpu", 1, True, negative_prompt="")
    embeddings = torch.cat([other[1], other[0]])

    def change(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": embeddings} if step == 2 else {}

    call = {"num_inference_steps": 6, "guidance_scale": W, "output_type": "latent", "callback_on_step_end": change}
    call["callback_on_step_end_tensor_inputs"] = ["prompt_embeds"]
    with guide(pipe, "every:2") as evaluations, control_rows(pipe) as controls:
        pipe("a cat", **options, **call)
    # Guided are 0 and 2, then 3 and 4 to learn anew; and then every other one again.
    assert sum(controls) == evaluations.control_rows == evaluations.rows == 2 * 4


def test_a_control_net_that_feeds_another_denoiser_is_left_alone(make_pipe):
    mine, options = controlled(make_pipe)
    other = over(CONTROL, mine, unet=copy.deepcopy(mine.unet), requires_safety_checker=False)
    other.scheduler = copy.deepcopy(mine.scheduler)
    stock = Row(other, options)()
    with guide(mine, "paper:2"):
        assert torch.equal(Row(other, options)(), stock)


def test_a_control_net_that_stops_half_way_costs_no_budget(make_pipe):
    pipe, options = controlled(make_pipe)
    with guide(pipe, "budget:0.6") as evaluations:
        pipe(
            "a cat", **options, num_inference_steps=10, guidance_scale=W, control_guidance_end=0.5, output_type="latent"
        )
    assert evaluations.rows <= 0.6 * evaluations.asked


# --- generations that take turns -------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["paper:3", "every:3", "tol:0.05"])
def test_a_generation_within_another_one(make_pipe, policy):
    outer, inner = make_pipe(), make_pipe()
    options = {"guidance_scale": W, "output_type": "latent"}

    def sample(pipe: Any, seed: int, steps: int, **more: Any) -> torch.Tensor:
        return pipe("a cat", generator=generators([seed]), num_inference_steps=steps, **options, **more).images

    def between(_: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step in (1, 6):
            sample(inner, 2, 5)
        return {}

    with guide(outer, policy) as alone:
        expected = sample(outer, 1, 10)
    with guide(outer, policy) as other:
        sample(inner, 2, 5)
    with guide(outer, policy) as both:
        assert torch.equal(sample(outer, 1, 10, callback_on_step_end=between), expected)
    assert both.rows == alone.rows + 2 * other.rows


def test_an_outer_block_goes_on_where_an_inner_one_ends_within_a_generation(make_pipe):
    pipe, inner = make_pipe(), contextlib.ExitStack()

    def between(_: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 3:
            inner.enter_context(guide(pipe, "paper:0"))
        if step == 5:
            inner.close()
        return {}

    options = {"num_inference_steps": 9, "guidance_scale": W, "output_type": "latent"}
    with guide(pipe, "every:3") as evaluations:
        pipe("a cat", callback_on_step_end=between, **options)
    assert evaluations.rows == 2 * 3 + 2  # guided are 0, 3 and 6; steps 4 and 5 evaluate the null branch


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
def test_timesteps_in_the_number_format_of_the_model(make_pipe, request, sampler):
    """Some pipelines hand them over so; bfloat16 has no 981."""
    pipe = make_pipe("sd-epsilon", sampler)

    def rounded(args: Any, kwargs: Any) -> Any:
        return tuple(x.bfloat16() if isinstance(x, torch.Tensor) and x.ndim == 0 else x for x in args), kwargs

    request.addfinalizer(handing_on(pipe.unet, rounded))
    with text_until(pipe, 20) as evaluations:
        pipe("a cat", num_inference_steps=30, guidance_scale=W, output_type="latent")
    assert evaluations.rows == 50


def test_a_cache_of_diffusers_is_refused_where_a_branch_is_dropped(make_pipe):
    from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    pipe = copy.copy(make_pipe("pixart"))
    pipe.transformer = copy.deepcopy(pipe.transformer)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    )
    apply_pyramid_attention_broadcast(pipe.transformer, config)
    with pytest.raises(UnsupportedPipelineError, match=r"A cache of diffusers .* switch it off"):
        guide(pipe, "paper:4")
    with guide(pipe, "every:2") as evaluations:
        pipe("a cat", num_inference_steps=8, **PIXART)
    assert evaluations.rows == evaluations.asked / 2
