"""Samplers that add noise: what is extrapolated is the clean latents, which hold none of it."""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from contextlib import suppress
from typing import Any

import diffusers
import naive
import pytest
import torch
from conftest import BETAS
from diffusers.utils.torch_utils import randn_tensor
from test_guidance import PROMPTS, SEEDS, W
from test_timeline import with_scheduler

from shapefirst.families.noise import adds_noise, clean
from shapefirst.families.stable_diffusion import StableDiffusion
from shapefirst.guidance.follow import Call, Follower
from shapefirst.guidance.stochastic import clean_of, output_of
from shapefirst.policies.auto import Auto
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.words import parse_policy
from shapefirst.sampling.loop import denoise, encode, generators
from shapefirst.sampling.together import denoise_together
from shapefirst.tuning.search import _errors

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__", "ignore:.*makes all of its noise anew")

N = 8
SDE = {"algorithm_type": "sde-dpmsolver++"}
STOCHASTIC = [
    ("EulerAncestralDiscreteScheduler", {}),
    ("DDPMScheduler", {}),
    ("DPMSolverMultistepScheduler", SDE),
    ("SASolverScheduler", {}),
    ("LCMScheduler", {}),
    ("DPMSolverSDEScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
]
DETERMINISTIC = ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"]


def options(steps: int = N) -> dict[str, Any]:
    return {"num_inference_steps": steps, "guidance_scale": W, "generator": generators(SEEDS)}


def ends(pipe: Any, **more: Any) -> torch.Tensor:
    torch.manual_seed(0)  # torchsde's noise does not ask the call's generator
    *_, step = denoise(pipe, PROMPTS, **options(), **more)
    return step.x_next


# --- who adds noise, and what x0 is ----------------------------------------------------------------------------------

#: Schedulers whose steps are given something else than an output, a timestep and latents.
OTHER = ["Amused", "BlockRefinement", "ConsistencyDecoder", "DiscreteDDIM", "EntropyBound", "Helios", "KarrasVe"]
OTHER += ["Piflow", "RFD4Proteina", "RePaint", "ScoreSdeVe", "VQDiffusion", "CogVideoXDPM"]
ALL = sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith(tuple(OTHER)))
WAYS: list[dict[str, Any]] = [{}, SDE, {"algorithm_type": "dpmsolver++"}, {"stochastic_sampling": True}, {"eta": 0.0}]


@pytest.mark.parametrize("name", ALL)
def test_a_step_from_the_same_place_ends_elsewhere_where_noise_is_added(name):
    kind = getattr(diffusers, name)
    takes_eta = "eta" in inspect.signature(kind.step).parameters
    for way, eta in itertools.product(WAYS, (None, 0.0, 1.0) if takes_eta else (None,)):
        if not inspect.signature(kind).parameters.keys() >= way.keys():
            continue
        with suppress(NotImplementedError):  # DEIS knows no SDE
            scheduler = kind(**way)
            ended = [_some_steps(scheduler, seed, {} if eta is None else {"eta": eta}) for seed in (0, 1)]
            assert adds_noise(scheduler, eta) is not torch.equal(*ended), (way, eta)


def _some_steps(scheduler: Any, seed: int, extra: dict[str, Any]) -> torch.Tensor:
    scheduler.set_timesteps(10, **({"intermediate_timesteps": None} if "SCM" in type(scheduler).__name__ else {}))
    torch.manual_seed(seed)
    x = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)
    for t in scheduler.timesteps[:7]:
        x_in = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        t = t[None] if "Wuerstchen" in type(scheduler).__name__ else t
        x = scheduler.step(x_in * 0.1, t, x, return_dict=False, **extra)[0]
    return x


