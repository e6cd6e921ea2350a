"""Steps are those that the call runs, with every scheduler and wherever it starts and stops."""

from __future__ import annotations

import copy
from itertools import cycle
from typing import Any

import diffusers
import naive
import pytest
import torch
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from test_guidance import N, Spy, W, generate
from tiny import PIPELINES

from shapefirst.attention.recording import record
from shapefirst.errors import ShapefirstError
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.guidance.timeline import steps_of
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import denoise, encode, generators
from shapefirst.sampling.together import denoise_together

# numpy has a word to say on how diffusers' KDPM2 takes a tensor apart, thousands of times; torchsde, on a rounded time.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__", "ignore:Should have tb<=t1")

SCHEDULERS = [
    pytest.param(kind.name, {"skip_prk_steps": skip} if kind.name == "PNDMScheduler" else {}, id=kind.name + mark)
    for kind in KarrasDiffusionSchedulers
    for skip, mark in ((True, ""), (False, "-prk"))
    if skip or kind.name == "PNDMScheduler"
]
SEVERAL_CALLS = ("Heun", "PNDM", "KDPM2", "DPMSolverSDE")  # in some of their steps
STARTS = [
    pytest.param(*case.values, strength, id=f"{case.id}-{strength}")
    for case in SCHEDULERS
    for strength in ((0.4, 0.7, 1.0) if case.id.startswith(SEVERAL_CALLS) else (0.7,))
]
PROMPT, SEED = ["a red cat"], [11]


def with_scheduler(pipe: Any, name: str, **more: Any) -> Any:
    """The pipeline with another of diffusers' schedulers."""
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **more)
    pipe.scheduler.set_timesteps(N)
    return pipe


def image_to_image(pipe: Any) -> Any:
    other = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    return other


def check_steps(pipe: Any, num_steps: int, **options: Any) -> None:
    """The laws of text in the first k of the steps that run, against the stock call."""

    def call() -> torch.Tensor:
        torch.manual_seed(0)  # torchsde's noise does not ask the call's generator
        return generate(pipe, PROMPT, SEED, **options)

    with Spy(pipe) as spy:
        stock = call()
    calls = spy.rows // 2
    assert naive.step_of_call(pipe.scheduler, calls - 1) == num_steps - 1
    for k in sorted({1, num_steps}):
        with text_until(pipe, k) as evaluations, Spy(pipe) as spy:
            found = call()
        guided = sum(naive.step_of_call(pipe.scheduler, i) < k for i in range(calls))
        assert evaluations.calls == calls
        assert evaluations.rows == spy.rows == calls + guided
        if k == num_steps:
            assert torch.equal(found, stock)
        else:
            with naive.both_branches_in(pipe.unet, lambda i, k=k: naive.step_of_call(pipe.scheduler, i) < k) as made:
                assert naive.error(found, call()) < 1e-4
            assert len(made) == calls
    with text_until(pipe, fraction=0.5) as evaluations:
        call()
    half = int(0.5 * num_steps + 0.5)
    assert evaluations.rows == calls + sum(naive.step_of_call(pipe.scheduler, i) < half for i in range(calls))
    with (
        pytest.raises(ShapefirstError, match=f"the first {num_steps + 1} steps, but this generation has {num_steps}:"),
        text_until(pipe, num_steps + 1),
    ):
        call()


def test_these_are_all_the_schedulers_that_stable_diffusion_takes(make_pipe):
    assert {kind.name for kind in KarrasDiffusionSchedulers} == {c.__name__ for c in make_pipe().scheduler.compatibles}


@pytest.mark.parametrize(("name", "more", "strength"), STARTS)
def test_image_to_image_with_every_scheduler(make_pipe, name, more, strength):
    pipe = image_to_image(with_scheduler(make_pipe(), name, **more))
    options = {"image": torch.rand(1, 3, 16, 16), "strength": strength, "num_inference_steps": 6}
    check_steps(pipe, int(6 * strength), **options)


@pytest.mark.parametrize(("name", "more"), SCHEDULERS)
def test_text_to_image_with_every_scheduler(make_pipe, name, more):
    check_steps(with_scheduler(make_pipe(), name, **more), 5, num_inference_steps=5)


