"""The variable that predictions are extrapolated in falls along every scheduler's run, and is what it says."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import diffusers
import naive
import pytest
import torch
from conftest import BETAS
from diffusers.configuration_utils import register_to_config
from test_guidance import N, W, generate
from test_timeline import PROMPT, SCHEDULERS, SEED, with_scheduler

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.noise import levels, scales
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
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
]


SIGMA_OF_TIME = {
    "EDMEulerScheduler": lambda t: math.exp(4 * t),
    "EDMDPMSolverMultistepScheduler": lambda t: math.exp(4 * t),
    "CosineDPMSolverMultistepScheduler": lambda t: math.tan(t * math.pi / 2),
    "CMStochasticIterativeScheduler": lambda t: math.exp(t / 250),
    "IPNDMScheduler": lambda t: math.tan(t * math.pi / 2),
    "ScoreSdeVeScheduler": lambda t: 0.01 * (1348 / 0.01) ** t,
    "SCMScheduler": math.tan,
}

#: What a scheduler cannot be made, or set, without.
NEEDED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "AmusedScheduler": ({"mask_token_id": 1}, {}),
    "HeliosDMDScheduler": ({}, {"stage_index": 1}),
    "HeliosScheduler": ({}, {"stage_index": 1}),
    "RFD4ProteinaScheduler": ({"schedule_mode": "log", "noise_mode": "1/t", "tsr_k": 1.0, "tsr_sigma": 1.0}, {}),
    "SCMScheduler": ({}, {"intermediate_timesteps": None}),
    "VQDiffusionScheduler": ({"num_vec_classes": 8}, {}),
}
#: Every scheduler of diffusers that takes noise away; the decoder's has two steps and no more.
ALL = sorted(
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and "Inverse" not in name and name != "ConsistencyDecoderScheduler"
)
FLAGS = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_flow_sigmas"]
FLAGS += ["invert_sigmas", "rescale_betas_zero_snr", "use_dynamic_shifting", "skip_prk_steps"]
CHOICES = {
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "final_sigmas_type": ["zero", "sigma_min"],
    "sigma_schedule": ["karras", "exponential"],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
    "interpolation_type": ["linear", "log_linear"],
    "shift": [3.0, 12.0],
    "shift_terminal": [0.1],
}
COMBINED = [
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 5.0},
    {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True},
    {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
]


def ways_of(name: str) -> Iterator[Any]:
    """A scheduler under each of its options, and as shipped models combine them, as far as it takes them."""
    kind = getattr(diffusers, name)
    known = inspect.signature(kind).parameters
    ways = [{}, *({flag: True} for flag in FLAGS)]
    ways += [{option: value} for option, values in CHOICES.items() for value in values] + COMBINED
    small = {"num_train_timesteps": 100} if "num_train_timesteps" in known else {}  # KDPM2 takes long over 1000
    for way in ways:
        if known.keys() >= way.keys():
            with suppress(ValueError, NotImplementedError):
                yield kind(**NEEDED.get(name, ({},))[0], **small, **way)


def levels_in(scheduler: Any, steps: int = 20, **more: Any) -> list[float]:
    set_steps(scheduler, steps, **more)
    return levels(scheduler, scheduler.timesteps.tolist())


def set_steps(scheduler: Any, steps: int, **more: Any) -> None:
    if scheduler.config.get("use_dynamic_shifting"):
        more["mu"] = 1.0
    scheduler.set_timesteps(steps, **more, **NEEDED.get(type(scheduler).__name__, ({}, {}))[1])
    if hasattr(scheduler, "set_sigmas"):
        scheduler.set_sigmas(steps)


def falls(u: list[float]) -> bool:
    return all(math.isfinite(level) for level in u) and all(a >= b for a, b in itertools.pairwise(u)) and u[0] > u[-1]


@pytest.mark.parametrize("name", ALL)
def test_it_falls_with_every_scheduler_of_diffusers(name):
    """From place to place, but for the second calls of a step (Heun, PNDM) and what goes up again (RePaint)."""
    seen = 0
    for scheduler in ways_of(name):
        for steps in (3, 20):
            try:
                set_steps(scheduler, steps)
            except (ValueError, NotImplementedError):  # it takes no such steps
                continue
            u = levels(scheduler, scheduler.timesteps.tolist())
            assert falls(u), scheduler
            if getattr(scheduler, "order", 1) == 1 and not hasattr(scheduler, "prk_timesteps") and name[:2] != "Re":
                assert len(set(u)) == len(u), scheduler
            seen += 1
    assert seen > 0


@pytest.mark.parametrize(("name", "more"), SCHEDULERS)
def test_it_is_what_the_table_says(make_pipe, name, more):
    scheduler = with_scheduler(make_pipe(), name, **more).scheduler
    u = levels_in(scheduler)
    if name in SIGMA_OF_TIME:
        return
    assert u == pytest.approx(
        [math.log(1 + naive.sigma_over_alpha(scheduler, float(t))) for t in scheduler.timesteps], rel=2e-4
    )


@pytest.mark.parametrize(("name", "sigma"), SIGMA_OF_TIME.items())
def test_it_is_what_the_timestep_stands_for(name, sigma):
    scheduler = getattr(diffusers, name)()
    u = levels_in(scheduler)
    expected = [math.log(1 + sigma(t)) for t in scheduler.timesteps.tolist()[1:]]
    assert u[1:] == pytest.approx(expected, rel=1e-4)  # IPNDM and SCM begin without any signal


def test_wuerstchen():
    scheduler = diffusers.DDPMWuerstchenScheduler()
    u = levels_in(scheduler)
    for level, t in zip(u[1:-1], scheduler.timesteps.tolist()[1:-1], strict=True):
        abar = (math.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
        assert level == pytest.approx(math.log(1 + math.sqrt((1 - abar) / abar)), rel=1e-4)


@pytest.mark.parametrize("karras", [False, True])
def test_continuous_timesteps_are_no_places_in_a_table(karras):
    """EDM's: log(sigma) / 4, fractions and negative."""
    options = {"prediction_type": "v_prediction", "timestep_type": "continuous", "use_karras_sigmas": karras}
    scheduler = diffusers.EulerDiscreteScheduler(**BETAS, **options)
    u = levels_in(scheduler)
    assert min(scheduler.timesteps) < 0
    assert u == pytest.approx([math.log(1 + math.exp(4 * t)) for t in scheduler.timesteps.tolist()], rel=1e-5)
    with pytest.raises(UnsupportedPipelineError, match=r"timestep 500 is not in the list of this EulerDiscrete"):
        scales(scheduler, 500)
    ddim = diffusers.DDIMScheduler.from_config(scheduler.config)  # keeps the words, to no effect
    assert ddim.config.timestep_type == "continuous"
    assert falls(levels_in(ddim))