@pytest.mark.parametrize("name", ["EulerAncestralDiscreteScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_x0_of_an_output(name, kind):
    scheduler = getattr(diffusers, name)(**BETAS)
    scheduler.register_to_config(prediction_type=kind)
    scheduler.set_timesteps(7)
    timesteps = scheduler.timesteps.tolist()
    x0, eps = torch.randn(2, 1, 4, 8, 8)
    for t, scales in zip(timesteps, clean(scheduler, timesteps), strict=True):
        ratio = naive.sigma_over_alpha(scheduler, t)
        a, s = 1 / math.sqrt(1 + ratio**2), ratio / math.sqrt(1 + ratio**2)
        x, y = a * x0 + s * eps, {"epsilon": eps, "v_prediction": a * eps - s * x0, "sample": x0}[kind]
        assert naive.error(clean_of(y, x, scales), x0) < 1e-4
        assert naive.error(output_of(clean_of(y, x, scales), x, scales), y) < 1e-4


def test_x0_of_a_flow():
    x0, eps = torch.randn(2, 1, 4, 8, 8)
    for inverts in (False, True):  # Mochi's model predicts the way back
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, invert_sigmas=inverts)
        scheduler.set_timesteps(6)
        for t, scales in zip(scheduler.timesteps.tolist(), clean(scheduler, scheduler.timesteps.tolist()), strict=True):
            s = 1 - t / 1000 if inverts else t / 1000
            y = x0 - eps if inverts else eps - x0
            assert naive.error(clean_of(y, (1 - s) * x0 + s * eps, scales), x0) < 1e-4


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", ["CosineDPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"])
def test_x0_of_a_preconditioned_model(name, kind):
    scheduler = getattr(diffusers, name)(prediction_type=kind)
    scheduler.set_timesteps(6)
    x, y = torch.randn(2, 1, 4, 8, 8)
    timesteps = scheduler.timesteps.tolist()
    for sigma, scales in zip(scheduler.sigmas, clean(scheduler, timesteps), strict=False):
        x_in = scheduler.precondition_inputs(x * sigma, sigma)
        expected = scheduler.precondition_outputs(x * sigma, y, sigma)
        assert naive.error(clean_of(y, x_in, scales), expected) < 1e-4


@pytest.mark.parametrize(
    ("given", "made"), [((1, 4, 4, 4), (1, 4, 4, 4)), ((1, 9, 4, 4), (1, 4, 4, 4)), ((1, 4, 4, 4), (1, 8, 4, 4))]
)
def test_masks_beside_the_latents_and_variances_beside_the_output_are_left_alone(given, made):
    x, y = torch.randn(given), torch.randn(made)
    x0 = clean_of(y, x, (2.0, -3.0))
    assert torch.equal(x0[:, :4], 2 * x[:, :4] - 3 * y[:, :4])
    assert torch.equal(x0[:, 4:], y[:, 4:])
    assert naive.error(output_of(x0, x, (2.0, -3.0)), y) < 1e-5


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "more"), STOCHASTIC)
@pytest.mark.parametrize("words", ["budget:0.7", "every:3,order=2", "tol:1e-3"])
def test_a_model_that_knows_the_picture_is_never_missed(make_pipe, monkeypatch, name, more, words):
    """Its output is as rough as the noise, and its x0 always the same: so is every picture."""
    pipe = with_scheduler(make_pipe(), name, **more)
    known = torch.randn(2, 4, 8, 8)

    def evaluate(self: Any, pipe: Any, denoiser: Any, x: torch.Tensor, t: torch.Tensor, rows: Any) -> torch.Tensor:
        ratio = naive.sigma_over_alpha(pipe.scheduler, float(t))
        a, s = 1 / math.sqrt(1 + ratio**2), ratio / math.sqrt(1 + ratio**2)
        return (x - a * known.repeat(len(x) // 2, 1, 1, 1)) / s

    monkeypatch.setattr(StableDiffusion, "evaluate", evaluate)
    stock = ends(pipe)
    torch.manual_seed(0)
    steps = list(denoise(pipe, PROMPTS, schedule=parse_policy(words), **options()))
    assert naive.error(steps[-1].x_next, stock) < 1e-3
    assert sum(step.evaluations for step in steps) < 2 * len([call for step in steps for call in step.calls])


@pytest.mark.parametrize("kind", ["sd-epsilon", "sd-v"])
def test_a_run_is_what_the_equations_say(make_pipe, kind):
    """Euler ancestral, written out: eps = (x - a x0) / s with the x0 of the last guided step."""
    pipe = with_scheduler(make_pipe(kind), "EulerAncestralDiscreteScheduler")
    solver, noise = pipe.scheduler, generators(SEEDS)
    solver.set_timesteps(N)
    rows = encode(pipe, PROMPTS).rows()["text"]
    x = randn_tensor((2, 4, 8, 8), generator=noise) * solver.init_noise_sigma
    with torch.no_grad():
        for step, (t, sigma) in enumerate(zip(solver.timesteps, solver.sigmas.tolist(), strict=False)):
            a, s = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
            x_in = solver.scale_model_input(x, t)
            if step in (0, 1, 4, 7):
                null, text = pipe.unet(torch.cat([x_in] * 2), t, encoder_hidden_states=rows).sample.chunk(2)
                y = null + W * (text - null)
                x0 = (x_in - s * y) / a if kind == "sd-epsilon" else a * x_in - s * y
            else:
                eps = (x_in - a * x0) / s
                y = eps if kind == "sd-epsilon" else a * eps - s * x0
            x = solver.step(y, t, x, generator=noise).prev_sample
    assert naive.error(ends(pipe, schedule=TextSchedule.at([0, 1, 4, 7])), x) < 1e-4


@pytest.mark.parametrize("keep", ["null", "text"])
def test_the_difference_to_a_branch_that_runs_is_held(make_pipe, keep):
    pipe = with_scheduler(make_pipe(), "EulerAncestralDiscreteScheduler")
    held = ends(pipe, schedule=TextSchedule.every(2, keep=keep, order=0))
    assert torch.equal(ends(pipe, schedule=TextSchedule.every(2, keep=keep, order=2)), held)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("words", ["every:2", "every:2,order=2", "every:2,keep=null"])
def test_samplers_that_add_no_noise_extrapolate_the_output(make_pipe, name, words):
    pipe, policy = with_scheduler(make_pipe(), name), parse_policy(words)
    of = {"num_steps": N, "w": W, "keep": policy.keep, "order": policy.order}
    expected = naive.sample(pipe, PROMPTS, naive.noise(SEEDS), guided=policy.guided_steps(N).__contains__, **of)
    assert naive.error(ends(pipe, schedule=policy), expected) < 1e-4


def test_a_tolerance_is_of_the_output_also_where_x0_is_held():
    """An error e of x0 is one of e / q in the output."""
    outputs = torch.randn(3, 2, 1, 4, 4, 4)
    latents = torch.randn(3, 1, 4, 4, 4)

    def gaps(tol: float, scales: tuple[float, float] | None) -> list[int]:
        follower = Follower(Auto(tol, order=0), 1, stochastic=True)
        due = []
        for step, (null, text) in enumerate(outputs):
            call = Call(step, 40, True, 1 - step / 40, W, scales)
            follower.wanted(call)
            x = latents[step] if scales else None
            follower.complete(call, {"null": null, "text": text}, x)
            due.append(follower._due[0] - step)
        return due

    plain = [gaps(tol, None) for tol in (0.01, 1.0, 5.0)]
    assert [gaps(tol, (0.0, 0.5)) for tol in (0.01, 1.0, 5.0)] == plain
    assert len({tuple(each) for each in plain}) > 1


def test_what_is_replayed_is_what_runs(make_pipe):
    pipe = with_scheduler(make_pipe(), "EulerAncestralDiscreteScheduler")
    policy = TextSchedule.at([0, 1, 2, 5])
    recorded, ran = (list(denoise(pipe, PROMPTS, schedule=schedule, **options())) for schedule in (None, policy))
    expected = (ran[3].calls[0].guided - recorded[3].calls[0].guided).flatten(1).square().mean(1).sqrt().mean()
    assert list(_errors(recorded, policy, W))[3] == pytest.approx([float(expected)], rel=1e-4)


def test_a_run_among_others_holds_x0_as_well(make_pipe, monkeypatch):
    monkeypatch.setattr("shapefirst.sampling.together.is_stochastic", lambda *_: True)
    monkeypatch.setattr("shapefirst.sampling.loop.is_stochastic", lambda *_: True)
    pipe = make_pipe()
    policies = [TextSchedule.every(2), TextSchedule.every(3, order=2), TextSchedule.until(2)]
    found = denoise_together(pipe, encode(pipe, PROMPTS), policies, **options())
    for end, policy in zip(found, policies, strict=True):
        assert naive.error(end.latents, ends(pipe, schedule=policy)) < 1e-4


def test_a_sampler_that_makes_all_of_its_noise_anew_is_warned_of(make_pipe):
    pipe = with_scheduler(make_pipe(), "LCMScheduler")
    with pytest.warns(UserWarning, match="LCMScheduler makes all of its noise anew in every step"):
        ends(pipe, schedule=TextSchedule.every(2))
    for name, policy in (("LCMScheduler", "paper:2"), ("EulerAncestralDiscreteScheduler", "every:2")):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            ends(with_scheduler(pipe, name), schedule=parse_policy(policy))