V = {"prediction_type": "v_prediction"}
#: What else the loop takes, and the options that shipped models and their users set.
CONFIGURATIONS: list[tuple[str, dict[str, Any]]] = [
    *((f"{name}Scheduler", {}) for name in ("DDIMParallel", "DDPMParallel", "LCM", "TCD", "IPNDM", "SASolver")),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("CosineDPMSolverMultistepScheduler", V),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True, **V}),
    ("DDIMScheduler", {"prediction_type": "sample"}),
    ("DDIMScheduler", {"thresholding": True}),
    ("DDPMScheduler", {"variance_type": "fixed_large", "timestep_spacing": "linspace"}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing", **V}),
    ("EulerDiscreteScheduler", {"timestep_type": "continuous", **V}),
    ("EulerDiscreteScheduler", {"interpolation_type": "log_linear", "use_karras_sigmas": True}),
    ("EulerDiscreteScheduler", {"final_sigmas_type": "sigma_min", "use_beta_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("LMSDiscreteScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "euler_at_final": True}),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun", "timestep_spacing": "trailing"}),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3, "use_karras_sigmas": True}),
    ("UniPCMultistepScheduler", {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
    ("DEISMultistepScheduler", {"solver_order": 3}),
]


@pytest.mark.parametrize(("name", "more"), CONFIGURATIONS)
def test_text_to_image_with_every_configuration(make_pipe, name, more):
    check_steps(with_scheduler(make_pipe(), name, **more), 5, num_inference_steps=5)


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
FLOWS: list[tuple[str, dict[str, Any]]] = [
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", {"use_karras_sigmas": True, "shift_terminal": 0.1}),
    ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchLCMScheduler", {}),
    *((f"{name}Scheduler", FLOW) for name in ("DPMSolverMultistep", "DEISMultistep", "UniPCMultistep", "SASolver")),
]


@pytest.mark.parametrize(("name", "more"), FLOWS)
def test_flow_matching_with_every_scheduler(name, more):
    row = PIPELINES["StableDiffusion3Pipeline"]()
    row.pipe.scheduler = getattr(diffusers, name)(**more)
    (stock,) = row((0,))
    calls = len(row.pipe.scheduler.timesteps)
    each = 2 if "Heun" in name else 1
    guided = [call // each < 2 for call in range(calls)]
    with guide(row.pipe, "full") as evaluations:
        assert torch.equal(row((0,))[0], stock)
    assert (evaluations.rows, evaluations.calls) == (2 * calls, calls)
    with text_until(row.pipe, 2) as evaluations:
        (found,) = row((0,))
    assert (evaluations.rows, evaluations.calls) == (calls + sum(guided), calls)
    with naive.both_branches_in(row.pipe.transformer, guided.__getitem__):
        assert naive.error(found, row((0,))[0]) < 1e-4 < naive.error(found, stock)


# --- where a call starts and stops ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "end"), [("ddim", 0.8), ("euler", 0.5), ("dpm-solver", 0.3)])
def test_a_call_that_stops_early(make_pipe, sampler, end):
    """Stable Diffusion XL's base model leaves the last steps to its refiner."""
    pipe = make_pipe("sdxl", sampler)
    pipe.scheduler.set_timesteps(10)
    num_steps = sum(t >= round(1000 * (1 - end)) for t in pipe.scheduler.timesteps.tolist())
    assert num_steps < 10
    check_steps(pipe, num_steps, num_inference_steps=10, denoising_end=end)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm-solver"])
def test_a_call_that_starts_where_another_stopped(make_pipe, sampler):
    pipe = make_pipe("sdxl", sampler)
    refiner = diffusers.StableDiffusionXLImg2ImgPipeline(**pipe.components)
    refiner.set_progress_bar_config(disable=True)
    latents = generate(pipe, PROMPT, SEED, num_inference_steps=10, denoising_end=0.6)
    for more in ({}, {"denoising_end": 0.9}):
        options = {"num_inference_steps": 10, "image": latents, "denoising_start": 0.6, **more}
        pipe.scheduler.set_timesteps(10)
        noisy = [t for t in pipe.scheduler.timesteps.tolist() if t < 400]
        num_steps = sum(t >= round(1000 * (1 - more["denoising_end"])) for t in noisy) if more else len(noisy)
        check_steps(refiner, num_steps, **options)


def test_heun_stops_in_the_middle_of_a_step(make_pipe):
    """diffusers cuts the list where it is below a timestep: after the first of the two calls of a step."""
    pipe = make_pipe("sdxl", "heun")
    check_steps(pipe, 5, num_inference_steps=8, denoising_end=0.6)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("DDPMScheduler", {"timesteps": [900, 700, 400, 350, 100, 10]}),
        ("LCMScheduler", {"timesteps": [899, 699, 399, 359, 99, 19]}),
        ("EulerDiscreteScheduler", {"timesteps": [900, 700, 400, 350, 100, 10]}),
        ("EulerDiscreteScheduler", {"sigmas": [1.5, 1.2, 0.9, 0.6, 0.3, 0.1, 0.0]}),
        ("HeunDiscreteScheduler", {"timesteps": [900, 700, 400, 350, 100, 10]}),
        ("DPMSolverMultistepScheduler", {"timesteps": [900, 700, 400, 350, 100, 10]}),
        ("EDMEulerScheduler", {"sigmas": torch.linspace(0, 1, 6)}),
    ],
)
def test_a_list_of_ones_own(make_pipe, name, given):
    """After a call of fewer steps, whose number some schedulers keep."""
    pipe = with_scheduler(make_pipe(), name)
    generate(pipe, PROMPT, SEED, num_inference_steps=3)
    check_steps(pipe, 6, num_inference_steps=6 if name == "EDMEulerScheduler" else None, **given)


# --- timesteps that say little --------------------------------------------------------------------------------------

SPACINGS = [
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
    ("DPMSolverMultistepScheduler", {"use_exponential_sigmas": True}),
    ("DPMSolverSinglestepScheduler", {"use_karras_sigmas": True}),
    ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
    ("UniPCMultistepScheduler", {"use_exponential_sigmas": True}),
    ("DEISMultistepScheduler", {"use_karras_sigmas": True}),
    ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
]


@pytest.mark.parametrize(("name", "more"), SPACINGS)
def test_steps_of_equal_timesteps_are_steps(make_pipe, name, more):
    """Karras', Lu's and exponential spacing round neighbours to the same timestep; PNDM has one twice in a step."""
    pipe = with_scheduler(make_pipe(), name, **more)
    options = {"num_inference_steps": 30, "guidance_scale": W}
    with record(pipe, size=4) as own:
        generate(pipe, PROMPT, SEED, **options)
    with record(pipe, size=4) as looped:
        list(denoise(pipe, PROMPT, generator=generators(SEED), **options))
    with record(pipe, size=4) as together:
        denoise_together(pipe, encode(pipe, PROMPT), [TextSchedule.always()], generator=generators(SEED), **options)
    pipe.scheduler.set_timesteps(7)
    with record(pipe, size=4) as mine:
        loop(pipe, copy.deepcopy(pipe.scheduler), 30)
    for maps in (looped, together, mine):
        assert set(maps.text) == set(own.text) == set(range(30))
        assert all(naive.error(maps.text[i], own.text[i]) < 1e-4 for i in range(30))


@pytest.mark.parametrize("sampler", ["dpm-solver", "unipc"])
def test_text_in_steps_of_equal_timesteps(make_pipe, sampler):
    pipe = make_pipe("sd-epsilon", sampler)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, use_karras_sigmas=True)
    pipe.scheduler.set_timesteps(30)
    assert len(set(pipe.scheduler.timesteps.tolist())) < 30
    check_steps(pipe, 30, num_inference_steps=30)


