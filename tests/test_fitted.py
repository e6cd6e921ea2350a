"""Solvers that are fitted to a model: their steps, how their times and weights are found, and `guide` with one."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import combinations, pairwise, permutations, product
from types import SimpleNamespace

import diffusers
import naive
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_guidance import PROMPTS
from tiny import PIPELINES

from shapefirst import TextSchedule, apply, guide
from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.families.layout import own_size
from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.guidance.solving import check_solver, scheduler_for
from shapefirst.policies.solver import Solver
from shapefirst.sampling.loop import decode, denoise, generators
from shapefirst.tuning.fitting import FollowedRuns, _combined, _signal, fitted_solver, followed_runs
from shapefirst.tuning.times import MOST_TRIES, _between, _local_errors, best_times, times_to_try

W = 3.0


def ddim_weights(alphas: list[float], sigmas: list[float]) -> tuple[list[float], list[list[float]]]:
    """DDIM (Song et al. 2021, eq. 12): x' = a' D + s' (x - a D) / s, and D in the end."""
    after = [*zip(alphas[1:], sigmas[1:], strict=True), (1.0, 0.0)]
    steps = list(zip(alphas, sigmas, after, strict=True))
    return [s_next / s for _, s, (_, s_next) in steps], [[a_next - s_next * a / s] for a, s, (a_next, s_next) in steps]


@given(st.lists(st.floats(0.05, 10), min_size=2, max_size=6, unique=True))
@settings(max_examples=25, deadline=None)
def test_with_the_weights_of_ddim_it_is_ddim(ratios):
    """Against the steps written out, for a model that predicts the noise of a point at 0.7."""
    ratios = sorted(ratios, reverse=True)
    alphas = [1 / (1 + r * r) ** 0.5 for r in ratios]
    sigmas = [r * a for r, a in zip(ratios, alphas, strict=True)]
    latents, weights = ddim_weights(alphas, sigmas)
    clean = [(1 / a, -s / a) for a, s in zip(alphas, sigmas, strict=True)]
    scheduler = FittedScheduler(list(range(len(ratios), 0, -1)), ratios, clean, latents, weights)
    scheduler.set_timesteps(len(ratios))
    x = torch.full((1, 1, 1, 1), 1.3)
    for t, a, s in zip(scheduler.timesteps, alphas, sigmas, strict=True):
        x = scheduler.step((x - a * 0.7) / s, t, x).prev_sample
    assert x.item() == pytest.approx(0.7, abs=1e-4)
    with pytest.raises(ShapefirstError, match="has ended"):
        scheduler.step(x, t, x)


