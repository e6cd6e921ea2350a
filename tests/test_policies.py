"""Where guided steps lie, policies by name, and policy files."""

from __future__ import annotations

import copy
import itertools
import json
import math
from contextlib import nullcontext
from dataclasses import replace

import diffusers
import naive
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import example, given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from test_guidance import N, generate
from test_pipelines import stable_diffusion_3

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families.noise import levels
from shapefirst.guidance.blocks import guide
from shapefirst.guidance.extrapolation import Memory, weights
from shapefirst.guidance.timeline import steps_ahead
from shapefirst.models.lora import add_loras
from shapefirst.policies import file
from shapefirst.policies.auto import Auto
from shapefirst.policies.file import PolicyFile, model_digest, read_policy, sampler_digest, write_policy
from shapefirst.policies.placement import Budget
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.spacing import by_error, evenly, leaves_none_together, spread
from shapefirst.policies.words import describe, find_policy, parse_policy

STEPS = st.integers(1, 80)
KEEP = st.sampled_from(["null", "text", "neither"])
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}


# --- extrapolation ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 3), st.data())
def test_extrapolation_is_exact_on_polynomials_of_its_order(order, data):
    places = data.draw(st.lists(st.integers(0, 40), min_size=order + 1, max_size=order + 1, unique=True))
    coefficients = data.draw(st.lists(st.integers(-5, 5), min_size=order + 1, max_size=order + 1))
    at = data.draw(st.integers(0, 40))

    def value(u: float) -> float:
        return float(np.polynomial.polynomial.polyval(u / 10, coefficients))

    memory = Memory(2, order)
    for u in sorted(places):
        memory.remember([0, 1], u / 10, torch.tensor([[value(u)], [-value(u)]], dtype=torch.float64))
    found = memory.extrapolate([0, 1], at / 10).flatten().tolist()
    assert found == pytest.approx([value(at), -value(at)], rel=1e-6, abs=1e-6)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True), st.floats(-1, 60))
def test_weights_add_up_to_one(places, at):
    assert math.fsum(weights(tuple(map(float, places)), at)) == pytest.approx(1, rel=1e-6, abs=1e-4)


def test_each_row_has_a_memory_of_its_own():
    """Row 0 has two values and is extrapolated linearly; row 1 has one, which is repeated; a place seen again counts
    once."""
    memory = Memory(2, 1)
    memory.remember([0, 1], 1.0, torch.tensor([[1.0], [5.0]]))
    memory.remember([0], 2.0, torch.tensor([[9.0]]))
    memory.remember([0], 2.0, torch.tensor([[3.0]]))
    assert memory.extrapolate([0, 1], 4.0).flatten().tolist() == [7.0, 5.0]
    assert memory.extrapolate([1], 9.0).flatten().tolist() == [5.0]
    assert (memory.known(0), memory.known(1)) == (2, 1)


def test_the_variable_is_minus_the_log_snr_where_noise_prevails(make_pipe):
    scheduler = make_pipe().scheduler
    abars = [float(scheduler.alphas_cumprod[t]) for t in (999, 500, 1)]
    expected = [math.log(1 + math.sqrt((1 - abar) / abar)) for abar in abars]
    assert levels(scheduler, [999, 500, 1]) == pytest.approx(expected)


