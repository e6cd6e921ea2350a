"""Modular pipelines in `guide` blocks: whole calls, whatever their guider makes of them."""

from __future__ import annotations

from typing import Any

import modular
import naive
import pytest
import torch
from conftest import BETAS
from diffusers import HeunDiscreteScheduler
from diffusers.guiders import ClassifierFreeGuidance
from modular import PIPELINES, STEPS, Modular, Naive, W

from shapefirst import Guider, ShapefirstError, guide, text_until
from shapefirst.errors import UnsupportedPipelineError

GUIDED = {0, 1, 4}
WORDS = "steps:0-1+4"


@pytest.fixture(params=[*PIPELINES, "Helios"])
def tiny(request: pytest.FixtureRequest, make_pipe: Any) -> Modular:
    return {**PIPELINES, "Helios": modular.helios}[request.param](make_pipe)


@pytest.fixture
def xl(make_pipe: Any) -> Modular:
    return modular.stable_diffusion_xl(make_pipe)


def cfg() -> ClassifierFreeGuidance:
    return ClassifierFreeGuidance(guidance_scale=W)


def test_whole_calls_are_skipped_and_what_they_gave_is_extrapolated(tiny):
    images = 1 if tiny.out == "latent_chunks" else 2
    stock, whole = tiny(cfg(), images=images), len(tiny.calls)
    with guide(tiny.pipe, "full") as spent:
        assert torch.equal(tiny(cfg(), images=images), stock)
    assert spent.calls == len(tiny.calls) == whole

    with guide(tiny.pipe, WORDS) as spent:
        made = tiny(cfg(), images=images)
    ran = len(tiny.calls)
    assert spent.calls == ran == whole * len(GUIDED) // STEPS
    assert (spent.rows, spent.asked, spent.asked_calls) == (images * ran, images * whole, whole)
    with naive.uncorrected(tiny.pipe.scheduler):
        expected = tiny(Naive(lambda step: step in GUIDED, "neither", 1, tiny.level), images=images)
    assert naive.error(made, expected) < 1e-5 < naive.error(made, stock)

    with guide(tiny.pipe, budget=0.84) as spent:
        tiny(cfg(), images=images)
    assert spent.calls == len(tiny.calls) == whole * 5 // 6
    with pytest.raises(UnsupportedPipelineError, match="cannot drop one there"):
        text_until(tiny.pipe, 2)
    assert torch.equal(tiny(cfg(), images=images), stock)


def test_steps_are_those_that_run(xl):
    part = {"num_inference_steps": 12, "denoising_end": 0.5}
    with guide(xl.pipe, WORDS):
        made = xl(cfg(), **part)
    assert len(xl.calls) == 2 * len(GUIDED)
    expected = xl(Naive(lambda step: step in GUIDED, "neither", 1, xl.level), **part)
    assert naive.error(made, expected) < 1e-5


def test_a_solver_with_two_calls_a_step(make_pipe):
    xl = modular.stable_diffusion_xl(make_pipe, HeunDiscreteScheduler(**BETAS))
    both = Naive(lambda step: True)  # diffusers' own takes calls for steps, and guides half of them
    with guide(xl.pipe, WORDS):
        made = xl(both)
    assert len(xl.calls) == 2 * 2 * len(GUIDED)
    expected = xl(Naive(lambda step: step in GUIDED, "neither", 1, xl.level, lambda call: call // 2))
    assert naive.error(made, expected) < 2e-5


def test_guidance_that_ends_half_way(xl):
    """A call that is no more asked for is not made up."""
    stock = xl(ClassifierFreeGuidance(guidance_scale=W, stop=0.5))
    whole = len(xl.calls)
    assert whole < 2 * STEPS
    with guide(xl.pipe, WORDS) as spent:
        made = xl(ClassifierFreeGuidance(guidance_scale=W, stop=0.5))
    assert (spent.asked_calls, spent.calls) == (whole, len(xl.calls)) == (whole, 2 + 2 + 1)
    assert 1e-5 < naive.error(made, stock) < 0.5


def test_two_denoisers_in_turn(make_pipe):
    wan = modular.wan_22(make_pipe)
    with guide(wan.pipe, "steps:0-1+5"):
        made = wan(cfg(), cfg())
    assert wan.calls == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]  # the second one has seen nothing, and learns first
    turns = (Naive(lambda step: step in {0, 1, 2, 3, 5}, "neither", 1) for _ in range(2))
    assert naive.error(made, wan(*turns)) < 1e-5


def test_a_guider_with_a_policy_of_its_own_is_refused(xl):
    xl(Guider("paper:3", guidance_scale=W))
    for begin in (lambda: guide(xl.pipe, budget=0.84), lambda: text_until(xl.pipe, 2)):
        with pytest.raises(ShapefirstError, match="has a Guider, which follows a policy of its own"):
            begin()
    xl(cfg())
    with guide(xl.pipe, budget=0.84), pytest.raises(ShapefirstError, match=r"in a guide\(\) block, and its Guider"):
        xl(Guider("paper:3", guidance_scale=W))
    assert xl.calls == []
    xl(Guider("paper:3", guidance_scale=W))