def test_a_step_is_the_sum_that_the_equation_says():
    """x_2 of the second step from the latents and both clean latents, by hand."""
    clean = [(1.5, -0.5), (1.2, -0.2)]
    scheduler = FittedScheduler([9, 4], [2.0, 1.0], clean, [0.9, 0.3], [[0.2], [0.6, -0.1]])
    scheduler.set_timesteps(2)
    x0, y0, y1 = torch.randn(3, 1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    x1 = scheduler.step(y0, 9, x0).prev_sample
    x2 = scheduler.step(y1, 4, x1).prev_sample
    d0, d1 = 1.5 * x0 - 0.5 * y0, 1.2 * x1 - 0.2 * y1
    torch.testing.assert_close(x1, 0.9 * x0 + 0.2 * d0)
    torch.testing.assert_close(x2, 0.3 * x1 + 0.6 * d1 - 0.1 * d0)


def recorded(pipe, steps: int, images: int = 2) -> FollowedRuns:
    run = denoise(
        pipe,
        PROMPTS[:images],
        num_inference_steps=steps,
        guidance_scale=W,
        generator=generators(range(images)),
    )
    return followed_runs(list(run), W)


@pytest.mark.parametrize(
    ("kind", "sampler", "by_signal"),
    [
        ("sd-epsilon", "ddim", False),
        ("sd-v", "dpm-solver", False),
        ("sd-epsilon", "euler", True),
        ("pixart", "ddim", True),
        ("sdxl", "dpm-solver", False),
    ],
)
def test_fitted_to_every_step_of_a_solver_it_is_that_solver(make_pipe, kind, sampler, by_signal):
    """One that needs no more than three clean latents: pictures of a seed that had no say are its own."""
    pipe = make_pipe(kind, sampler)
    runs = recorded(pipe, 6)
    solver, last = fitted_solver(pipe, runs, range(6), by_signal=by_signal, batch_size=2)
    torch.testing.assert_close(last, runs.latents[-1], atol=2e-3, rtol=0)
    policy = TextSchedule.solved(Solver.like(solver), 6)

    def pictures(call, **more):
        return call(
            PROMPTS[:1], guidance_scale=W, generator=generators([7]), output_type="np", **own_size(pipe), **more
        ).images

    theirs = pictures(pipe, num_inference_steps=6)
    with guide(pipe, policy) as spent:
        mine = pictures(pipe)
    assert np.abs(mine - theirs).max() < 5e-3
    assert spent.rows == 12
    *_, step = denoise(
        pipe, PROMPTS[:1], schedule=policy, num_inference_steps=6, guidance_scale=W, generator=generators([7])
    )
    own_loop = np.asarray(decode(pipe, step.x_next)[0], dtype=float) / 255
    assert np.abs(own_loop - mine[0]).max() < 5e-3


@pytest.mark.parametrize("name", ["StableDiffusion3Pipeline", "FluxPipeline", "QwenImagePipeline"])
def test_a_flow_s_own_weights_are_its_own_solver(name):
    """Euler written as a fitted solver, x' = (s'/s) x + (1 - s'/s) D with D = x - s v; Flux hands over sigmas."""
    row = PIPELINES[name]()
    (stock,) = row([0])
    sigmas = row.pipe.scheduler.sigmas.double().tolist()
    ratios = [after / now for now, after in pairwise(sigmas)]
    scheduler = FittedScheduler(
        row.pipe.scheduler.timesteps.tolist(),
        sigmas[:-1],
        [(1.0, -sigma) for sigma in sigmas[:-1]],
        ratios,
        [[1 - ratio] for ratio in ratios],
        use_flow_sigmas=True,
    )
    with guide(row.pipe, TextSchedule.solved(Solver.like(scheduler), len(ratios))) as spent:
        (mine,) = row([0])
    assert naive.error(mine, stock) < 1e-4
    assert spent.saved == 0


def test_inpainting_from_the_noise_is_that_of_the_solver_and_from_a_picture_is_refused_before_anything_runs():
    row = PIPELINES["StableDiffusionInpaintPipeline"]()
    del row.options["strength"]
    own = row.pipe.scheduler = type(row.pipe.scheduler).from_config(row.pipe.scheduler.config, set_alpha_to_one=True)
    (stock,) = row([0])
    abar = [float(own.alphas_cumprod[t]) for t in own.timesteps]
    alphas, sigmas = [a**0.5 for a in abar], [(1 - a) ** 0.5 for a in abar]
    clean = [(1 / a, -s / a) for a, s in zip(alphas, sigmas, strict=True)]
    ratios = [s / a for a, s in zip(alphas, sigmas, strict=True)]
    ddim = FittedScheduler(own.timesteps.tolist(), ratios, clean, *ddim_weights(alphas, sigmas))
    policy = TextSchedule.solved(Solver.like(ddim), len(abar))
    with guide(row.pipe, policy) as spent:
        (mine,) = row([0])
    assert naive.error(mine, stock) < 1e-4
    assert spent.calls == len(abar)
    for name in ("StableDiffusionImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"):
        other = PIPELINES[name]()
        other.options.pop("strength", None)
        refused = pytest.raises(ShapefirstError, match="begins at the noise, and cannot begin at a picture")
        with guide(other.pipe, policy) as spent, refused:
            other([0])
        assert spent.rows == 0


def test_a_picture_with_noise_is_as_a_flow_has_it():
    flow = FittedScheduler([9, 4], [0.9, 0.4], [(1, -0.9), (1, -0.4)], [1.0, 1.0], [[0.1], [0.1]], use_flow_sigmas=True)
    picture, noise = torch.randn(2, 2, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    flow.step(noise, 9, noise)
    mixed = 0.6 * picture + 0.4 * noise
    torch.testing.assert_close(flow.scale_noise(picture, torch.tensor([4.0]), noise), mixed)
    both = flow.add_noise(picture, noise, torch.tensor([4.0, 9.0]))
    torch.testing.assert_close(both, torch.stack([mixed[0], 0.1 * picture[1] + 0.9 * noise[1]]))


def test_half_of_the_steps_come_nearer_than_half_as_many(make_pipe):
    """The reason for fitting, on prompts that the fit has seen."""
    pipe = make_pipe("sd-epsilon", "ddim")
    runs = recorded(pipe, 12)
    _, fitted = fitted_solver(pipe, runs, best_times(runs, 6), by_signal=False, batch_size=1)
    fewer = recorded(pipe, 6).latents[-1]
    goal = runs.latents[-1]
    assert (fitted - goal).abs().mean() < 0.7 * (fewer - goal).abs().mean()


def test_each_weighting_has_the_least_of_the_error_that_counts_by_it(make_pipe):
    """Of one step: rms over images, plain, and with each frequency by the power of its signal."""
    pipe = make_pipe("sd-epsilon", "ddim")
    runs = recorded(pipe, 8)
    goal = runs.latents[-1]
    power = torch.fft.fft2(goal.double()).abs().square().mean(0)
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) * n for n in goal.shape[-2:])
    ring = (torch.hypot(fy[:, None], fx[None]) + 0.5).floor().long()
    for r in ring.unique():
        power[:, ring == r] = power[:, ring == r].mean(1, keepdim=True)

    def errors(by_signal: bool) -> tuple[float, float]:
        _, last = fitted_solver(pipe, runs, [0], by_signal=by_signal, batch_size=2)
        modes = torch.fft.fft2((last - goal).double()).abs().square()
        return tuple(float((modes * weight).flatten(1).sum(1).sqrt().sum()) for weight in (1.0, power))

    plain, by_signal = errors(by_signal=False), errors(by_signal=True)
    assert plain[0] < by_signal[0]
    assert by_signal[1] < plain[1]


