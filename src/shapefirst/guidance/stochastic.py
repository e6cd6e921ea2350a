"""What is extrapolated where a sampler adds noise: the clean latents that a prediction implies,

    x0 = p_t x_t + q_t y_t              (`families.noise.clean`)

held at those of the last guided step, and turned back into the model's output y_t by the x_t of the call itself.

The model's output y is as rough as the noise in x_t, part of which was drawn since the last guided step: an
extrapolation knows nothing of it, and a polynomial makes more of it than there is. The noise is in x_t, though, and x0
does not hold it. Along the sampler's own equation E[x0 | x_t] is a martingale, of which the best forecast is its latest
value: no polynomial of a higher degree, and no mean of several, did better. Where a branch runs in every step, it sees
the noise itself, and the difference of the two is held as it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shapefirst.families.noise import adds_noise, renews_noise
from shapefirst.policies.auto import Policy

__all__ = ["clean_of", "is_stochastic", "output_of"]


def is_stochastic(scheduler: Any, policy: Policy, eta: float | None = None) -> bool:
    """Whether a run adds noise, see `families.noise.adds_noise`; warns of what a policy cannot follow well."""
    if policy.order is not None and renews_noise(scheduler):
        warnings.warn(
            f"{type(scheduler).__name__} makes all of its noise anew in every step, so that extrapolated predictions "
            "stray far from the fully guided picture: take a sampler that adds no noise where the picture shall stay.",
            stacklevel=2,
        )
    return adds_noise(scheduler, eta)


def clean_of(y: Tensor, x: Tensor, scales: tuple[float, float]) -> Tensor:
    """x0 of the model's output y, (images, ...), and what it was given, x; what y has beyond x stays (its variance)."""
    p, q = scales
    return _paired(lambda y, x: p * x + q * y, y, x)


def output_of(x0: Tensor, x: Tensor, scales: tuple[float, float]) -> Tensor:
    """The output that implies x0: `clean_of` the other way round."""
    p, q = scales
    return _paired(lambda x0, x: (x0 - p * x) / q, x0, x)


def _paired(change: Callable[[Tensor, Tensor], Tensor], y: Tensor, x: Tensor) -> Tensor:
    """`change` of the entries that both have: one may have more channels, for a mask or a variance; else `y`."""
    x = x.to(y.dtype)
    if y.shape == x.shape:
        return change(y, x)
    apart = [d for d, sizes in enumerate(zip(y.shape, x.shape, strict=False)) if len(set(sizes)) > 1]
    if y.ndim != x.ndim or len(apart) > 1 or apart == [0]:
        return y
    (d,) = apart
    most = min(y.shape[d], x.shape[d])
    common = change(y.narrow(d, 0, most), x.narrow(d, 0, most))
    return torch.cat([common, y.narrow(d, most, y.shape[d] - most)], d)
