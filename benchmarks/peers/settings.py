"""What each method is measured with: its authors' own settings, and a ladder that saves 20% to 60% where it can.

A method that skips one of two branches saves 50% at most, and one that skips parts of evaluations none of them. The
ladders were chosen on two images of pocket at 25 steps of DPM++ 2M Karras, by what they save alone.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import diffusers
import numpy as np
from diffusers.schedulers import AysSchedules

from shapefirst.cli.tune import CALIBRATION_SEED
from shapefirst.families.layout import denoiser_of
from shapefirst.files import save_text
from shapefirst.models import default_guidance_scale
from shapefirst.prompts import mixed as prompts

from . import branches, fitting, forecasts, parts, reuse
from .flow import as_flow
from .loop import Block, Call

__all__ = ["FLOWS", "PARTS", "RIVALS", "STOCK", "ays", "ays_timesteps", "sampled_by"]

#: The number of steps -> the method with its settings.
Factory: TypeAlias = Callable[[int], Block]
FOUND: Final = Path("out/peers")
SCALE: Final = default_guidance_scale("pocket")


def _always(block: Callable[..., AbstractContextManager[Call]], *args: Any, **settings: Any) -> Factory:
    return lambda num_steps: lambda pipe: block(pipe, *args, **settings)


def _share(block: Callable[..., AbstractContextManager[Call]], share: float, **settings: Any) -> Factory:
    """Of a method that is given a step."""
    return lambda num_steps: lambda pipe: block(pipe, round(share * num_steps), **settings)


def _ladder(
    block: Callable[..., AbstractContextManager[Call]], name: str, values: Sequence[Any]
) -> list[tuple[str, Factory]]:
    return [(f"{name} {value:g}", _always(block, **{name.replace(" ", "_"): value})) for value in values]


def found(pipe: Any, name: str, num_steps: int, find: Callable[[], Any]) -> Any:
    """What a method finds out beforehand, kept in `FOUND` for the same model, scheduler and number of steps."""
    of = hashlib.sha256(next(denoiser_of(pipe).parameters()).detach().cpu().numpy().tobytes())
    # what begins with _ is diffusers' own, and its order another one in each process
    config = sorted((key, value) for key, value in pipe.scheduler.config.items() if not key.startswith("_"))
    of.update(f"{type(pipe.scheduler).__name__} {config} {num_steps}".encode())
    file = FOUND / f"{name}-{num_steps}-{of.hexdigest()[:16]}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_text(json.dumps(find()), file)
    return json.loads(file.read_text())


@contextmanager
def _budcache(pipe: Any, share: float, num_steps: int) -> Iterator[Call]:
    budget = round(share * num_steps)
    given: dict[str, Any] = {"budget": budget, "steps": num_steps, "guidance_scale": SCALE}
    steps = found(
        pipe,
        f"budcache-{budget}",
        num_steps,
        lambda: sorted(fitting.search_budcache(pipe, prompts(1, CALIBRATION_SEED), **given)),
    )
    with reuse.budcache(pipe, steps) as call:
        yield call


@contextmanager
def _ltc_accel(pipe: Any, start: float, every: int, num_steps: int) -> Iterator[Call]:
    given: dict[str, Any] = {"steps": num_steps, "guidance_scale": SCALE, "start": start, "every": every}
    gains = found(
        pipe,
        f"ltc-{start:g}-{every}",
        num_steps,
        lambda: fitting.fit_ltc_accel(pipe, prompts(8, CALIBRATION_SEED), **given),
    )
    with forecasts.ltc_accel(pipe, {int(step): gain for step, gain in gains.items()}) as call:
        yield call


@contextmanager
def _tortoise_and_hare(pipe: Any, rho: float, end: float, boost: float, num_steps: int) -> Iterator[Call]:
    given: dict[str, Any] = {"steps": num_steps, "guidance_scale": SCALE}
    ratios = found(
        pipe,
        "tortoise",
        num_steps,
        lambda: fitting.fit_tortoise_and_hare(pipe, prompts(8, CALIBRATION_SEED), **given),
    )
    with branches.tortoise_and_hare(pipe, fitting.macro_steps(ratios, rho), end, boost) as call:
        yield call


@contextmanager
def _linear_ag(pipe: Any, num_steps: int) -> Iterator[Call]:
    given: dict[str, Any] = {"steps": num_steps, "guidance_scale": SCALE}
    coefficients = found(
        pipe, "linear", num_steps, lambda: fitting.fit_linear_ag(pipe, prompts(24, CALIBRATION_SEED), **given)
    )
    with branches.linear_ag(pipe, {int(step): numbers for step, numbers in coefficients.items()}) as call:
        yield call


def _fitted(block: Callable[..., AbstractContextManager[Call]], *args: Any) -> Factory:
    return lambda num_steps: lambda pipe: block(pipe, *args, num_steps)


#: Method -> its settings in words, the authors' first, and what makes each for a number of steps.
RIVALS: Final[dict[str, list[tuple[str, Factory]]]] = {
    # whole evaluations
    "BudCache": [(f"budget {b:g}", _fitted(_budcache, b)) for b in (10 / 28, 0.8, 0.7, 0.6, 0.5, 0.4)],
    "AdaptiveDiffusion": _ladder(reuse.adaptive_diffusion, "threshold", (0.01, 0.02, 0.03, 0.05, 0.1)),
    "SADA": [
        ("its own", _always(forecasts.sada)),
        ("criterion alone", _always(forecasts.sada, interpolated=None)),
        ("criterion alone, 1 in a row", _always(forecasts.sada, interpolated=None, most=1)),
        ("criterion alone, from 0.5", _always(forecasts.sada, interpolated=None, start=0.5)),
        ("every 2nd late", _always(forecasts.sada, every=2)),
    ],
    "EasyCache": [
        *_ladder(reuse.easycache, "threshold", (0.2, 0.03, 0.05, 0.1, 0.5)),
        ("threshold 0.2, all along", _always(reuse.easycache, 0.2, 0.0, 1.0)),
    ],
    "LazyCache": [
        *_ladder(reuse.lazycache, "threshold", (0.2, 0.05, 0.1, 0.4)),
        ("threshold 0.2, all along", _always(reuse.lazycache, 0.2, 0.0, 1.0)),
    ],
    "Spectrum": [
        ("its own", _always(forecasts.spectrum)),
        ("growth 0", _always(forecasts.spectrum, growth=0.0)),
        ("growth 0, weight 1", _always(forecasts.spectrum, growth=0.0, weight=1.0)),
        ("growth 0.25, weight 1", _always(forecasts.spectrum, growth=0.25, weight=1.0)),
        ("weight 1", _always(forecasts.spectrum, weight=1.0)),
        ("growth 0, warm-up 12", _always(forecasts.spectrum, growth=0.0, warmup=12)),
    ],
    "FSampler": [
        ("h2", _always(forecasts.fsampler, 2)),
        ("h3", _always(forecasts.fsampler, 3)),
        ("h4", _always(forecasts.fsampler, 4)),
        ("h2, advanced node", _always(forecasts.fsampler, 2, last=2, sigma_aware=False, denoised=False)),
        ("h2, after each call", _always(forecasts.fsampler, 2, 1)),
        ("h3, after each call", _always(forecasts.fsampler, 3, 1)),
    ],
    "FSampler, adaptive": _ladder(forecasts.fsampler_adaptive, "tolerance", (0.1, 0.005, 0.01, 0.02, 0.05)),
    "AB-Cache": [
        ("its own", _always(forecasts.ab_cache)),
        ("every 2nd", _always(forecasts.ab_cache, every=2)),
        ("every 2nd, order 3", _always(forecasts.ab_cache, 3, every=2)),
        ("every 2nd from half on", lambda n: lambda pipe: forecasts.ab_cache(pipe, every=2, warmup=n // 2)),
        ("every 3rd", _always(forecasts.ab_cache, every=3)),
    ],
    "LTC-Accel": [
        ("its own", _fitted(_ltc_accel, 0.25, 2)),
        ("from half on", _fitted(_ltc_accel, 0.5, 2)),
        ("every 3rd", _fitted(_ltc_accel, 0.25, 3)),
        ("from 0.1 on", _fitted(_ltc_accel, 0.1, 2)),
    ],
    # branches of guidance
    "Step AG": [(f"share {p:g}", _always(branches.step_ag, p)) for p in (0.5, 0.7, 0.6, 0.4, 0.2)],
    "CFG gating": [(f"gate at {p:g}", _share(branches.cfg_gating, p)) for p in (0.5, 0.7, 0.6, 0.3, 0.2)],
    "Adaptive Guidance": _ladder(branches.adaptive_guidance, "threshold", (0.991, 0.9985, 0.9988, 0.999, 0.9991)),
    "LinearAG": [("its own", _fitted(_linear_ag))],
    "Tortoise and Hare": [
        ("its own", _fitted(_tortoise_and_hare, 1.1, 0.76, 1.2)),
        *((f"rho {r:g}, end 1, boost 1", _fitted(_tortoise_and_hare, r, 1.0, 1.0)) for r in (1.5, 2.0, 3.0, 5.0)),
        *((f"rho {r:g}", _fitted(_tortoise_and_hare, r, 0.76, 1.2)) for r in (2.0, 3.0)),
    ],
    "Guidance interval": [
        (f"{low:g} to {high:g}", _always(branches.guidance_interval, low, high))
        for low, high in ((0.28, 5.42), (0.28, 20.0), (0.5, 20.0), (1.0, 20.0), (2.0, 20.0))
    ],
    "Compress Guidance": [
        (f"share {share:g}, power {k:g}", _always(branches.compress_guidance, share, k))
        for share, k in ((0.6, 1.0), (0.6, 1.5), (0.4, 1.0), (0.4, 1.5), (0.2, 1.5))
    ]
    + [("share 0.6, counted once", _always(branches.compress_guidance, compressed=False))],
    # parts of an evaluation: `PARTS`
    "DeepCache": _ladder(parts.deepcache, "interval", (5, 2, 3)),
    "T-GATE": [
        ("gate 0.4, self-attention every 5th", _share(parts.tgate, 0.4, every=5)),
        *((f"gate {p:g}", _share(parts.tgate, p)) for p in (0.7, 0.5, 0.4, 0.2)),
    ],
    "ToMe": _ladder(parts.token_merging, "ratio", (0.5, 0.25, 0.75)),
    "PAB": [
        ("self-attention every 2nd", _always(parts.pyramid_attention_broadcast)),
        ("both every 2nd", _always(parts.pyramid_attention_broadcast, 2, 2)),
        ("self every 2nd, cross every 5th", _always(parts.pyramid_attention_broadcast, 2, 5)),
    ],
}

#: Those that skip parts of an evaluation: what they save is time.
PARTS: Final = ("DeepCache", "T-GATE", "ToMe", "PAB")

_DPM: Final = {"algorithm_type": "dpmsolver++"}
_SOLVERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {**_DPM, "solver_order": 2}),
    "DPM++ 2M (Heun)": ("DPMSolverMultistepScheduler", {**_DPM, "solver_order": 2, "solver_type": "heun"}),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {**_DPM, "solver_order": 3}),
    "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2}),
    # whose last step to no noise at all is not a number
    "UniPC 2 (bh1)": (
        "UniPCMultistepScheduler",
        {"solver_order": 2, "solver_type": "bh1", "final_sigmas_type": "sigma_min"},
    ),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
    "DEIS 2": ("DEISMultistepScheduler", {"solver_order": 2}),
    "DEIS 3": ("DEISMultistepScheduler", {"solver_order": 3}),
}
_SPACINGS: Final = {name: {"timestep_spacing": name} for name in ("leading", "linspace", "trailing")}
#: How sigmas lie, in place of timesteps; `use_beta_sigmas` needs scipy, which the extra `bench` brings.
_SIGMAS: Final = {
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "Lu": {"use_lu_lambdas": True},
}
_ENDS: Final = {"to sigma_min": {"final_sigmas_type": "sigma_min"}}


def _stock() -> dict[str, tuple[str, dict[str, Any]]]:
    made = {}
    for solver, (name, options) in _SOLVERS.items():
        takes = set(inspect.signature(getattr(diffusers, name)).parameters)
        for sigmas, lie in {"": {}, **_SIGMAS}.items():
            # Euler, Heun and LMS span what the spacing spans; the others' sigmas are of the whole table.
            spaced = not lie or name.removesuffix("DiscreteScheduler") in ("Euler", "Heun", "LMS")
            for spacing, steps in (_SPACINGS if spaced else {"": {}}).items():
                for end, last in {"": {}, **(_ENDS if sigmas in ("", "Karras") else {})}.items():
                    more = {**lie, **steps, **last}
                    if set(more) <= takes and not set(last) & set(options):
                        made[", ".join(filter(None, (solver, sigmas, spacing, end)))] = (name, {**options, **more})
    return made


#: Solver and how its steps lie -> diffusers' class, and what it changes in the model's own configuration.
STOCK: Final[dict[str, tuple[str, dict[str, Any]]]] = _stock()

_FLOW: Final = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
#: Spacings of noise are left out in the solvers that look for it in the table of another kind of model.
_OF_FLOWS: Final = {
    "Euler": ("FlowMatchEulerDiscreteScheduler", "shift", {}),
    **{
        f"Euler, {sigmas}": ("FlowMatchEulerDiscreteScheduler", "shift", _SIGMAS[sigmas])
        for sigmas in ("Karras", "exponential", "beta")
    },
    "Heun": ("FlowMatchHeunDiscreteScheduler", "shift", {}),
    **{
        solver: (_SOLVERS[solver][0], "flow_shift", {**_FLOW, **_SOLVERS[solver][1]})
        for solver in ("DPM++ 2M", "DPM++ 2M (Heun)", "DPM++ 3M", "UniPC 2", "UniPC 3", "DEIS 2", "DEIS 3")
    },
}
#: The same of models of flows, whose times are shifted. Stable Diffusion 3's shift is 3.
FLOWS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    f"{solver}, flow, shift {shift:g}": (name, {**options, called: shift})
    for solver, (name, called, options) in _OF_FLOWS.items()
    for shift in (3.0, 1.0, 2.0, 5.0)
}


def ays_timesteps(pipe: Any, num_steps: int) -> list[int]:
    """AYS, "Align Your Steps" (Sabour et al., ICML 2024, arXiv 2404.14507), the table for Stable Diffusion 1.5.

    For other numbers than its 10 the sigmas are interpolated as its authors say: linearly in the index, of their log.
    Its last level, which diffusers gives as 0, is 0.029 there.
    """
    if num_steps == 10:
        return list(AysSchedules["StableDiffusionTimesteps"])
    table = ((1 - pipe.scheduler.alphas_cumprod) / pipe.scheduler.alphas_cumprod).sqrt().log().numpy()
    known = np.log([*AysSchedules["StableDiffusionSigmas"][:-1], 0.029])
    wanted = np.interp(np.linspace(0, 1, num_steps + 1), np.linspace(0, 1, len(known)), known)[:-1]
    return np.interp(wanted, table, np.arange(len(table))).round().astype(int).tolist()


def ays(num_steps: int) -> Block:
    """The pipeline with these timesteps, for schedulers that take them (Euler, Heun, DPM-Solver++)."""

    @contextmanager
    def block(pipe: Any) -> Iterator[Call]:
        def call(*args: Any, num_inference_steps: int, **options: Any) -> Any:
            return pipe(*args, timesteps=ays_timesteps(pipe, num_inference_steps), **options)

        yield call

    return block


def sampled_by(model: Any, sampler: str) -> Any:
    """The model's weights with a sampler of `STOCK` or `FLOWS`, without a progress bar."""
    pipe = copy.copy(model)
    pipe.set_progress_bar_config(disable=True)
    if sampler in FLOWS:
        return as_flow(pipe, *FLOWS[sampler])
    kind, options = STOCK[sampler]
    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **options)
    return pipe