def test_signal_is_that_of_a_picture_s_frequencies():
    noise = torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(_signal(2 * noise).float(), torch.full((3, 16, 16), 2.0), atol=0.15, rtol=0)
    flat = _signal(torch.ones(2, 1, 5, 8, 8))
    assert flat[0, 0, 0, 0] == pytest.approx(8)
    assert flat.flatten(2)[..., 1:].abs().max() < 1e-6
    assert _signal(torch.ones(2, 64, 16)) is None


def test_times_are_the_best_path_among_all(make_pipe):
    """Against all subsets, by the sum of local errors."""
    runs = recorded(make_pipe("sd-epsilon", "ddim"), 7)
    local = _local_errors(runs)

    def cost(times):
        path = [*times, 7]
        return local[0, 0, path[1]] + sum(local[k, i, j] for k, i, j in zip(path, path[1:], path[2:], strict=False))

    for steps in (2, 3, 5):
        found = best_times(runs, steps)
        assert len(found) == steps
        assert found[0] == 0
        least = min(cost((0, *rest)) for rest in combinations(range(1, 7), steps - 1))
        assert cost(found) == pytest.approx(least, rel=1e-5)


# --- on a pipeline ----------------------------------------------------------------------------------------------------

KARRAS = Solver.of("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "num_train_timesteps": 1000})


def karras(steps: int) -> TextSchedule:
    return TextSchedule.solved(KARRAS, steps)


def test_a_block_samples_with_the_solver_and_its_steps_and_gives_the_own_one_back(make_pipe):
    pipe = make_pipe("sd-epsilon", "ddim")
    other = copy.copy(pipe)
    other.scheduler = scheduler_for(KARRAS)
    wanted = {"guidance_scale": W, "output_type": "np"}
    theirs = other(PROMPTS[:1], num_inference_steps=4, generator=generators([3]), **wanted).images
    own, kind, config = pipe.scheduler, type(pipe), dict(pipe.config)
    with guide(pipe, karras(4)):
        assert type(pipe).__name__ == kind.__name__
        mine = pipe(PROMPTS[:1], generator=generators([3]), **wanted).images
        same = pipe(PROMPTS[:1], num_inference_steps=4, generator=generators([3]), **wanted).images
        with guide(pipe, karras(2)) as inner:
            pipe(PROMPTS[:1], **wanted)
        with pytest.raises(ShapefirstError, match="samples in 4 steps, not 9: give num_inference_steps=4, or leave"):
            pipe(PROMPTS[:1], num_inference_steps=9, **wanted)
        with pytest.raises(ShapefirstError, match="leave out timesteps="):
            pipe(PROMPTS[:1], timesteps=[3, 2, 1], **wanted)
        with pytest.raises(ShapefirstError, match=r"DPMSolverMultistepScheduler adds no noise .* leave out eta=0.5"):
            pipe(PROMPTS[:1], eta=0.5, **wanted)
        pipe(PROMPTS[:1], eta=0.0, **wanted)
    np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(same, theirs)
    assert inner.rows == 4
    assert (pipe.scheduler, type(pipe), dict(pipe.config)) == (own, kind, config)


@pytest.mark.parametrize(
    "tuned", [karras(4), replace(TextSchedule.at((0, 1, 3), keep="neither", order=0), num_steps=4)]
)
def test_calls_take_the_steps_and_the_scale_of_a_tuned_policy_where_they_say_none(make_pipe, tuned):
    pipe, policy = make_pipe("sd-epsilon", "ddim"), replace(tuned, guidance_scale=W)
    kind = type(pipe)

    def images(**said):
        return pipe(PROMPTS[:1], generator=generators([3]), output_type="np", **said).images

    with guide(pipe, tuned):
        wanted = images(num_inference_steps=4, guidance_scale=W)
    with guide(pipe, policy):
        np.testing.assert_array_equal(images(), wanted)
        np.testing.assert_array_equal(images(num_inference_steps=4, guidance_scale=W), wanted)
        with pytest.warns(UserWarning, match="tuned at guidance scale 3, not 5: what it promises was measured there"):
            images(guidance_scale=5.0)
    assert type(pipe) is kind


def test_evaluations_are_counted_against_the_run_that_it_takes_the_place_of(make_pipe):
    pipe = make_pipe("sd-epsilon", "ddim")
    with guide(pipe, replace(karras(3), stands_for=5)) as evaluations:
        pipe(PROMPTS[:1], guidance_scale=W, output_type="latent")
    assert (evaluations.rows, evaluations.asked, evaluations.calls, evaluations.asked_calls) == (6, 10, 3, 5)
    assert evaluations.saved == pytest.approx(0.4)
    with guide(pipe, karras(3)) as evaluations:
        pipe(PROMPTS[:1], guidance_scale=W, output_type="latent")
    assert (evaluations.rows, evaluations.asked, evaluations.asked_calls) == (6, 6, 3)


def test_a_pipeline_that_samples_without_the_solver_is_refused_before_anything_runs(make_pipe):
    pipe = make_pipe("sd-epsilon", "ddim")
    other, policy = type(pipe)(**pipe.components), replace(karras(4), stands_for=8)
    wanted = {"guidance_scale": W, "output_type": "np", "num_inference_steps": 4}
    refused = pytest.raises(ShapefirstError, match=r"the StableDiffusionPipeline that runs has another .* enter guide")
    with guide(pipe, policy) as evaluations:
        with refused:
            other(PROMPTS[:1], **wanted)
        assert (evaluations.rows, evaluations.asked) == (0, 0)
        for sharing in (copy.copy(pipe), copy.deepcopy(pipe)):  # of which only the first is followed
            sharing(PROMPTS[:1], **wanted)
        assert (evaluations.rows, evaluations.asked) == (8, 16)
    deep = sharing(PROMPTS[:1], generator=generators([3]), **wanted).images
    with guide(other, policy) as evaluations:
        np.testing.assert_array_equal(other(PROMPTS[:1], generator=generators([3]), **wanted).images, deep)
    assert evaluations.saved == 0.5
    handle, pipe.scheduler = apply(pipe, policy), other.scheduler
    with refused:
        pipe(PROMPTS[:1], **wanted)
    with pytest.raises(ShapefirstError, match="was replaced while"):
        handle.remove()


def test_an_outer_counter_counts_a_run_as_what_the_inner_policy_makes_of_it(make_pipe):
    pipe, solved = make_pipe("sd-epsilon", "ddim"), replace(karras(4), stands_for=6)
    for outer, inner in (solved, "full"), ("full", solved):
        with guide(pipe, outer) as around:
            pipe(PROMPTS[:1], num_inference_steps=4, output_type="latent")
            assert around.asked_calls == (6 if outer is solved else 4)
            with guide(pipe, inner) as within:
                pipe(PROMPTS[:1], num_inference_steps=4, output_type="latent")
        assert within.asked_calls == (6 if inner is solved else 4)
        assert (around.calls, around.asked_calls, around.rows, around.asked) == (8, 10, 16, 20)


def test_blocks_may_end_in_any_order(make_pipe):
    pipe = make_pipe("sd-epsilon", "ddim")
    own, kind = pipe.scheduler, type(pipe)
    outer, inner = apply(pipe, karras(4)), apply(pipe, karras(3))
    outer.remove()
    assert pipe.scheduler.config.use_karras_sigmas
    inner.remove()
    assert (pipe.scheduler, type(pipe)) == (own, kind)
    outer, inner = apply(pipe, karras(4)), apply(pipe, replace(TextSchedule.always(), num_steps=4))
    outer.remove()
    assert pipe.scheduler is own
    inner.remove()
    assert (pipe.scheduler, type(pipe)) == (own, kind)


@pytest.mark.parametrize("policy", ["full", "every:2", TextSchedule.within(0.75)])
def test_an_inner_policy_holds_with_the_pipeline_s_own_scheduler_and_steps(make_pipe, policy):
    pipe = make_pipe("sd-epsilon", "ddim")
    own, kind = pipe.scheduler, type(pipe)

    def images(**more):
        return pipe(PROMPTS[:1], output_type="np", generator=generators([3]), **more).images

    with guide(pipe, policy) as alone:
        wanted = images(num_inference_steps=12)
    with guide(pipe, replace(karras(4), guidance_scale=2.0)):
        with guide(pipe, policy) as inner:
            assert pipe.scheduler is own
            np.testing.assert_array_equal(images(num_inference_steps=12), wanted)
            assert (inner.rows, inner.asked) == (alone.rows, alone.asked)
            images(num_inference_steps=12, eta=0.5)
            with guide(pipe, karras(3)) as innermost:
                images()
            assert innermost.rows == 6
            assert pipe.scheduler is own
        assert pipe.scheduler.config.use_karras_sigmas
    assert (pipe.scheduler, type(pipe)) == (own, kind)


@pytest.mark.parametrize("solved", list(product((True, False), repeat=3)))
def test_the_innermost_block_that_is_open_says_what_is_sampled_with(make_pipe, solved):
    pipe = make_pipe("sd-epsilon", "ddim")
    own, kind = pipe.scheduler, type(pipe)
    for order in permutations(range(3)):
        handles = {n: apply(pipe, karras(n + 2) if solver else "every:2") for n, solver in enumerate(solved)}
        for n in order:
            assert (pipe.scheduler is own) is not solved[max(handles)]
            handles.pop(n).remove()
        assert (pipe.scheduler, type(pipe)) == (own, kind)


def test_a_scheduler_that_was_put_in_meanwhile_stays(make_pipe):
    pipe = make_pipe("sd-epsilon", "ddim")
    handle = apply(pipe, karras(4))
    mine = pipe.scheduler = diffusers.EulerDiscreteScheduler()
    with pytest.raises(ShapefirstError, match="was replaced while a policy sampled with its own"):
        handle.remove()
    assert pipe.scheduler is mine


def test_what_cannot_be_is_refused():

    with pytest.raises(ShapefirstError, match="as many sigmas"):
        FittedScheduler([3, 2], [1.0], [(1, 1)], [1.0], [[1.0]])
    with pytest.raises(ShapefirstError, match="up to it"):
        FittedScheduler([3], [1.0], [(1, 1)], [1.0], [[1.0, 2.0]])
    with pytest.raises(ShapefirstError, match="fitted for 1 steps, not 5"):
        FittedScheduler([3], [1.0], [(1, 1)], [1.0], [[1.0]]).set_timesteps(5)
    with pytest.raises(ShapefirstError, match="begins at the noise"):
        FittedScheduler([3], [1.0], [(1, 1)], [1.0], [[1.0]]).add_noise(None, None, None)
    with pytest.raises(ShapefirstError, match="a class of schedulers"):
        Solver("os.system", "{}")
    for configuration in ("[1]", "[" * 100_000):
        with pytest.raises(ShapefirstError, match="JSON object"):
            Solver("DDIMScheduler", configuration)
    with pytest.raises(ShapefirstError, match="does not have"):
        scheduler_for(Solver("NoSuchScheduler", "{}"))
    with pytest.raises(ShapefirstError, match="cannot be made"):
        scheduler_for(Solver("DDIMScheduler", json.dumps({"beta_schedule": "odd"})))
    with pytest.raises(ShapefirstError, match="how many steps"):
        TextSchedule(solver=KARRAS)
    with pytest.raises(UnsupportedPipelineError, match="brings a solver of its own"):
        check_solver(SimpleNamespace())


@pytest.mark.parametrize(
    "entry",
    [
        {"weights": [[float("nan")]]},
        {"weights": [["a"]]},
        {"weights": 1.0},
        {"latents": ["a"]},
        {"clean": [[1]]},
        {"timesteps": ["a"]},
        {"sigmas": [float("inf")]},
        {"init_noise_sigma": "a"},
        {"prediction_type": 1},
    ],
)
def test_entries_that_are_no_numbers_are_refused_before_a_run(entry):
    good = {"timesteps": [3], "sigmas": [1.0], "clean": [(1, 1)], "latents": [1.0], "weights": [[1.0]]}
    (name,) = entry
    solver = Solver.of("FittedScheduler", {**good, **entry})
    with pytest.raises(ShapefirstError, match=rf"cannot be made \({name}= of FittedScheduler\(\) must be .*: write it"):
        scheduler_for(solver)


def test_an_image_that_went_astray_does_not_rule_the_weights():
    """A feature of ones and one value an image: nearest by the sum of distances is the median, by squares the mean."""
    rest = torch.tensor([0.9, 1.0, 1.1, 1.2, 100.0], dtype=torch.float64)[:, None]
    (found,) = _combined(torch.ones(1, 5, 1, dtype=torch.float64), rest)
    assert 0.95 < found < 1.25
    assert _combined(torch.ones(1, 5, 1, dtype=torch.float64), torch.zeros_like(rest)) == [0.0]


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(4, 8))
@settings(max_examples=25, deadline=None)
def test_weights_leave_no_more_than_least_squares_do(seed, features, images):
    """By the sum of rms distances; where the features can make the target it is made."""
    dice = torch.Generator().manual_seed(seed)
    columns = torch.randn(features, images, 16, generator=dice, dtype=torch.float64)
    rest = torch.randn(images, 16, generator=dice, dtype=torch.float64)
    rest[0] *= 30

    def left(weights):
        made = torch.einsum("f,fbv->bv", torch.as_tensor(weights, dtype=torch.float64), columns)
        return float((rest - made).square().mean(1).sqrt().sum())

    squares = torch.linalg.lstsq(columns.flatten(1).T, rest.flatten()).solution
    assert left(_combined(columns, rest)) <= left(squares) * (1 + 1e-3)
    wanted = torch.arange(1.0, features + 1, dtype=torch.float64)
    assert _combined(columns, torch.einsum("f,fbv->bv", wanted, columns)) == pytest.approx(wanted.tolist(), rel=1e-3)


@pytest.mark.parametrize("keep", [True, False])
def test_times_that_are_tried_are_whole_runs(make_pipe, keep):
    """So many of the recorded ones, in their order, from the first noise on; the best path is among them."""
    runs = recorded(make_pipe("sd-epsilon", "ddim"), 12)
    for steps in (2, 5, 9):
        tries = times_to_try(runs, steps, keep=keep)
        assert tries[0] == best_times(runs, steps)
        assert 1 <= len(tries) <= MOST_TRIES
        for times in tries:
            assert len(times) == steps
            assert times[0] == 0
            assert times == sorted(set(times))
            assert times[-1] < 12
    assert _between([0, 4, 8], [0, 6, 11]) == [0, 5, 10]
