"""Schedules that run together give what each gives alone, and share what they have in common."""

from __future__ import annotations

import naive
import pytest
from conftest import KINDS
from hypothesis import given
from hypothesis import strategies as st
from test_guidance import PROMPTS, SEEDS, W

from shapefirst.attention.recording import record
from shapefirst.errors import ShapefirstError
from shapefirst.guidance.blocks import guide
from shapefirst.guidance.timeline import steps_ahead
from shapefirst.models import SAMPLERS, sampler_info
from shapefirst.policies.auto import Auto
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.sharing import evaluations_together
from shapefirst.sampling.loop import denoise, encode, generators
from shapefirst.sampling.together import denoise_together

N = 6
SCHEDULES = [
    TextSchedule.until(0),
    TextSchedule.until(2),
    TextSchedule.until(2, keep="text"),
    TextSchedule.until(4),
    TextSchedule.always(),
    TextSchedule.starting_at(3),
    TextSchedule.at([0, 1, 3]),
    TextSchedule.at([0, 1, 3], keep="null", order=2),
    TextSchedule.until(2),
]


def rows_of(denoiser, run):
    """What a run returns, and how many rows it gave the denoiser, call by call."""
    rows = []
    handle = denoiser.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    try:
        return run(), rows
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("sampler", "kind", "batch_size"),
    [(name, KINDS[(i + bool(size)) % 3], size) for i, name in enumerate(SAMPLERS) for size in (None, 3)],
)
def test_each_is_what_it_is_alone(make_pipe, kind, sampler, batch_size):
    pipe = make_pipe(kind, sampler)
    options = {"num_inference_steps": N, "guidance_scale": W}
    together = denoise_together(
        pipe, encode(pipe, PROMPTS), SCHEDULES, generator=generators(SEEDS), batch_size=batch_size, **options
    )
    for schedule, found in zip(SCHEDULES, together, strict=True):
        *_, alone = denoise(pipe, PROMPTS, schedule=schedule, generator=generators(SEEDS), **options)
        assert naive.error(found.latents, alone.x_next) < 1e-5
        order = sampler_info(sampler).order
        assert set(found.evaluations) == {schedule.evaluations(N, order)}
        assert set(found.guided_steps) == {schedule.text_steps(N)}


@pytest.mark.parametrize("w", [W, 1.0])
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_only_what_is_not_shared_is_evaluated(make_pipe, sampler, w):
    pipe = make_pipe("sd-epsilon", sampler)
    told = []
    options = {"num_inference_steps": N, "guidance_scale": w, "generator": generators(SEEDS)}
    _, rows = rows_of(
        pipe.unet,
        lambda: denoise_together(pipe, encode(pipe, PROMPTS), SCHEDULES, batch_size=5, on_step=told.append, **options),
    )
    assert max(rows) <= 5
    assert sum(rows) == sum(told) * len(PROMPTS)
    assert sum(told) == evaluations_together(SCHEDULES, N, w, sampler_info(sampler).order)


def test_the_grid_of_the_paper_takes_375_evaluations_in_place_of_825():
    grid = [TextSchedule.until(k) for k in range(0, 51, 5)]
    assert evaluations_together(grid, 50, 7.5) == 375
    assert sum(schedule.evaluations(50) for schedule in grid) == 825


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver", "deis", "unipc"])
def test_budgets_together_are_counted_as_the_solver_has_them(make_pipe, sampler):
    pipe, told = make_pipe("sd-epsilon", sampler), []
    schedules = [TextSchedule.always(), *(TextSchedule.within(share) for share in (0.8, 0.6, 0.5))]
    given = {"num_inference_steps": 20, "guidance_scale": 3.0, "generator": generators([1])}
    denoise_together(pipe, encode(pipe, ["a cat"]), schedules, on_step=told.append, **given)
    solver = pipe.scheduler
    assert sum(told) == evaluations_together(schedules, 20, 3.0, 1, solver, steps_ahead(solver, 20)[1])


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.sampled_from(["null", "text"]))
def test_together_is_never_more_than_apart(ks, keep):
    schedules = [TextSchedule.until(k, keep=keep) for k in ks]
    together = evaluations_together(schedules, 20, 3.0)
    assert together <= sum(schedule.evaluations(20) for schedule in schedules)
    assert together == evaluations_together(list(set(schedules)), 20, 3.0)
    # Closed form: a trunk up to the last text step, and one tail for each other number.
    assert together == 2 * max(ks) + sum(20 - k for k in set(ks))


@pytest.mark.parametrize("tol", [0.0, 0.02, 0.3])
def test_what_decides_while_sampling_takes_at_most_what_is_told(make_pipe, tol):
    pipe, told, steps = make_pipe(), [], 10
    policies = [TextSchedule.always(), Auto(tol), Auto(tol, keep="null"), TextSchedule.until(2)]
    options = {"num_inference_steps": steps, "guidance_scale": W, "generator": generators(SEEDS)}
    denoise_together(pipe, encode(pipe, PROMPTS), policies, on_step=told.append, **options)
    assert sum(told) <= evaluations_together(policies, steps, W)


def test_it_refuses_what_does_not_fit(make_pipe):
    pipe = make_pipe()
    prompts = encode(pipe, PROMPTS)
    with pytest.raises(ShapefirstError, match="guides the first"):
        denoise_together(pipe, prompts, [TextSchedule.until(7)], num_inference_steps=N)
    with guide(pipe, TextSchedule.until(2)), pytest.raises(ShapefirstError, match="outside of guide"):
        denoise_together(pipe, prompts, SCHEDULES, num_inference_steps=N)
    assert denoise_together(pipe, prompts, [], num_inference_steps=N) == []


@pytest.mark.parametrize(("schedules", "batch_size"), [(SCHEDULES, None), (SCHEDULES[4:5], 3)])
def test_attention_is_not_recorded_where_a_call_holds_parts_of_branches(make_pipe, schedules, batch_size):
    pipe = make_pipe()
    with (
        record(pipe),
        pytest.raises(ShapefirstError, match="holds branches of different images"),
    ):
        denoise_together(pipe, encode(pipe, PROMPTS), schedules, num_inference_steps=N, batch_size=batch_size)
