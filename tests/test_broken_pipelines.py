"""Calls of stock pipelines that once gave another image than their policy says, or a sentence that was not so."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import pytest
import torch
from tiny import PIPELINES, STEPS, Tiny
from tiny.flow import each
from tiny.flux import SMALL

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.blocks import guide, text_until

LATER = "known from a guided step only"


@pytest.fixture(autouse=True)
def _small_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-5) for x, y in zip(a, b, strict=True))


# --- a call a branch


def test_the_null_conditions_of_an_earlier_generation_are_not_those_of_the_next():
    row = PIPELINES["QwenImagePipeline"]()
    with text_until(row.pipe, fraction=0.2):
        row((0, 1), num_inference_steps=10)
        with pytest.raises(ShapefirstError, match=LATER):
            row((2, 3), num_inference_steps=2)  # none of its steps is guided


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("WanPipeline", {"guidance_scale": 1.0}),
        ("QwenImagePipeline", {"negative_prompt_embeds": None, "negative_prompt_embeds_mask": None}),
        ("FluxPipeline", {}),
    ],
)
def test_a_call_without_guidance_says_so_and_is_the_stock_one(name, off):
    row = PIPELINES[name]()
    stock = row((0, 1), **off)
    with text_until(row.pipe, 3) as evaluations, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        row((2, 3))
        made = row((0, 1), **off)
    assert any("no branch to drop" in str(warning.message) for warning in said)
    assert equal(made, stock)
    assert evaluations.calls == evaluations.asked_calls - (name != "FluxPipeline") * (STEPS - 3)


def test_a_picture_of_the_null_branch_is_dropped_with_its_text():
    row = PIPELINES["FluxPipeline with true CFG"]()
    transformer = _with_picture_adapter()
    row.pipe.transformer = transformer
    pictures = {
        "ip_adapter_image_embeds": [each((0, 1), 1, 8, at=30)],
        "negative_ip_adapter_image_embeds": [each((0, 1), 1, 8, at=60)],
    }
    with text_until(row.pipe, 3) as evaluations:
        made = row(**pictures)
    assert evaluations.calls == 2 * STEPS - 3

    null: dict[str, Any] = {}
    calls = []

    def swap(_: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        step, place = divmod(len(calls), 2)
        calls.append(step)
        given = ("encoder_hidden_states", "pooled_projections", "joint_attention_kwargs")
        if place:
            null.update({name: kwargs[name] for name in given}, joint_attention_kwargs={**kwargs[given[-1]]})
        return args, {**kwargs, **null} if step >= 3 else kwargs

    handle = transformer.register_forward_pre_hook(swap, with_kwargs=True)
    expected = row(**pictures)
    handle.remove()
    assert equal(made, expected)


def _with_picture_adapter() -> Any:
    """Flux's transformer with an IP-Adapter; another one than the rows share."""

    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(in_channels=64, pooled_projection_dim=8, **SMALL).eval()
    projection = {"proj.weight": torch.randn(32, 8), "proj.bias": torch.randn(32)}
    projection |= {"norm.weight": torch.ones(8), "norm.bias": torch.zeros(8)}
    attention = {f"0.to_{part}_ip.weight": torch.randn(16, 8) for part in "kv"}
    attention |= {f"0.to_{part}_ip.bias": torch.randn(16) for part in "kv"}
    transformer._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": attention}], low_cpu_mem_usage=False)
    return transformer


# --- guidance in some of the steps


@pytest.mark.parametrize(
    ("name", "interval"),
    [
        ("ZImagePipeline", {"cfg_truncation": 0.7}),  # guidance ends early
        ("AceStepPipeline", {"cfg_interval_start": 0.3, "cfg_interval_end": 0.8}),  # and begins late
    ],
)
@pytest.mark.parametrize("images", [(0, 1), (0, 0)])  # images of one seed have equal latents without guidance, too
def test_a_pipeline_may_guide_some_steps_only(name, interval, images):
    row = PIPELINES[name]()
    with entering(row) as stock:
        row(images, **interval)
    guided = [step for step in range(STEPS) if stock[step] == 4]
    k = guided[1]
    assert 2 <= len(guided) < STEPS

    with text_until(row.pipe, k), entering(row) as batches, pytest.warns(UserWarning, match="without classifier-free"):
        row(images, **interval)
    assert batches == [4 if step == guided[0] else 2 for step in range(STEPS)]

    with guide(row.pipe, "steps:0") as evaluations, entering(row) as batches:
        row(images, **interval)
    assert evaluations.rows == sum(batches)
    # Guidance that begins late learns first what is extrapolated.
    assert batches.count(4) == (2 if guided[0] else 1)


@contextmanager
def entering(row: Tiny) -> Iterator[list[int]]:
    """The rows of each call that really enters the denoiser."""
    seen: list[int] = []

    def see(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(len(args[0] if args else next(iter(kwargs.values()))))

    handle = row.pipe.transformer.register_forward_pre_hook(see, with_kwargs=True)
    yield seen
    handle.remove()


# --- what feeds the denoiser


@pytest.mark.parametrize("name", ["FluxControlNetPipeline", "QwenImageControlNetPipeline"])
def test_a_control_net_runs_in_a_step_that_a_change_of_the_prompt_has_evaluated(name):
    row = PIPELINES[name]()
    fed: list[bool] = []

    def see(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        fed.append(all(bool(x.any()) for x in kwargs["controlnet_block_samples"]))

    def change(_: Any, step: int, __: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": given["prompt_embeds"] * 2} if step == 1 else given

    handle = row.pipe.transformer.register_forward_pre_hook(see, with_kwargs=True)
    with guide(row.pipe, "steps:0+1") as evaluations:
        row(callback_on_step_end=change, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    handle.remove()
    assert evaluations.control_rows == 2 * 4  # steps 0 and 1, and 2 and 3, which learn what is new
    assert fed
    assert all(fed)


def test_a_change_that_a_control_net_does_not_see_is_refused_where_it_was_skipped():
    row = PIPELINES["QwenImageControlNetPipeline"]()

    def change(pipe: Any, step: int, _: Any, given: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            pipe._attention_kwargs = {"scale": 0.5}
        return given

    with guide(row.pipe, "steps:0+1"), pytest.raises(ShapefirstError, match="its ControlNet had not run"):
        row(callback_on_step_end=change)


# --- budgets


def test_a_budget_that_a_solvers_first_step_spends_is_refused_with_one_that_is_enough():
    row = PIPELINES["StableDiffusionPipeline"]()
    row.pipe.scheduler = diffusers.PNDMScheduler()  # ten calls in its first step, and five more in all others
    with guide(row.pipe, budget=0.9), pytest.raises(ShapefirstError, match=r"A budget of 0\.9 .* give 0\.94 or more"):
        row()
    with guide(row.pipe, budget=0.94) as evaluations:
        row()
    assert evaluations.rows <= 0.94 * evaluations.asked


def test_frames_at_several_steps_at_once_are_refused():
    """The first of them decides nothing for the others: most calls were taken for the first step's."""
    row = PIPELINES["SkyReelsV2DiffusionForcingPipeline"]()
    with guide(row.pipe, "every:2"), pytest.raises(UnsupportedPipelineError, match=r"937, 999.*ar_step=0"):
        row((0,), ar_step=1, causal_block_size=1)
