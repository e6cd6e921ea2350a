"""The variable that predictions are extrapolated in falls along every scheduler's run, and is what it says."""

from __future__ import annotations

import itertools
import math
from typing import Any

import diffusers
import naive
import pytest
import torch
from conftest import BETAS
from test_guidance import N, W, generate
from test_timeline import PROMPT, SCHEDULERS, SEED, with_scheduler

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.noise import noise_level
from shapefirst.guidance.blocks import guide
from shapefirst.guidance.timeline import follow
from shapefirst.policies.auto import Auto
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import denoise, generators

# numpy has a word to say on how diffusers' KDPM2 takes a tensor apart, thousands of times.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")

ZERO_SNR = [
    "DDIMScheduler",
    "DDPMScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "DDIMParallelScheduler",
    "DDPMParallelScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]


def levels(scheduler: Any, steps: int = 20) -> list[float]:
    scheduler.set_timesteps(steps)
    return [noise_level(scheduler, t) for t in scheduler.timesteps]


def falls(u: list[float]) -> bool:
    return all(math.isfinite(level) for level in u) and all(a >= b for a, b in itertools.pairwise(u)) and u[0] > u[-1]


@pytest.mark.parametrize(("name", "more"), SCHEDULERS)
def test_it_falls_with_every_scheduler(make_pipe, name, more):
    scheduler = with_scheduler(make_pipe(), name, **more).scheduler
    u = levels(scheduler)
    assert falls(u)
    if name == "EDMEulerScheduler":
        expected = [math.log(1 + float(sigma)) for sigma in scheduler.sigmas[:-1]]
    else:
        expected = [math.log(1 + naive.sigma_over_alpha(scheduler, float(t))) for t in scheduler.timesteps]
    assert u == pytest.approx(expected, rel=1e-4)


def test_continuous_timesteps_are_no_places_in_a_table():
    """EDM's: log(sigma) / 4, fractions and negative."""
    options = {"prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": True}
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, **options)
    u = levels(scheduler)
    assert falls(u)
    assert min(scheduler.timesteps) < 0
    assert u == pytest.approx([math.log(1 + float(sigma)) for sigma in scheduler.sigmas[:-1]], rel=1e-5)
    with pytest.raises(UnsupportedPipelineError, match=r"timestep 500 is not in the list of this EulerDiscrete"):
        noise_level(scheduler, 500)
    ddim = diffusers.DDIMScheduler.from_config(scheduler.config)  # keeps the words, to no effect
    assert ddim.config.timestep_type == "continuous"
    assert falls(levels(ddim))


@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "DEISMultistepScheduler",
    ],
)
def test_flow_sigmas(name):
    scheduler = getattr(diffusers, name)(use_flow_sigmas=True, prediction_type="flow_prediction")
    u = levels(scheduler)
    assert falls(u)
    sigmas = [float(sigma) for sigma in scheduler.sigmas[:-1]]
    assert u[1:] == pytest.approx([math.log(1 + sigma / (1 - sigma)) for sigma in sigmas[1:]], rel=1e-6)


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_flow_matching(name):
    assert falls(levels(getattr(diffusers, name)()))


