"""What stands for a prediction that is not evaluated: a polynomial through the last guided steps.

Along a trajectory the predictions change smoothly, in the variable

    u_t = log(1 + sigma_t / alpha_t),           alpha_t = sqrt(abar_t), sigma_t = sqrt(1 - abar_t)

which is minus the half log-SNR lambda_t = log(alpha_t / sigma_t) in the noisy steps and goes to 0, where lambda_t goes
to infinity, in the last ones: extrapolation in lambda_t itself breaks down there. Where a schedule has no signal at all
(zero terminal SNR), alpha_t is taken for the least that diffusers itself puts in its place. A scheduler whose timesteps
are no places in a table of abar tells its sigmas: EDM's are sigma_t / alpha_t, and flow sigmas have alpha_t = 1 -
sigma_t. Flow matching schedulers' models predict a derivative by their own sigma_t, and take that.

The value at u is sum_j y_j prod_(k != j) (u - u_k) / (u_j - u_k) over the last d + 1 guided steps (Lagrange): exact for
polynomials of degree d in u. It is taken of the model's own output, noise or v.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import torch

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError

__all__ = ["Memory", "noise_level", "noise_to_signal", "scales", "weights"]

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
    """The variable u_t of this module. Raises UnsupportedPipelineError as `scales`."""
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


@lru_cache(maxsize=1024)
def weights(known: tuple[float, ...], at: float) -> tuple[float, ...]:
    """The weight of each of the values at the distinct places `known` in their polynomial's value `at` another."""
    return tuple(
        math.prod((at - other) / (one - other) for other in known[:j] + known[j + 1 :]) for j, one in enumerate(known)
    )


class Memory:
    """The last values of each of B rows, each row at places of its own.

    Args:
        rows: B.
        order: The polynomials' degree. While a row has fewer than order + 1 values, the degree that they allow.
    """

    def __init__(self, rows: int, order: int) -> None:
        self.order = order
        self._places: list[tuple[float, ...]] = [()] * rows
        self._values: torch.Tensor | None = None  # (order + 1, B, ...), the latest first

    def fork(self) -> Memory:
        """One that goes on from here on its own; values are shared, and never written to."""
        other = copy.copy(self)
        other._places = list(self._places)
        return other

    def known(self, row: int) -> int:
        """How many values of the row are remembered."""
        return len(self._places[row])

    def remember(self, rows: Sequence[int], u: float, y: torch.Tensor) -> None:
        """Add the values `y`, (len(rows), ...), at `u`. A value at the place of the row's latest replaces that."""
        y = y.detach()
        if self._values is None:
            self._values = y.new_zeros(self.order + 1, len(self._places), *y.shape[1:])
        values = self._values.clone()
        for kind in (True, False):  # Heun evaluates some places twice
            chosen = [i for i, row in enumerate(rows) if (self._places[row][:1] == (u,)) is kind]
            if not chosen:
                continue
            at = [rows[i] for i in chosen]
            if not kind:
                values[1:, at] = self._values[:-1, at]
                for row in at:
                    self._places[row] = (u, *self._places[row])[: self.order + 1]
            values[0, at] = y[chosen]
        self._values = values

    def extrapolate(self, rows: Sequence[int], u: float) -> torch.Tensor:
        """(len(rows), ...): each row's value at `u`.

        Raises:
            ShapefirstError: Nothing is remembered yet.
        """
        if self._values is None:
            raise ShapefirstError(
                "There is no guided step to extrapolate from: enter guide() before the generation begins."
            )
        table = torch.zeros(self.order + 1, len(rows), dtype=self._values.dtype)
        for i, row in enumerate(rows):
            table[: self.known(row), i] = torch.tensor(weights(self._places[row], u), dtype=table.dtype)
        table = table.to(self._values.device).reshape(*table.shape, *[1] * (self._values.ndim - 2))
        return (table * self._values[:, list(rows)]).sum(0)
