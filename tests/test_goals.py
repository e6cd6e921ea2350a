"""The run to the converged picture, against diffusers' own solver through the same times."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.guidance.solving import scheduler_for
from shapefirst.images.jobs import Sampling
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import denoise, generators
from shapefirst.tuning import goals
from shapefirst.tuning.candidates import Candidate
from shapefirst.tuning.fitting import followed_runs
from shapefirst.tuning.search import Tuner
from shapefirst.tuning.times import times_to_try

STEPS = 24


def converged(monkeypatch, config):
    monkeypatch.setattr(goals, "CONVERGED_STEPS", STEPS)
    policy, steps = goals.reference("best", 25, config)
    scheduler = scheduler_for(policy.solver)
    assert policy.num_steps == steps
    return scheduler, steps


@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
        {"prediction_type": "sample", "beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 100},
        {"num_train_timesteps": 10},
    ],
)
def test_it_is_dpm_solver_to_the_least_noise(monkeypatch, options):
    config = DDIMScheduler(**{"clip_sample": False, **options}).config
    ours, steps = converged(monkeypatch, config)
    assert isinstance(ours, FittedScheduler)
    ours.set_timesteps(steps)
    times = [int(t) for t in ours.timesteps]
    assert times[-1] == 0
    assert all(a > b for a, b in pairwise(times))

    theirs = DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing")
    even = min(STEPS, config.num_train_timesteps)
    theirs.set_timesteps(even)
    assert times[:even] == theirs.timesteps.tolist()
    theirs.set_timesteps(timesteps=times)
    g = torch.Generator().manual_seed(0)
    mix = 0.3 * torch.randn(8, 8, generator=g)
    x = y = torch.randn(1, 4, 8, 8, generator=g)
    for t in theirs.timesteps:
        x = ours.step(torch.tanh(x @ mix + t / 1000), t, x).prev_sample
        y = theirs.step(torch.tanh(y @ mix + t / 1000), t, y).prev_sample
    assert (x - y).abs().max() < 1e-4 * y.abs().max()


@pytest.mark.parametrize(
    "config", [FlowMatchEulerDiscreteScheduler(shift=3.0).config, DDIMScheduler(thresholding=True).config]
)
def test_a_flow_and_a_threshold_keep_diffusers_own(monkeypatch, config):
    ours, steps = converged(monkeypatch, config)
    assert isinstance(ours, DPMSolverMultistepScheduler)
    assert steps == STEPS
    assert ours.config.timestep_spacing == "trailing"


@pytest.mark.parametrize(("shift", "fewer"), [(3.0, False), (7.0, True), (12.0, True)])
def test_a_flow_s_steps_are_no_more_than_its_rounded_times_tell_apart(shift, fewer):
    """diffusers 0.42: with more of them a run of DPM++ 2M ends in an IndexError."""
    policy, steps = goals.reference("best", 25, FlowMatchEulerDiscreteScheduler(shift=shift).config)
    assert (steps < goals.CONVERGED_STEPS) is fewer
    scheduler = scheduler_for(policy.solver)
    scheduler.set_timesteps(steps)
    x = torch.ones(1, 4, 8, 8)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.full_like(x, 0.5), t, x).prev_sample
    assert torch.allclose(x, torch.full_like(x, 0.5), atol=1e-3)  # all the way with the velocity from 1 on
    assert len(set(scheduler.timesteps.tolist())) == steps > 60


def test_a_solver_for_it_may_go_down_to_the_least_noise(make_pipe):
    prompts, how = ["a cat"], {"guidance_scale": 3.0, "generator": generators([0])}
    runs = followed_runs(list(denoise(make_pipe("sd-epsilon", "ddim"), prompts, num_inference_steps=40, **how)), 3.0)
    assert times_to_try(runs, 6, keep=False)[-1][-1] == 39


def test_a_solver_is_fitted_to_a_flow_s_converged_picture(make_pipe, monkeypatch):
    monkeypatch.setattr(goals, "CONVERGED_STEPS", STEPS)
    pipe = make_pipe("sd-epsilon", "ddim")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    tuner = Tuner(pipe, Sampling(3.0, 12), ["a cat", "a dog"], 2, "best")
    tuner.record(0, [], lambda: None)
    fit, distances = tuner.fit(5, lambda: None)
    entries = fit.schedule.solver.entries
    assert entries["use_flow_sigmas"]
    assert entries["sigmas"][0] == pytest.approx(1, abs=1e-2)
    euler = tuner.run(Candidate(5, TextSchedule.always(), "5 steps"), lambda: None)
    assert fmean(tuner.refine(fit, distances)[1]) <= fmean(distances) < fmean(euler)