def test_flow_matching_models_take_their_own_sigma(make_pipe):
    """Stable Diffusion 3's pipeline, whose model predicts a velocity: against the loop written out."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    pipe = stable_diffusion_3(make_pipe)
    transformer = pipe.transformer
    pipe.set_progress_bar_config(disable=True)
    embeddings = {"prompt_embeds": torch.randn(1, 5, 32), "negative_prompt_embeds": torch.randn(1, 5, 32)}
    pooled = {"pooled_prompt_embeds": torch.randn(1, 32), "negative_pooled_prompt_embeds": torch.randn(1, 32)}
    noise = torch.randn(1, 4, 8, 8)
    options = {"num_inference_steps": 6, "guidance_scale": 4.0, "output_type": "latent", "latents": noise}

    scheduler, x, seen = FlowMatchEulerDiscreteScheduler(), noise, {}
    scheduler.set_timesteps(6)
    with torch.no_grad():
        for i, t in enumerate(scheduler.timesteps):
            sigma = float(scheduler.sigmas[i])
            if i in (0, 1, 2, 4):
                null, text = (
                    transformer(x, e, p, t.expand(1)).sample
                    for e, p in zip(reversed(embeddings.values()), reversed(pooled.values()), strict=True)
                )
                seen[sigma] = null + 4.0 * (text - null)
                v = seen[sigma]
            else:
                last = list(seen)[-2:]
                v = naive.polynomial(last, [seen[at] for at in last], sigma)
            x = x + (float(scheduler.sigmas[i + 1]) - sigma) * v
    with guide(pipe, TextSchedule.at([0, 1, 2, 4])) as evaluations:
        found = pipe(**embeddings, **pooled, **options).images
    assert naive.error(found, x) < 1e-4
    assert evaluations.rows == 8


def test_a_block_that_begins_after_the_generation_has_nothing_to_extrapolate_from(make_pipe):
    pipe = make_pipe()

    def enter(pipe, step, t, kwargs):
        if step == 0:
            block = guide(pipe, "steps:0")
            block.__enter__()
            entered.append(block)
        return kwargs

    entered = []
    refused = pytest.raises(ShapefirstError, match=r"enter guide\(\) before the generation begins")
    with guide(pipe, "full"), refused:  # the outer block knows that this is the run's second step
        generate(pipe, callback_on_step_end=enter)
    entered[0].__exit__()


# --- placement --------------------------------------------------------------------------------------------------------


@given(STEPS, st.floats(0.01, 1), st.integers(1, 4), KEEP)
def test_a_budget_is_spent_and_kept(num_steps, budget, last, keep):
    schedule = TextSchedule(placement=Budget(budget, last), keep=keep, order=1)
    try:
        guided = schedule.guided_steps(num_steps)
    except ShapefirstError as error:
        said = str(error).rsplit("give ", 1)
        if num_steps <= Budget.LEAST and len(said) == 1:
            return  # no budget would do
        smallest = float(said[1].split(" or")[0])
        assert budget < smallest <= 1
        TextSchedule.within(smallest, keep=keep).guided_steps(num_steps)  # the remedy works
        return
    spent = schedule.evaluations(num_steps) / (2 * num_steps)
    assert spent <= budget + 1e-6
    assert budget - spent < 2 / (2 * num_steps) or len(guided) == num_steps  # no further step could be paid for
    gaps = [after - before for before, after in itertools.pairwise(sorted(guided))]
    assert {0, *range(max(num_steps - last, 0), num_steps)} <= guided
    before_last = gaps[: len(gaps) - last + 1]
    assert all(after >= before - 1 for before, after in itertools.pairwise(before_last))  # they grow, up to rounding
    first = max(min(round(Budget.FIRST * len(guided)), len(guided) - last), 2 * len(guided) - num_steps - last + 1)
    assert gaps[: first - 1] == [1] * (first - 1)
    if (rest := len(guided) - first - last + 1) > 0:  # x^1.2 is nowhere steeper than 1.2
        assert max(gaps) <= 1.2 * (num_steps - first) / rest + 1


@given(
    st.integers(6, 60),
    st.sampled_from((2, 4, 10)),
    st.floats(0.01, 1),
    KEEP,
    st.sampled_from(({}, {"last": 3}, {"evenly": True}, {"levels": True})),
)
@example(8, 2, 0.93, "null", {})
@example(8, 2, 0.63, "null", {})
@example(8, 2, 0.3, "null", {})
def test_a_budget_pays_for_as_many_guided_steps_as_a_first_step_of_more_calls_leaves(
    num_steps, first, share, keep, how
):
    calls, others = [first] + [1] * (num_steps - 1), int(keep != "neither")
    levels = tuple(1 - step / num_steps for step in range(num_steps))
    budget = Budget(share, **({"levels": levels} if "levels" in how else how))

    def spent(guided: int) -> float:
        """Of full guidance, where the first step is one of them."""
        return 1 - (2 - others) * (num_steps - guided) / (2 * sum(calls))

    try:
        guided = len(budget.held_in_calls(calls, others).steps(num_steps, others))
    except ShapefirstError as error:
        enough = float(str(error).rsplit("give ", 1)[1].split(" or")[0])
        assert spent(Budget.LEAST) > share
        assert len(replace(budget, share=enough).held_in_calls(calls, others).steps(num_steps, others)) >= Budget.LEAST
        assert enough - 0.01 < spent(Budget.LEAST) + 1e-6
        return
    assert guided >= Budget.LEAST
    assert spent(guided) <= share + 1e-6
    assert guided == num_steps or spent(guided + 1) > share - 1e-6


@pytest.mark.parametrize(
    ("kind", "options", "last"),
    [
        ("DDIMScheduler", {}, 1),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, 1),
        ("FlowMatchEulerDiscreteScheduler", {}, 1),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, 2),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}, 2),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "solver_order": 3}, 1),
        ("DPMSolverMultistepScheduler", {"solver_order": 1}, 1),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 1),
        ("DPMSolverMultistepScheduler", {"use_exponential_sigmas": True}, 1),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}, 1),
        ("UniPCMultistepScheduler", {}, 2),
        ("UniPCMultistepScheduler", {**FLOW}, 1),
        ("UniPCMultistepScheduler", {**FLOW, "flow_shift": 5.0}, 3),
        ("DEISMultistepScheduler", {}, 3),
        ("DEISMultistepScheduler", {"use_karras_sigmas": True}, 1),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, 1),
        ("DPMSolverSinglestepScheduler", {}, 1),
        ("EDMDPMSolverMultistepScheduler", {}, 1),
        ("PNDMScheduler", {"skip_prk_steps": True}, 1),
    ],
)
def test_a_budget_guides_the_last_steps_that_a_solver_makes_much_of(kind, options, last):
    solver = getattr(diffusers, kind)(**options)
    guided = TextSchedule.within(0.6).in_run(solver, [1] * 20).guided_steps(20)
    assert {20 - last, 19} <= guided
    assert 20 - last - 1 not in guided
    assert len(guided) == 12
    assert TextSchedule.within(0.8, keep="null").in_run(solver, [1] * 20) == TextSchedule.within(0.8, keep="null")
    by_hand = TextSchedule(placement=Budget(0.6, 4), keep="neither", order=1)
    assert by_hand.in_run(solver, [1] * 20) == by_hand


@given(st.integers(5, 60), st.data())
def test_even_gaps_are_even(num_steps, data):
    guided = data.draw(st.integers(5, num_steps))
    steps = evenly(num_steps, guided)
    assert len(steps) == guided
    assert {0, 1, *range(num_steps - 3, num_steps)} <= steps <= set(range(num_steps))
    gaps = [after - before for before, after in itertools.pairwise(sorted(steps))][1:-2]
    assert leaves_none_together(num_steps, guided) == (max(gaps, default=0) <= 2)
    gaps = gaps if max(gaps) > 2 else [gap for gap in gaps if gap > 1]  # where none are left out two in a row
    assert max(gaps, default=0) - min(gaps, default=0) <= 1


def _error(noise, steps, least_bend):
    """Of the model in `by_error`, from its equation: the sum of squares over all steps that are left out."""
    s, steps = [*noise, 0.0], sorted(steps)
    total = 0.0
    for i in sorted(set(range(len(noise))) - set(steps)):
        before, after = max(k for k in steps if k < i), min(k for k in steps if k > i)
        bend = min(max(1.5 / max(1 - s[i], 1e-3) ** 3, least_bend), 1000)
        distances = (s[before] - s[i]) * (s[before] - s[i] + s[before] - s[after])
        total += (bend * (s[i] - s[i + 1]) * distances / 2) ** 2
    return total


@given(st.lists(st.floats(1e-3, 1), min_size=4, max_size=10), st.booleans(), st.data())
def test_no_other_steps_leave_less_error(drops, flow, data):
    noise = [sum(drops[i:]) / sum(drops) for i in range(len(drops))]
    guided = data.draw(st.integers(3, len(noise)))
    levels = noise if flow else [-math.log1p(-s) if s < 1 else math.inf for s in noise]
    found, least_bend = by_error(levels, guided, flow=flow), 15 if flow else 9
    assert len(found) == guided
    assert {0, 1, len(noise) - 1} <= found
    others = itertools.combinations(range(2, len(noise) - 1), guided - 3)
    least = min(_error(noise, {0, 1, len(noise) - 1, *between}, least_bend) for between in others)
    assert _error(noise, found, least_bend) == pytest.approx(least, rel=1e-9, abs=1e-12)


def test_where_every_step_is_guided_there_is_nothing_to_place():
    for num_steps in (1, 2, 3):
        budget = Budget(1.0, levels=tuple(1 - i / num_steps for i in range(num_steps)))
        assert budget.steps(num_steps, 0) == frozenset(range(num_steps))


@pytest.mark.parametrize("guided", [3, 8, 125, 249])
def test_steps_by_error_of_long_runs_are_as_many_as_are_to_be(guided):
    assert len(by_error([3 - i / 90 for i in range(250)], guided)) == guided


SPACED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "leading"}


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_a_budget_of_a_first_order_solver_is_that_of_the_least_error(kind):
    """With the times of Stable Diffusion XL; noise by abar_t, not as the scheduler tells it."""
    solver = getattr(diffusers, kind)(**SPACED, steps_offset=1)
    calls, levels = steps_ahead(solver, 25)
    budget = TextSchedule.within(0.6)
    guided = budget.in_run(solver, calls, levels).guided_steps(25)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    abar = np.cumprod(1 - betas)[[40 * k + 1 for k in reversed(range(25))]]
    ratios = np.sqrt((1 - abar) / abar)
    assert guided == by_error(np.log1p(ratios).tolist(), 15)
    assert budget.in_run(solver, calls).guided_steps(25) == budget.guided_steps(25) != guided  # levels unknown
    other = getattr(diffusers, kind)(**SPACED, prediction_type="sample")
    assert budget.in_run(other, calls, levels).guided_steps(25) == budget.guided_steps(25)
    assert budget.in_run(solver, [1] * 251, [1 - i / 251 for i in range(251)]).placement.levels is None
    by_hand = TextSchedule(placement=Budget(0.6, 2), keep="neither", order=1)
    assert by_hand.in_run(solver, calls, levels) == by_hand


def test_what_a_budget_goes_by_along_a_flow():
    def strip(kind, share=0.6, **options):
        return TextSchedule.within(share).in_run(getattr(diffusers, kind)(**options), [1] * 28).strip(28)

    euler, unipc, usual = "FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler", strip("DDIMScheduler")
    assert strip(euler, shift=3.0) == "##" + ".#" * 11 + ".###"
    assert strip(euler, shift=3.0, share=0.75) == "#" * 12 + ".#" * 6 + ".###"
    assert strip(unipc, **FLOW, flow_shift=7.0) == strip(euler, shift=3.0)
    assert strip(euler, shift=1.0, use_dynamic_shifting=True) == strip(euler, shift=3.0)
    for steady in ({"shift": 1.0}, {"shift": -1.0}, {"shift": 3.0, "stochastic_sampling": True}):
        assert strip(euler, **steady) == usual
    assert strip(unipc, **FLOW) == strip("FlowMatchLCMScheduler", shift=3.0) == usual


@pytest.mark.parametrize(
    ("by_hand", "mu", "evenly"), [(None, None, False), (3.0, None, True), (None, 0.0, False), (None, 1.15, True)]
)
def test_a_flow_is_shifted_as_its_times_say_and_not_its_configuration(by_hand, mu, evenly):
    solver = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=mu is not None)
    if by_hand is not None:
        solver.set_shift(by_hand)
    solver.set_timesteps(20, **({} if mu is None else {"mu": mu}))
    noise = levels(solver, solver.timesteps.tolist())
    multistep = diffusers.UniPCMultistepScheduler(**FLOW, flow_shift=1.0 if evenly else 3.0)
    for part in (noise, noise[8:]):  # as image to image begins late
        assert Budget(0.45).with_solver(multistep, len(part), part).evenly is evenly
        assert Budget(0.45).with_solver(solver, len(part), part).is_too_small(len(part), solver) is evenly


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_budget_of_euler_along_a_flow_is_that_of_the_least_error(shift):
    solver = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    calls, levels = steps_ahead(solver, 28)
    budget = TextSchedule.within(0.5)
    guided = budget.in_run(solver, calls, levels).guided_steps(28)
    solver.set_timesteps(28)
    assert guided == by_error(solver.sigmas[:-1].tolist(), 14, flow=True)
    assert guided != budget.in_run(solver, calls).guided_steps(28)  # levels unknown
    enough = TextSchedule.within(0.6).in_run(solver, calls, levels).guided_steps(28)  # for even gaps of one step
    assert enough == (evenly(28, 16) if shift > 1 else by_error(levels, 16, flow=True))
    inverted = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, invert_sigmas=True)  # Mochi's
    assert budget.in_run(inverted, *steps_ahead(inverted, 28)).guided_steps(28) == guided


@pytest.mark.parametrize(
    ("steps", "share", "last"), [(9, 0.6, 1), (10, 0.75, 2), (15, 0.6, 3), (50, 0.2, 1), (50, 0.4, 3)]
)
def test_the_last_steps_are_no_more_than_the_guided_ones_bear(steps, share, last):
    guided = TextSchedule.within(share).in_run(diffusers.DEISMultistepScheduler(), [1] * steps).guided_steps(steps)
    assert {steps - last, steps - 1} <= guided
    assert steps - last - 1 not in guided


@pytest.mark.parametrize("last", [0, 5])
def test_a_budget_of_other_last_steps_is_refused(last):
    with pytest.raises(ShapefirstError, match=f"the last 1 to 4 steps in any case, not {last}"):
        Budget(0.6, last)


@pytest.mark.parametrize(
    ("kind", "options", "worth", "worth_in_many"),
    [
        ("DDIMScheduler", {}, 0.4, 0.25),
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, 0.4, 0.25),
        ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, 0.7, 0.7),
        ("DPMSolverMultistepScheduler", {"use_beta_sigmas": True}, 1, 1),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, 0.55, 0.55),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing"}, 0.45, 0.35),
        ("DPMSolverMultistepScheduler", {"timestep_spacing": "leading"}, 0.35, 0.35),
        ("UniPCMultistepScheduler", {"timestep_spacing": "trailing"}, 0.45, 0.35),
        ("UniPCMultistepScheduler", {"use_karras_sigmas": True}, 0.55, 0.55),
        ("DEISMultistepScheduler", {"timestep_spacing": "leading"}, 0.45, 0.35),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 0.5, 0.4),
        ("FlowMatchEulerDiscreteScheduler", {}, 0.4, 0.25),
        ("UniPCMultistepScheduler", {**FLOW, "flow_shift": 3.0}, 0.55, 0.4),
        ("DPMSolverMultistepScheduler", {**FLOW}, 0.55, 0.4),
    ],
)
def test_a_budget_that_fewer_steps_beat_is_told(kind, options, worth, worth_in_many):
    if "use_beta_sigmas" in options:
        pytest.importorskip("scipy")
    solver = getattr(diffusers, kind)(**options)
    for share in (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.99, 1):
        for steps, least in ((25, worth), (50, worth_in_many)):
            assert Budget(share).with_solver(solver, steps).is_too_small(steps, solver) is (share < least)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"use_beta_sigmas": True}])
def test_by_the_noise_a_budget_stays_nearer_for_longer(options):
    """As `benchmarks/few_steps.py` found it of Euler."""
    if "use_beta_sigmas" in options:
        pytest.importorskip("scipy")
    solver = diffusers.EulerDiscreteScheduler(**SPACED, **options)
    for steps, share, is_small in ((25, 0.2, True), (25, 0.3, False), (50, 0.15, True), (50, 0.2, False)):
        budget = Budget(share).with_solver(solver, steps, steps_ahead(solver, steps)[1])
        assert budget.is_too_small(steps, solver) is is_small


@given(st.integers(5, 80), st.data(), st.floats(1, 3))
def test_spread_gives_that_many_steps_denser_at_the_start(num_steps, data, power):
    count = data.draw(st.integers(5, num_steps))
    steps = spread(num_steps, count, 3, 2, power)
    assert len(steps) == count
    assert {0, 1, 2, num_steps - 2, num_steps - 1} <= steps <= set(range(num_steps))
    half = num_steps // 2
    assert sum(step < half for step in steps) >= sum(step >= num_steps - half for step in steps) - 2


@given(STEPS, st.integers(1, 10))
def test_every_mth_step(num_steps, gap):
    assert TextSchedule.every(gap).guided_steps(num_steps) == {i for i in range(num_steps) if i % gap == 0}


@given(STEPS, st.integers(1, 10), st.floats(1, 3))
def test_gaps_grow(num_steps, first, ratio):
    steps = sorted(TextSchedule.growing(first, ratio).guided_steps(num_steps))
    assert steps[:first] == list(range(min(first, num_steps)))
    gaps = np.diff(steps[first - 1 :])
    assert all(b >= a - 1 for a, b in itertools.pairwise(gaps))  # up to rounding
    assert all(gap <= ratio ** (i + 1) + 1 for i, gap in enumerate(gaps))


def test_a_schedule_prints_as_a_strip():
    assert TextSchedule.until(3).strip(6) == "###nnn"
    assert TextSchedule.until(3, keep="text").strip(6) == "###ttt"
    assert TextSchedule.every(2, keep="null").strip(5) == "#N#N#"
    assert TextSchedule.every(2, keep="text", order=0).strip(5) == "#T#T#"
    assert TextSchedule.every(3).strip(5) == "#..#."
    assert str(TextSchedule.until(20)) == "#" * 20 + "n" * 30
    assert len(str(TextSchedule.until(60))) == 60
    assert TextSchedule.every(2).evaluations(5) == 6


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "policy"),
    [
        ("full", TextSchedule.always()),
        ("paper:25", TextSchedule.until(25)),
        ("paper:0.5", TextSchedule.until(fraction=0.5)),
        ("text:25", TextSchedule.until(25, keep="text")),
        ("budget:0.6", TextSchedule.within(0.6)),
        ("budget:0.7,keep=text,order=2", TextSchedule.within(0.7, keep="text", order=2)),
        ("every:3", TextSchedule.every(3)),
        ("every:3,order=none,keep=null", TextSchedule.every(3, keep="null", order=None)),
        ("growing:5x1.3", TextSchedule.growing(5, 1.3)),
        ("steps:0-4+7+11", TextSchedule.at([0, 1, 2, 3, 4, 7, 11])),
        ("tol:0.02", Auto(0.02)),
        ("tol:0.02,keep=null", Auto(0.02, keep="null")),
    ],
)
def test_words_name_policies(words, policy):
    assert parse_policy(words) == policy


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "no policy ''"),
        ("paper", "no policy 'paper'"),
        ("full:1", "no policy 'full:1'"),
        ("paperr:25", "no policy 'paperr:25'"),
        ("paper:x", "whole number of steps, from 0 to 4,000, not 'x'"),
        ("paper:1.5", "from 0 to 1 or None, not 1.5"),
        ("paper:25,keep=text", "paper takes no options"),
        ("budget:1.5", "above 0 and up to 1, not 1.5"),
        ("budget:0", "above 0"),
        ("budget:nan", "a finite number, not nan"),
        ("every:0", "from 1 up, not 0"),
        ("every:3,keep=both", 'must be "null", "text" or "neither"'),
        ("every:3,order=4", "'order=4' in 'every:3,order=4' is no option"),
        ("every:3,order=none", "leave|need a prediction"),
        ("growing:5x", "the ratio must be a number"),
        ("growing:5x0.5", "ratio of 1 or more, not 0.5"),
        ("growing:0x1.5", "must be 1 or more, not 0"),
        ("steps:1-x", "whole number of steps, from 0 to 4,000, not 'x'"),
        ("tol:-1", "from 0 up"),
        ("tol:inf", "finite"),
        ("tol:0.1,order=none", "a whole number, not None"),
        ("steps:0+5-2", "no steps from 5 to 2 in 'steps:0\\+5-2': say 2-5"),
        ("growing:5", "'growing:5' lacks the ratio"),
        ("every:3,keep=text,keep=null", "same option twice"),
    ],
)
def test_words_that_name_none_are_refused(words, message):
    with pytest.raises(ShapefirstError, match=message):
        parse_policy(words)


def test_a_file_called_as_a_policy_is_does_not_shadow_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").write_text("")
    assert find_policy("full") == TextSchedule.always()
    with pytest.raises(ShapefirstError, match="There is no policy"):
        find_policy("x" * 300)


def test_guide_takes_one_of_the_three(make_pipe):
    pipe = make_pipe()
    for given_ in ({}, {"policy": "paper:2", "budget": 0.5}, {"budget": 0.5, "tol": 0.1}):
        with pytest.raises(ShapefirstError, match="Give one of"):
            guide(pipe, **given_)
    for bad, message in (({"budget": "x"}, "budget must be a number, not 'x'"), ({"tol": True}, "tol must be")):
        with pytest.raises(ShapefirstError, match=message):
            guide(pipe, **bad)
    with guide(pipe, "paper:2") as by_words:
        generate(pipe)
    with guide(pipe, budget=1.0) as by_budget:
        generate(pipe)
    assert (by_words.rows, by_budget.rows) == (2 * 2 * 2 + 2 * (N - 2), 2 * 2 * N)


def test_one_step_is_no_steps():
    assert describe(TextSchedule.always(), 1) == "full guidance, 1 step"
    with pytest.raises(ShapefirstError, match="A generation of 1 has too few steps"):
        TextSchedule.within(0.4).check(1)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("steps:1+2", "needs a guided step to begin with"),
        ("steps:0+9", "guides step 9, counted from 0, but the last step of this generation of 4 is 3"),
        ("budget:0.4", "generation of 4 has too few steps to extrapolate from within a budget: take every:2, or leave"),
    ],
)
def test_a_policy_that_does_not_fit_the_steps_is_refused(make_pipe, policy, message):
    pipe = make_pipe()
    with guide(pipe, policy), pytest.raises(ShapefirstError, match=message):
        generate(pipe)


def test_a_tolerance_needs_the_pipeline_s_own_call(make_pipe):
    pipe = make_pipe()
    pipe.scheduler.set_timesteps(N)
    with guide(pipe, tol=0.1), torch.no_grad(), pytest.raises(ShapefirstError, match="needs the guidance scale"):
        pipe.unet(torch.zeros(2, 4, 8, 8), pipe.scheduler.timesteps[0], torch.zeros(2, 77, 16))


# --- other tools ------------------------------------------------------------------------------------------------------


def test_another_tool_on_the_denoiser_is_refused(make_pipe):
    """DeepCache and T-GATE put functions of their own in the place of `forward`, before or within the block."""
    pipe = make_pipe(deep=True)
    block = pipe.unet.mid_block
    kept = block.forward
    with guide(pipe, "paper:2"):
        generate(pipe)
        block.forward = lambda *args, **kwargs: kept(*args, **kwargs)
        try:
            with pytest.raises(UnsupportedPipelineError, match="replaced the forward method of 'mid_block'"):
                generate(pipe)
        finally:
            del block.forward
        generate(pipe)
    try:
        with guide(pipe, "paper:2"):
            block.forward = kept  # as DeepCache leaves it when it is switched off
            generate(pipe)
            block.forward, block._hf_hook = lambda *args, **kwargs: kept(*args, **kwargs), "accelerate's"
            generate(pipe)
    finally:
        del block.forward, block._hf_hook


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(make_pipe):
    pipe = make_pipe()
    return PolicyFile(
        "tiny", model_digest(pipe), "DDIMScheduler", sampler_digest(pipe.scheduler), 5.0, N, (0, 1, 3), "neither", 1
    )


def test_a_policy_file_does_what_it_says(make_pipe, tuned, tmp_path):
    path = tmp_path / "policy.json"
    write_policy(tuned, path)
    assert read_policy(path) == tuned
    pipe = make_pipe()
    with guide(pipe, path) as from_file:
        x = generate(pipe)
    with guide(pipe, str(path)), pytest.raises(ShapefirstError, match="made for 4 steps, but this generation has 5"):
        generate(pipe, num_inference_steps=5)
    with guide(pipe, TextSchedule.at([0, 1, 3])):
        assert torch.equal(generate(pipe), x)
    assert from_file.rows == 2 * 2 * 3
    for dtype in (torch.float16, torch.bfloat16):
        assert model_digest(copy.deepcopy(make_pipe()).to(dtype)) == tuned.model_digest


@pytest.mark.parametrize(("sampler", "spent", "of"), [("ddim", 6, 12), ("heun", 10, 22)])
def test_fewer_steps_are_counted_against_the_run_whose_place_they_take(make_pipe, tuned, sampler, spent, of):
    """Whoever samples: Heun calls the denoiser twice in all steps but the last."""
    pipe = make_pipe("sd-epsilon", sampler)
    with guide(pipe, replace(tuned, measured={"full guidance at steps": 6}).schedule) as evaluations:
        pipe("a red car", output_type="latent")
    assert (evaluations.rows, evaluations.asked) == (spent, of)


@pytest.mark.parametrize("said", [None, "6", True, 0, -1, N])
def test_a_policy_that_says_of_no_longer_run_stands_for_its_own_steps(tuned, said):
    one = replace(tuned, measured={"full guidance at steps": said})
    assert (one.full_steps, one.schedule) == (N, tuned.schedule)


def test_a_policy_of_another_model_or_sampler_is_refused(make_pipe, tuned, tmp_path):
    path = tmp_path / "policy.json"
    write_policy(tuned, path)
    with pytest.raises(ShapefirstError, match="tuned on another model, 'tiny': run `shapefirst tune`"):
        guide(make_pipe("sd-v"), path)
    with pytest.raises(ShapefirstError, match="sampler DDIMScheduler, not EulerDiscreteScheduler"):
        guide(make_pipe("sd-epsilon", "euler"), path)
    pipe = make_pipe()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    with pytest.raises(ShapefirstError, match="other settings of the sampler"):
        guide(pipe, path)


def test_a_policy_is_for_the_loras_that_it_was_tuned_with_at_their_strengths(make_pipe, tuned, tmp_path):
    for name in "ab":
        unet = copy.deepcopy(make_pipe()).unet
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
        layers = get_peft_model_state_dict(unet)
        StableDiffusionPipeline.save_lora_weights(tmp_path, layers, weight_name=f"{name}.safetensors")

    def with_loras(*strengths):
        pipe = copy.deepcopy(make_pipe())
        add_loras(pipe, [(tmp_path / f"{name}.safetensors", strength) for name, strength in strengths])
        return pipe

    a, plain = with_loras(("a", 1.0)), tuned.model_digest
    others = [with_loras(("a", 0.7)), with_loras(("b", 1.0)), with_loras(("a", 1.0), ("b", 1.0))]
    assert len({plain, model_digest(a), *map(model_digest, others)}) == 5
    assert model_digest(with_loras(("b", 1.0), ("a", 1.0))) == model_digest(others[2])
    assert model_digest(with_loras(("a", 0.0))) == model_digest(with_loras(("a", 0.0), ("b", 0.0))) == plain
    named = copy.deepcopy(make_pipe())
    named.load_lora_weights(tmp_path, weight_name="a.safetensors", adapter_name="to_q")
    assert model_digest(named) == model_digest(copy.deepcopy(a).to(torch.bfloat16)) == model_digest(a)
    a.disable_lora()
    assert model_digest(a) == plain
    a.enable_lora()
    for policy, pipe, on in (
        (tuned, a, "'tiny' without a LoRA"),
        (
            replace(tuned, model_digest=model_digest(a), lora="a.safetensors=0.7"),
            make_pipe(),
            "LoRA 'a.safetensors=0.7'",
        ),
    ):
        write_policy(policy, tmp_path / "policy.json")
        with pytest.raises(ShapefirstError, match=f"tuned on another model, .*{on}: run"):
            guide(pipe, tmp_path / "policy.json")


def test_a_broken_policy_file_is_refused(tuned, tmp_path):
    path = tmp_path / "policy.json"
    with pytest.raises(ShapefirstError, match="no policy file"):
        read_policy(path)
    write_policy(tuned, path)
    text = path.read_text()
    for broken, message in (
        ("", "no longer JSON"),
        ("[1, 2]", "is not one that"),
        ("{}", "is not one that"),
        (text[: len(text) // 2], "no longer JSON"),
        (text.replace('"steps": 4', '"steps": 5'), "was changed after"),
        (json.dumps({**json.loads(text), "shapefirst policy": 99}), "the format 99 of another version"),
    ):
        path.write_text(broken)
        with pytest.raises(ShapefirstError, match=message):
            read_policy(path)
    solver = {"class_name": "DDIMScheduler", "configuration": "{}"}
    solved = {"solver": solver, "guided": list(range(N))}
    for entry, message in (
        ({"guided": "all"}, "The entry 'guided' should be a valid tuple, not 'all'"),
        ({"steps": None}, "The entry 'steps' should be a valid integer, not None"),
        ({"kept": 1}, "The entry 'kept' is none: there are model, model_digest, "),
        (solved, None),
        ({**solved, "solver": {**solver, "configuration": "[" * 100_000}}, "The configuration of a solver is a JSON"),
        ({**solved, "order": 9}, "order must be 0"),
        ({**solved, "measured": {"full guidance at steps": 3}}, "of a run of 3 steps takes no more, not 4"),
        ({**solved, "measured": {"full guidance at steps": 3}, "goal": "best"}, None),
    ):
        content = {name: value for name, value in json.loads(text).items() if name != "digest"} | entry
        path.write_text(json.dumps({**content, "digest": file._digest(content)}))
        with pytest.raises(ShapefirstError, match=message) if message else nullcontext():
            read_policy(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ShapefirstError, match="no longer JSON"):
        read_policy(path)
    with pytest.raises(ShapefirstError, match="cannot be read"):
        read_policy(tmp_path)
