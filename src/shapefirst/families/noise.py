"""How much noise there is along a run, as each kind of scheduler tells it: alpha_t, sigma_t, and the variable

    u_t = log(1 + sigma_t / alpha_t),           or sigma_t where the model follows a flow

in which predictions are extrapolated. It falls along every run, and never rises.

    alpha_t                 sigma_t                 told by
    sqrt(abar_t)            sqrt(1 - abar_t)        a table of abar (DDIM, DDPM, PNDM, LCM), or a formula (Wuerstchen)
    1 / sqrt(1 + s^2)       s alpha_t               the run's own sigmas s (Euler, Heun, DPM-Solver, UniPC, EDM)
    1 - s                   s                       those of a flow (FlowMatch, and solvers with flow sigmas)
    cos(angle)              sin(angle)              timesteps that are angles (IPNDM, SCM)

A run's sigmas are looked up by position, since a timestep may be rounded, or be anything. Where they cannot be (a loop
of one's own has a list of its own), the timestep's value tells. Where a schedule has no signal at all (zero terminal
SNR), alpha_t is taken for the least that diffusers itself puts in its place. Models of flows predict a derivative by
sigma_t, and take that for u_t. A scheduler of which nothing can be told has evenly falling levels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

import torch

from shapefirst.errors import UnsupportedPipelineError

__all__ = ["adds_noise", "clean", "levels", "noise_to_signal", "renews_noise", "scales", "scales_along"]

#: diffusers' floor of alpha_T in the schedulers that divide by it (Euler's and DPM-Solver's rescale_betas_zero_snr).
LEAST_ALPHA: Final = 2.0**-12

#: Schedulers that put new noise in the place of all the old one in every step.
_RENEWING: Final = frozenset(
    {"CMStochasticIterativeScheduler", "FlowMatchLCMScheduler", "HeliosDMDScheduler", "LCMScheduler", "SCMScheduler"}
)
#: And those that always put it in the place of some.
_ADDING: Final = _RENEWING | {
    "CogVideoXDPMScheduler",
    "CosineDPMSolverMultistepScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DDPMWuerstchenScheduler",
    "DPMSolverSDEScheduler",
    "EulerAncestralDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "RFD4ProteinaScheduler",
    "RePaintScheduler",
    "SASolverScheduler",
    "ScoreSdeVeScheduler",
    "UnCLIPScheduler",
}
#: And one whose steps take an eta and make nothing of it.
_IGNORING: Final = frozenset({"CogVideoXDDIMScheduler"})

#: Levels are one place where they differ by less than this share.
SAME: Final = 1e-4

#: Schedulers whose timesteps are angles, in these units.
_ANGLES: Final = {"IPNDMScheduler": math.pi / 2, "CosineDPMSolverMultistepScheduler": math.pi / 2, "SCMScheduler": 1.0}


def levels(scheduler: Any, timesteps: Sequence[float]) -> list[float]:
    """u_t, see the module, of each timestep of a run: the scheduler's list or a part of it.

    It never rises, also where rounded timesteps do; along an inversion (DDIMInverse) it never falls. Places that only
    rounding tells apart (KDPM2's second call and the next step's first) are one, since slopes are divided by distances.
    """
    known = _along(scheduler, timesteps)
    if known is None:
        return [1 - place / len(timesteps) for place in range(len(timesteps))]
    u = [s for _, s in known] if _follows_flow(scheduler) else [math.log1p(_ratio(a, s)) for a, s in known]
    sign = 1 if u[0] >= u[-1] else -1

    def further(last: float, level: float) -> float:
        return level if sign * (last - level) > SAME * last else last

    return list(accumulate(u, further))


def scales(scheduler: Any, t: float) -> tuple[float, float]:
    """alpha_t and sigma_t at a timestep, see the module.

    Raises:
        UnsupportedPipelineError: The scheduler does not tell them.
    """
    known = _along(scheduler, [t])
    if known is None:
        raise UnsupportedPipelineError(
            f"The timestep {t:g} is not in the list of this {type(scheduler).__name__}, which alone tells its noise: "
            "call set_timesteps() of the pipeline's own scheduler."
        )
    return known[0]


def scales_along(scheduler: Any, timesteps: Sequence[float]) -> list[tuple[float, float]]:
    """alpha and sigma at each timestep of a run, as `levels`. Raises UnsupportedPipelineError as `scales`."""
    return _along(scheduler, timesteps) or [scales(scheduler, t) for t in timesteps]


def noise_to_signal(scheduler: Any, t: float) -> float:
    """sigma_t / alpha_t, finite also where there is no signal. Raises UnsupportedPipelineError as `scales`."""
    return _ratio(*scales(scheduler, t))


def adds_noise(scheduler: Any, eta: float | None = None) -> bool:
    """Whether its steps add noise to the latents.

    Args:
        scheduler: The scheduler, as the run has it.
        eta: What its steps are given by that name, which DDIM and TCD go by; None if they are given none.
    """
    if _is_one_of(scheduler, _ADDING | _IGNORING):
        return _is_one_of(scheduler, _ADDING)
    given = inspect.signature(scheduler.step).parameters.get("eta")
    own = _setting(scheduler, "eta") if given is None else given.default if eta is None else eta
    sde = str(_setting(scheduler, "algorithm_type")).startswith("sde")
    return sde or bool(own) or bool(_setting(scheduler, "stochastic_sampling"))


def renews_noise(scheduler: Any) -> bool:
    """Whether its steps make all of the noise anew."""
    return _is_one_of(scheduler, _RENEWING)


def clean(scheduler: Any, timesteps: Sequence[float]) -> list[tuple[float, float]] | None:
    """p_t and q_t of x0 = p_t x + q_t y at each timestep, where x is what the denoiser is given and y what it gives.

    None if x0 is not of this form, or not known to be.
    """
    known = _along(scheduler, timesteps)
    if known is None:
        return None
    if hasattr(scheduler, "precondition_outputs"):  # EDM's
        data = scheduler.config.sigma_data
        sign = -1 if scheduler.config.prediction_type == "v_prediction" else 1
        ratios = [_ratio(a, s) for a, s in known]
        return [(data**2 / math.hypot(r, data), sign * r * data / math.hypot(r, data)) for r in ratios]
    kind = _setting(scheduler, "prediction_type")
    if _follows_flow(scheduler):
        return [(1.0, s if _setting(scheduler, "invert_sigmas") else -s) for _, s in known]
    if kind == "epsilon" or hasattr(scheduler, "_alpha_cumprod"):
        return [(1 / max(a, LEAST_ALPHA), -_ratio(a, s)) for a, s in known]
    return {"v_prediction": [(a, -s) for a, s in known], "sample": [(0.0, 1.0)] * len(known)}.get(kind)


def _along(scheduler: Any, timesteps: Sequence[float]) -> list[tuple[float, float]] | None:
    """alpha and sigma at each timestep; None if they cannot be told of all."""
    listed, count = _listed(scheduler), len(timesteps)
    if listed is not None:
        whole = scheduler.timesteps.tolist()
        for start in range(len(whole) - count + 1):
            if whole[start : start + count] == list(timesteps):
                return listed[start : start + count]
    return _by_value(scheduler, timesteps) if all(map(math.isfinite, timesteps)) else None


def _listed(scheduler: Any) -> list[tuple[float, float]] | None:
    """alpha and sigma beside each entry of the scheduler's list, if its sigmas stand beside them."""
    sigmas, timesteps = (getattr(scheduler, name, None) for name in ("sigmas", "timesteps"))
    if not (isinstance(sigmas, torch.Tensor) and isinstance(timesteps, torch.Tensor)) or _has_midpoints(scheduler):
        return None
    if len(timesteps) == 0 or len(sigmas) - len(timesteps) not in (0, 1):
        return None
    inverts = _setting(scheduler, "invert_sigmas")  # Mochi's
    run = [1 - sigma if inverts else sigma for sigma in sigmas.tolist()[: len(timesteps)]]
    if run[0] < run[-1]:  # until set_timesteps() the table stands there, the other way round
        return None
    return [(1 - sigma, sigma) if _follows_flow(scheduler) else _of_ratio(sigma) for sigma in run]