@pytest.mark.parametrize("name", ZERO_SNR)
def test_zero_terminal_snr(name):
    """alpha_T = 0: u_T is as great with those that keep the zero as with those that put 2^-12 in its place."""
    scheduler = getattr(diffusers, name)(**BETAS, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    u = levels(scheduler, 10)
    assert falls(u)
    assert u[0] == pytest.approx(math.log(1 + 2**12), rel=1e-6)
    assert u[0] > noise_level(scheduler, 998.5) > noise_level(scheduler, 998) > u[1]
    abar = float(scheduler.alphas_cumprod[500])
    assert noise_level(scheduler, 500) == pytest.approx(math.log(1 + math.sqrt((1 - abar) / abar)))


@pytest.mark.parametrize("keep", ["null", "text", "neither"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_extrapolation_from_a_step_without_any_signal(make_pipe, name, keep):
    pipe = with_scheduler(make_pipe("sd-v"), name, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    for schedule, guided in {
        TextSchedule.every(2, keep=keep, order=1): {0, 2, 4, 6},
        TextSchedule.at([0, 1, 2, 4], keep=keep, order=2): {0, 1, 2, 4},
    }.items():
        with guide(pipe, schedule):
            x = generate(pipe, PROMPT, SEED, num_inference_steps=7)
        options = {"guided": guided.__contains__, "num_steps": 7, "w": W, "keep": keep, "order": schedule.order}
        assert naive.error(x, naive.sample(pipe, PROMPT, naive.noise(SEED), **options)) < 1e-4
        *_, step = denoise(
            pipe, PROMPT, schedule=schedule, num_inference_steps=7, guidance_scale=W, generator=generators(SEED)
        )
        assert naive.error(step.x_next, x) < 1e-5
    stock = generate(pipe, PROMPT, SEED, num_inference_steps=7)
    with guide(pipe, Auto(0.02, keep=keep)):
        assert naive.error(generate(pipe, PROMPT, SEED, num_inference_steps=7), stock) < 0.05


@pytest.mark.parametrize("policy", ["budget:0.8", "every:2,order=2", "tol:0.02", "tol:0.02,keep=null"])
def test_a_run_whose_rounded_timesteps_rise(make_pipe, policy):
    """Karras' spacing of a cosine schedule: KDPM2's list says 999, 998.9, 999, 998.7, 999, ..."""
    pipe = make_pipe()
    options = {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True}
    pipe.scheduler = diffusers.KDPM2DiscreteScheduler(**options)
    pipe.scheduler.set_timesteps(N * 3)
    timesteps = pipe.scheduler.timesteps
    assert (timesteps[1:] > timesteps[:-1]).any()
    u = follow([], timesteps[0], pipe).levels
    assert all(a >= b for a, b in itertools.pairwise(u))
    with guide(pipe, policy):  # its pictures overflow, the stock call's as well
        generate(pipe, PROMPT, SEED, num_inference_steps=N * 3)


@pytest.mark.parametrize("policy", ["paper:6", "budget:0.8", "tol:0", "tol:0.02", "tol:0.02,keep=null", "tol:1e9"])
def test_predictions_that_are_no_numbers(make_pipe, policy):
    """The call goes on to its end, as the stock one does, and a tolerance lets nothing pass that it cannot measure."""
    pipe = make_pipe()
    handle = pipe.unet.register_forward_hook(lambda _, __, out: (out[0] * torch.nan,))
    try:
        with guide(pipe, policy) as evaluations:
            assert generate(pipe, PROMPT, SEED, num_inference_steps=12).isnan().all()
    finally:
        handle.remove()
    if policy.startswith("tol"):
        assert evaluations.rows == 2 * 12


def test_an_error_that_is_no_number_lets_no_step_pass():
    for error in (math.nan, math.inf):
        assert Auto(0.02).next_gap(3, error) == 1


def test_the_written_out_loop_needs_a_table(make_pipe):
    pipe = with_scheduler(make_pipe(), "EDMEulerScheduler")
    with pytest.raises(
        UnsupportedPipelineError, match="alphas_cumprod of a scheduler, which EDMEulerScheduler does not"
    ):
        next(denoise(pipe, PROMPT))
    options = {"timestep_type": "continuous", "use_karras_sigmas": True}
    pipe = with_scheduler(make_pipe("sd-v"), "EulerDiscreteScheduler", **options)
    steps = list(denoise(pipe, PROMPT, num_inference_steps=6, guidance_scale=W, generator=generators(SEED)))
    pipe.scheduler.set_timesteps(6)
    sigmas = [float(sigma) for sigma in pipe.scheduler.sigmas[:-1]]
    for step, sigma in zip(steps, sigmas, strict=True):
        a = 1 / math.sqrt(1 + sigma**2)
        assert naive.error(a * step.x0 + sigma * a * step.eps, a * step.x_t) < 1e-4