def loop(pipe: Any, solver: Any, num_steps: int) -> torch.Tensor:
    """A loop of one's own."""
    solver.set_timesteps(num_steps)
    prompts = encode(pipe, PROMPT)
    x = naive.noise(SEED) * solver.init_noise_sigma
    with torch.no_grad():
        for t in solver.timesteps:
            x_in = torch.cat([solver.scale_model_input(x, t)] * 2)
            null, text = pipe.unet(x_in, t, torch.cat([prompts.null, prompts.text])).sample.chunk(2)
            x = solver.step(null + W * (text - null), t, x).prev_sample
    return x


@pytest.mark.parametrize("name", ["DDIMScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
def test_a_loop_with_a_scheduler_of_its_own_is_followed_by_its_own_list(make_pipe, name):
    """The pipeline's own has never been set: its thousand timesteps have each of the others somewhere."""
    pipe = make_pipe()
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    solver = copy.deepcopy(pipe.scheduler)
    with text_until(pipe, 3) as evaluations:
        x = loop(pipe, solver, 6)
    calls = len(solver.timesteps)
    assert evaluations.rows == calls + sum(naive.step_of_call(solver, i) < 3 for i in range(calls))
    pipe.scheduler.set_timesteps(6)
    with text_until(pipe, 3):
        assert torch.equal(loop(pipe, pipe.scheduler, 6), x)


def test_what_a_configuration_keeps_of_another_class_has_no_effect(make_pipe):
    """Stable Diffusion comes with PNDM's, and from_config() hands it on."""
    pndm = diffusers.PNDMScheduler(skip_prk_steps=True)
    for name in ("ddim", "heun"):
        pipe = make_pipe("sd-epsilon", name)
        pipe.scheduler = type(pipe.scheduler).from_config(pndm.config, clip_sample=False)
        assert pipe.scheduler.config.skip_prk_steps
        pipe.scheduler.set_timesteps(4)
        assert steps_of(pipe.scheduler) == ([0, 1, 2, 3] if name == "ddim" else [0, 0, 1, 1, 2, 2, 3])


@pytest.mark.parametrize(
    ("spacing", "policy"),
    list(zip(SPACINGS, cycle(["every:2,order=3", "steps:0-14+17+19,order=2", "tol:0.02"]), strict=False)),
)
def test_extrapolation_stands_equal_timesteps(make_pipe, spacing, policy):
    name, more = spacing
    pipe = with_scheduler(make_pipe(), name, **more)
    stock = generate(pipe, PROMPT, SEED, num_inference_steps=20)
    with guide(pipe, policy):
        assert naive.error(generate(pipe, PROMPT, SEED, num_inference_steps=20), stock) < 0.05
