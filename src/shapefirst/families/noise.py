"""How much noise there is at a timestep, as each kind of scheduler tells it: alpha_t, sigma_t, and

    u_t = log(1 + sigma_t / alpha_t),           alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t)

the variable in which predictions are extrapolated. Where a schedule has no signal at all (zero terminal SNR), alpha_t
is taken for the least that diffusers itself puts in its place. A scheduler whose timesteps are no places in a table of
abar tells its sigmas: EDM's are sigma_t / alpha_t, and flow sigmas have alpha_t = 1 - sigma_t. Models of flow matching
schedulers predict a derivative by their own sigma_t, and take that for u_t.
"""

from __future__ import annotations

import inspect
import math
from functools import lru_cache
from typing import Any, Final

import torch

from shapefirst.errors import UnsupportedPipelineError

__all__ = ["noise_level", "noise_to_signal", "scales"]

#: diffusers' floor of alpha_T in the schedulers that divide by it (Euler's and DPM-Solver's rescale_betas_zero_snr).
LEAST_ALPHA: Final = 2.0**-12


def scales(scheduler: Any, t: float) -> tuple[float, float]:
    """alpha_t = sqrt(abar_t) and sigma_t = sqrt(1 - abar_t), or what the scheduler's sigmas say in their place.

    Between whole timesteps sigma / alpha is interpolated linearly, as diffusers' Euler and Heun do.

    Raises:
        UnsupportedPipelineError: The timestep is looked up among the scheduler's own, and is not one of them.
    """
    if _matches_flow(scheduler) or _setting(scheduler, "use_flow_sigmas"):
        sigma = t / scheduler.config.num_train_timesteps if _matches_flow(scheduler) else _listed_sigma(scheduler, t)
        return 1 - sigma, sigma
    if not hasattr(scheduler, "alphas_cumprod") or _is_continuous(scheduler):
        return _of_ratio(_listed_sigma(scheduler, t))
    abar = scheduler.alphas_cumprod.cpu()
    below, above = math.floor(t), math.ceil(t)
    if below == above:
        return math.sqrt(abar[below]), math.sqrt(1 - abar[below])
    low, high = (math.sqrt((1 - abar[i]) / max(abar[i], LEAST_ALPHA**2)) for i in (below, above))
    return _of_ratio(low + (t - below) * (high - low))


def noise_level(scheduler: Any, t: Any) -> float:
    """u_t, see the module. Raises UnsupportedPipelineError as `scales`."""
    at = float(torch.as_tensor(t).flatten()[0])
    if _matches_flow(scheduler):
        return at / scheduler.config.num_train_timesteps
    return math.log1p(noise_to_signal(scheduler, at))


def noise_to_signal(scheduler: Any, t: float) -> float:
    """sigma_t / alpha_t, finite also where there is no signal. Raises UnsupportedPipelineError as `scales`."""
    a, s = scales(scheduler, t)
    return s / max(a, LEAST_ALPHA)


def _matches_flow(scheduler: Any) -> bool:
    """Whether it is a solver for models trained by flow matching, whose timesteps are N sigma."""
    return not hasattr(scheduler, "alphas_cumprod") and _setting(scheduler, "sigma_data") is None


def _of_ratio(ratio: float) -> tuple[float, float]:
    """alpha and sigma of a sigma / alpha."""
    a = 1 / math.sqrt(1 + ratio**2)
    return a, ratio * a


def _is_continuous(scheduler: Any) -> bool:
    """Whether timesteps are log(sigma) / 4, as diffusers' Euler has them for EDM's models."""
    return _setting(scheduler, "timestep_type") == "continuous" and scheduler.config.prediction_type == "v_prediction"


def _setting(scheduler: Any, name: str) -> Any:
    """An entry of the configuration, or None: from_config() keeps those of other classes in it, without effect."""
    return scheduler.config.get(name) if name in _settings_of(scheduler.__class__) else None


@lru_cache(maxsize=64)
def _settings_of(scheduler_class: type) -> frozenset[str]:
    return frozenset(inspect.signature(scheduler_class).parameters)


def _listed_sigma(scheduler: Any, t: float) -> float:
    """What stands in the scheduler's list of sigmas beside a timestep."""
    values = scheduler.timesteps.tolist()
    if t not in values:
        raise UnsupportedPipelineError(
            f"The timestep {t:g} is not in the list of this {type(scheduler).__name__}, which alone tells its noise: "
            "call set_timesteps() of the pipeline's own scheduler."
        )
    return float(scheduler.sigmas[values.index(t)])