@pytest.mark.parametrize("shift", [1.0, 5.0])
@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "DEISMultistepScheduler",
        "SASolverScheduler",
    ],
)
def test_flow_sigmas_of_solvers_that_have_a_table_as_well(name, shift):
    """Sana's and Wan's: a velocity is extrapolated in its own sigma."""
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    u = levels_in(getattr(diffusers, name)(**options), 10)
    even = [1 - i / 10 for i in range(10)]
    assert u == pytest.approx([shift * s / (1 + (shift - 1) * s) for s in even], abs=3e-3)


def test_flow_matching():
    """u is the sigma, whatever the timesteps are: N sigma, N (1 - sigma) in Mochi's list, or a user's own."""
    euler = diffusers.FlowMatchEulerDiscreteScheduler
    sigmas = [1.0, 0.8, 0.5, 0.2]
    shifted = [3 * s / (1 + 2 * s) for s in sigmas]
    assert levels_in(euler(shift=3.0), 4, sigmas=sigmas) == pytest.approx(shifted)
    mochi = euler(shift=3.0, invert_sigmas=True)
    assert levels_in(mochi, 4, sigmas=sigmas) == pytest.approx(shifted)
    assert mochi.timesteps.tolist() == pytest.approx([1000 * (1 - s) for s in shifted])
    assert levels_in(euler(), 4, sigmas=sigmas, timesteps=[9, 8, 7, 6]) == pytest.approx(sigmas)
    dynamic = [math.exp(1) / (math.exp(1) + 1 / s - 1) for s in sigmas]
    assert levels_in(euler(use_dynamic_shifting=True), 4, sigmas=sigmas) == pytest.approx(dynamic)
    u = levels_in(diffusers.FlowMatchHeunDiscreteScheduler(), 5)
    assert u[1::2] == u[2::2]


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_custom_lists(name):
    scheduler = getattr(diffusers, name)(**BETAS)
    scheduler.set_timesteps(timesteps=[900, 500, 100])
    u = levels(scheduler, scheduler.timesteps.tolist())
    assert u == pytest.approx([math.log(1 + naive.sigma_over_alpha(scheduler, t)) for t in (900, 500, 100)], rel=1e-4)
    if name == "EulerDiscreteScheduler":
        scheduler.set_timesteps(sigmas=[3.0, 1.0, 0.5, 0.0])
        assert levels(scheduler, scheduler.timesteps.tolist()) == pytest.approx(
            [math.log(1 + s) for s in (3, 1, 0.5)], rel=1e-5
        )


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_timesteps_that_are_rounded_to_one_are_still_places_apart(name):
    scheduler = getattr(diffusers, name)(use_exponential_sigmas=True)
    u = levels_in(scheduler, 50)
    assert len(set(scheduler.timesteps.tolist())) < 50
    sigma_max, sigma_min = (naive.sigma_over_alpha(scheduler, t) for t in (999, 0))
    assert u == pytest.approx(
        [math.log(1 + sigma_max * (sigma_min / sigma_max) ** (i / 49)) for i in range(50)], rel=1e-3
    )


