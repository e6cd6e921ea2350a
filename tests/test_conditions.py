"""Extrapolation begins anew where a generation's conditions change half-way, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import naive
import pytest
import torch
from crosses import all_pairs
from test_guidance import PROMPTS, SEEDS, W, calls_of, generate

from shapefirst.guidance.blocks import guide
from shapefirst.guidance.conditions import Conditions
from shapefirst.models import SAMPLERS
from shapefirst.policies.auto import Auto
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import denoise, encode, generators

N = 8
OTHER = ["a blue house", "one bird"]
FIRST = TextSchedule.at([0, 1, 2])


def changing(at: int, change: Callable[[Any, dict[str, Any]], None]) -> dict[str, Any]:
    """Options of a call whose callback makes a change after its call number `at` of the denoiser."""

    def callback(pipe: Any, call: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        if call == at:
            change(pipe, given)
        return given

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}


def to_other_prompts(pipe: Any, given: dict[str, Any]) -> None:
    given["prompt_embeds"] = torch.cat([naive.encode(pipe, [""] * 2)[0], naive.encode(pipe, OTHER)[0]])


def rows_of(pipe: Any, policy: Any, **options: Any) -> list[int]:
    """The rows of each call of the denoiser; 0 where it did not run."""
    rows, before = [], 0
    user = options.pop("callback_on_step_end", None)
    with guide(pipe, policy) as evaluations:

        def callback(pipe: Any, call: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
            nonlocal before
            rows.append(evaluations.rows - before)
            before = evaluations.rows
            return user(pipe, call, t, given) if user else given

        generate(pipe, num_inference_steps=N, callback_on_step_end=callback, **options)
    return rows


@pytest.mark.parametrize(("sampler", "keep", "order"), all_pairs(SAMPLERS, ["null", "text", "neither"], [0, 1, 2]))
def test_another_prompt_half_way(make_pipe, sampler, keep, order):
    """The steps after it are guided until there is as much to extrapolate from as the order asks for."""
    pipe, schedule = make_pipe("sd-epsilon", sampler), TextSchedule.at([0, 1, 2], keep=keep, order=order)
    calls = calls_of(sampler, 4, N)
    learning = 1 + order // (calls // 4)  # Heun sees two places in a step
    guided = {0, 1, 2, *range(4, 4 + learning)}
    with guide(pipe, schedule) as evaluations:
        x = generate(pipe, num_inference_steps=N, **changing(calls - 1, to_other_prompts))
    options = {"guided": guided.__contains__, "num_steps": N, "w": W, "keep": keep, "order": order}
    options["uncorrected"] = range(N) if keep == "neither" else ()
    expected = naive.sample(pipe, PROMPTS, naive.noise(SEEDS), change=(4, OTHER), **options)
    assert naive.error(x, expected) < 1e-4
    once = len(PROMPTS) * (keep != "neither")
    in_step = [calls_of(sampler, i + 1, N) - calls_of(sampler, i, N) for i in range(N)]
    assert evaluations.rows == sum(n * (2 * len(PROMPTS) if i in guided else once) for i, n in enumerate(in_step))


def test_in_the_middle_of_a_step(make_pipe):
    """Heun calls back after each of its two calls: the second one is guided, too, when it is of another prompt."""
    pipe = make_pipe("sd-epsilon", "heun")
    assert rows_of(pipe, FIRST, **changing(8, to_other_prompts))[6:] == [0, 0, 0, 4, 4, 4, 0, 0, 0]
    assert rows_of(pipe, TextSchedule.until(3), **changing(8, to_other_prompts)) == [4] * 6 + [2] * 9


@pytest.mark.parametrize("keep", ["null", "neither"])
def test_a_tolerance_measures_anew(make_pipe, keep):
    pipe, policy = make_pipe(), Auto(1e9, keep=keep)
    once = len(PROMPTS) * (keep != "neither")
    assert rows_of(pipe, policy) == [4, 4, 4, once, once, 4, 4, 4]
    changed = rows_of(pipe, policy, **changing(3, to_other_prompts))
    assert changed == [4, 4, 4, once, 4, 4, 4, 4]


def write_in_place(pipe: Any, given: dict[str, Any]) -> None:
    given["prompt_embeds"][2:] *= 0.5


def resize(pipe: Any, given: dict[str, Any]) -> None:
    given["latents"] = torch.nn.functional.interpolate(given["latents"], (12, 8))


def scale(pipe: Any, given: dict[str, Any]) -> None:
    pipe._guidance_scale = 2 * W


def copied(pipe: Any, given: dict[str, Any]) -> None:
    given["prompt_embeds"] = given["prompt_embeds"].clone()


def nothing(pipe: Any, given: dict[str, Any]) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "counts"),
    [(write_in_place, True), (resize, True), (scale, True), (copied, False), (nothing, False)],
)
def test_what_is_a_change(make_pipe, change, counts):
    rows = rows_of(make_pipe(), FIRST, **changing(4, change))
    assert rows == [4, 4, 4, 0, 0, *([4, 4, 0] if counts else [0, 0, 0])]


def test_other_embeddings_of_a_picture_s_size(make_pipe):
    """Stable Diffusion XL has conditions besides the prompt's."""
    pipe = make_pipe("sdxl")

    def crop(pipe: Any, call: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        return {"add_time_ids": given["add_time_ids"] + 8} if call == 4 else {}

    options = {"callback_on_step_end": crop, "callback_on_step_end_tensor_inputs": ["add_time_ids"]}
    assert rows_of(pipe, FIRST, **options) == [4, 4, 4, 0, 0, 4, 4, 0]


def test_a_scale_that_moves_in_every_step_is_no_change(make_pipe):
    """After its first move; and a tolerance measures errors by the scale as it is."""

    def move(pipe: Any, call: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = W + call + 1
        return given

    pipe = make_pipe()
    assert rows_of(pipe, FIRST, callback_on_step_end=move) == [4, 4, 4, 0, 0, 0, 0, 0]

    def mute(pipe: Any, call: int, t: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 1 + 1e-6 * (call + 1)
        return given

    policy = Auto(1e-4, keep="text")  # where the text is kept, an error counts w - 1 times
    assert sum(rows_of(pipe, policy, callback_on_step_end=mute)) < sum(rows_of(pipe, policy))


def test_the_same_tensors_are_not_compared_by_what_they_hold(monkeypatch):
    conditions, x, latents = Conditions(), torch.randn(2, 3), torch.randn(2, 4, 8, 8)
    assert not conditions.change({"sample": latents, "encoder_hidden_states": x}, "sample", W)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "equal", None)  # it would wait for the device
        for _ in range(2):
            given = {"sample": latents + 1, "timestep": torch.rand(()), "encoder_hidden_states": x}
            given["mid_block_additional_residual"] = torch.randn(2, 3)
            assert not conditions.change(given, "sample", W)
    given = {"sample": latents, "encoder_hidden_states": x.clone(), "cross_attention_kwargs": {"scale": 0.5}}
    assert conditions.change(given, "sample", W)
    assert not conditions.change({**given, "encoder_hidden_states": x}, "sample", W)
    assert conditions.change({**given, "cross_attention_kwargs": {"scale": 0.6}}, "sample", W)


# --- forks of the written-out loop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["null", "text", "neither"])
def test_a_fork_to_another_prompt_begins_anew(make_pipe, keep):
    pipe, schedule = make_pipe("sd-epsilon", "dpm-solver"), TextSchedule.at([0, 1, 2], keep=keep)
    options = {"num_inference_steps": N, "guidance_scale": W}
    trunk = list(denoise(pipe, PROMPTS, generator=generators(SEEDS), **options))
    *_, fork = denoise(pipe, OTHER, schedule=schedule, start=trunk[4], **options)
    naively = {"guided": {0, 1, 2, 3, 4, 5}.__contains__, "num_steps": N, "w": W, "keep": keep, "order": 1}
    assert (
        naive.error(fork.x_next, naive.sample(pipe, PROMPTS, naive.noise(SEEDS), change=(4, OTHER), **naively)) < 1e-4
    )

    same = encode(pipe, PROMPTS)  # other tensors of the same prompts
    *_, fork = denoise(pipe, same, schedule=schedule, start=trunk[4], **options)
    naively["guided"] = {0, 1, 2, 3}.__contains__
    assert naive.error(fork.x_next, naive.sample(pipe, PROMPTS, naive.noise(SEEDS), **naively)) < 1e-4

    alone = list(denoise(pipe, PROMPTS, generator=generators(SEEDS), num_inference_steps=N, guidance_scale=1.0))
    steps = list(denoise(pipe, PROMPTS, schedule=schedule, start=alone[4], **options))
    assert [step.eps_null is not None and step.eps_text is not None for step in steps] == [True, True, False, False]