def _by_value(scheduler: Any, timesteps: Sequence[float]) -> list[tuple[float, float]] | None:
    """alpha and sigma as timesteps tell them by their value, if they do.

    Between whole timesteps sigma / alpha is interpolated linearly, as diffusers' Euler and Heun do.
    """
    if _follows_flow(scheduler):
        n = scheduler.config.get("num_train_timesteps")
        if n is None or not all(0 <= t <= n for t in timesteps):
            return None
        sigmas = [1 - t / n if _setting(scheduler, "invert_sigmas") else t / n for t in timesteps]
        return [(1 - sigma, sigma) for sigma in sigmas]
    if unit := next((_ANGLES[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in _ANGLES), None):
        return [(max(math.cos(unit * t), 0.0), math.sin(unit * t)) for t in timesteps]
    if hasattr(scheduler, "_alpha_cumprod"):  # Wuerstchen's
        return [_of_abar(float(abar)) for abar in scheduler._alpha_cumprod(torch.tensor(timesteps), "cpu")]
    if not hasattr(scheduler, "alphas_cumprod") or _setting(scheduler, "timestep_type") == "continuous":
        return None
    table = scheduler.alphas_cumprod.tolist()
    return [_in_table(table, min(max(t, 0), len(table) - 1)) for t in timesteps]


def _in_table(table: Sequence[float], t: float) -> tuple[float, float]:
    below, above = math.floor(t), math.ceil(t)
    if below == above:
        return _of_abar(table[below])
    low, high = (_ratio(*_of_abar(table[place])) for place in (below, above))
    return _of_ratio(low + (t - below) * (high - low))


def _is_one_of(scheduler: Any, names: frozenset[str]) -> bool:
    return any(base.__name__ in names for base in type(scheduler).__mro__)


def _follows_flow(scheduler: Any) -> bool:
    """Whether its sigmas are those of a flow."""
    if hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler, "sigmas"):
        return bool(_setting(scheduler, "use_flow_sigmas"))
    return "sigma_max" not in _settings_of(
        scheduler.__class__
    )  # which EDM's and the other variance-exploding ones have


def _has_midpoints(scheduler: Any) -> bool:
    """Whether a step's second call is half-way to the next step, where the list of sigmas has another entry."""
    return hasattr(scheduler, "sigmas_interpol") or hasattr(scheduler, "mid_point_sigma")


def _of_abar(abar: float) -> tuple[float, float]:
    return math.sqrt(abar), math.sqrt(1 - abar)


def _of_ratio(ratio: float) -> tuple[float, float]:
    """alpha and sigma of a sigma / alpha."""
    a = 1 / math.sqrt(1 + min(ratio, 1 / LEAST_ALPHA) ** 2)
    return a, min(ratio, 1 / LEAST_ALPHA) * a


def _ratio(a: float, s: float) -> float:
    return s / max(a, LEAST_ALPHA)


def _setting(scheduler: Any, name: str) -> Any:
    """An entry of the configuration, or None: from_config() keeps those of other classes in it, without effect."""
    return scheduler.config.get(name) if name in _settings_of(scheduler.__class__) else None


@lru_cache(maxsize=64)
def _settings_of(scheduler_class: type) -> frozenset[str]:
    return frozenset(inspect.signature(scheduler_class).parameters)