@pytest.mark.parametrize("name", ["DDIMScheduler", "HeunDiscreteScheduler", "UniPCMultistepScheduler"])
def test_a_part_of_the_list_has_the_levels_that_it_has_in_the_whole(name):
    scheduler = getattr(diffusers, name)(**BETAS)
    whole = levels_in(scheduler, 12)
    timesteps = scheduler.timesteps.tolist()
    for part in (slice(5, None), slice(7), slice(4, 9), slice(6, 7)):
        assert levels(scheduler, timesteps[part]) == whole[part]


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_loop_of_ones_own_has_a_list_that_the_scheduler_does_not_know(name):
    kind = getattr(diffusers, name)
    known = kind()
    expected = levels_in(known, 7)
    assert levels(kind(), known.timesteps.tolist()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"])
def test_along_an_inversion_it_rises(name):
    assert falls(levels_in(getattr(diffusers, name)())[::-1])


class Nobodys(diffusers.SchedulerMixin, diffusers.ConfigMixin):
    """A scheduler that tells nothing but its timesteps."""

    init_noise_sigma, order = 1.0, 1

    @register_to_config
    def __init__(self, steps_offset: int = 1):
        self.set_timesteps(10)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        self.timesteps = torch.arange(num_inference_steps, device=device) * 7 % 11

    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        return sample

    def step(self, out: torch.Tensor, t: Any, sample: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        return (sample - 0.05 * out,)


def test_a_scheduler_that_tells_nothing_has_evenly_falling_levels(make_pipe):
    pipe = make_pipe()
    pipe.scheduler = Nobodys()
    assert levels_in(pipe.scheduler, 10) == pytest.approx([1 - i / 10 for i in range(10)])
    stock = generate(pipe, PROMPT, SEED, num_inference_steps=10)
    with guide(pipe, budget=0.8) as evaluations:
        assert naive.error(generate(pipe, PROMPT, SEED, num_inference_steps=10), stock) < 0.05
    assert evaluations.saved == pytest.approx(0.2)


@pytest.mark.parametrize("name", ZERO_SNR)
def test_zero_terminal_snr(name):
    """alpha_T = 0: u_T is as great with those that keep the zero as with those that put 2^-12 in its place."""
    scheduler = getattr(diffusers, name)(**BETAS, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    u = levels_in(scheduler, 10)
    assert falls(u)
    assert u[0] == pytest.approx(math.log(1 + 2**12), rel=1e-6)
    between = levels(scheduler, [999.0, 998.5, 998.0, 500.0])
    assert u[0] > between[1] > between[2] > u[1]
    abar = float(scheduler.alphas_cumprod[500])
    assert between[3] == pytest.approx(math.log(1 + math.sqrt((1 - abar) / abar)))


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
    u = follow([], timesteps[0], pipe, None, pipe.unet).levels
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
