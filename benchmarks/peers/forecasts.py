"""Methods that skip whole evaluations, both branches at once, and foretell what they would have given.

Where a default is a step of the authors' 50, it is a share of the steps here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .loop import Call, Jump, Now, Rule, lagrange, mixed, peer, sample

__all__ = ["ab_cache", "chebyshev", "fsampler", "fsampler_adaptive", "ltc_accel", "sada", "spectrum"]


@peer
def sada(
    start: float = 0.2, end: float = 0.94, most: int = 4, every: int = 4, interpolated: float | None = 0.48
) -> Rule:
    """SADA, "Stability-guided Adaptive Diffusion Acceleration" (Jiang et al., ICML 2025, arXiv 2507.17135).

    Its criterion and both of its predictions, as in its code for DPM-Solver++, of whose demonstration the defaults are
    (steps 10 to 47 of 50, polynomials from 24 on); what it does to tokens within an evaluation is left out. With f the
    slope of the probability flow as the code has it, a step is skipped if the error of a third-order prediction of x,
    times the second difference of f, is not positive on average over the batch. Then x0 is that of the last eps at the
    predicted x. From ``interpolated`` on every ``every``-th step is evaluated, whatever the criterion says, and x0
    follows the polynomial through those at the last four of them.
    """
    outputs: list[Tensor] = []
    slopes: list[Tensor] = []
    nodes: list[tuple[int, Tensor]] = []
    before: Tensor | None = None
    in_a_row = 0

    def predicted(now: Now) -> Tensor | None:
        """x0, or None if the step is to be evaluated."""
        nonlocal in_a_row
        if len(slopes) < 3:
            return None
        assert before is not None
        last, f0, f1, f2 = now.step - 1, slopes[-1], slopes[-2], slopes[-3]
        x = before - (0.625 * f0 + 0.75 * f1 - 0.375 * f2) / now.num_steps
        late = now.num_steps if interpolated is None else every * round(interpolated * now.num_steps / every)
        open_ = max(round(start * now.num_steps), 3) <= last < round(end * now.num_steps)
        if in_a_row < most and open_:
            if last < late and float(((now.x - x) * (f0 - 2 * f1 + f2)).mean()) <= 0:
                in_a_row += 1
                return now.x0(outputs[-1], x)
            if last >= late and last % every != 0:
                in_a_row += 1
                return mixed(lagrange([step for step, _ in nodes[-4:]], now.step), [x0 for _, x0 in nodes[-4:]])
        in_a_row = 0
        return None

    def output(now: Now) -> Tensor:
        nonlocal before
        x0 = predicted(now)
        outputs[:] = [now.guided() if x0 is None else outputs[-1]]
        out = outputs[-1] if x0 is None else now.output(x0)
        if now.step % every == 1 % every:
            nodes.append((now.step, now.x0(outputs[-1]) if x0 is None else x0))
        if now.is_flow:
            slope = (now.noise - now.next_noise) * now.num_steps * outputs[-1]
        else:
            slope = 0.5 * now.beta * now.num_steps * (now.eps(outputs[-1]) / now.sigma - now.x)
        slopes[:] = [*slopes[-2:], slope]
        before = now.x
        return out

    return output


@contextmanager
def spectrum(
    pipe: Any,
    weight: float = 0.5,
    degree: int = 4,
    ridge: float = 0.1,
    window: float = 2.0,
    growth: float = 0.75,
    warmup: int = 5,
) -> Iterator[Call]:
    """Spectrum, "Adaptive Spectral Feature Forecasting for Diffusion Sampling Acceleration" (Han et al., CVPR 2026,
    arXiv 2603.01623), as in its code for SDXL, whose defaults these are (bfloat16 there).

    What enters the U-Net's last normalization is forecast, and the two layers after it are computed in every step: a
    Chebyshev ridge regression over all evaluated steps, mixed with the line through the last two. After ``warmup``
    steps every ``window``-th is evaluated, and the window grows by ``growth`` each time.
    """
    seen: list[Tensor] = [torch.zeros(0)]
    unet = pipe.unet
    handle = unet.conv_norm_out.register_forward_pre_hook(lambda module, args: seen.__setitem__(0, args[0]))

    def make() -> Rule:
        steps: list[int] = []
        features: list[Tensor] = []
        width, skipped = window, 0

        def output(now: Now) -> Tensor:
            nonlocal width, skipped
            late = now.step >= warmup
            if not late or (skipped + 1) % math.floor(width) == 0:
                width, skipped = width + late * growth, 0
                out = now.guided()
                steps.append(now.step)
                features.append(seen[0])
                return out
            skipped += 1
            weights = [weight * c for c in chebyshev(steps, now.step, now.num_steps, degree, ridge)]
            for place, c in zip((-1, -2), lagrange(steps[-1:-3:-1], now.step), strict=False):
                weights[place] += (1 - weight) * c
            out = unet.conv_out(unet.conv_act(unet.conv_norm_out(mixed(weights, features))))
            if now.is_flow:
                out = unet.velocity(torch.cat([now.x, now.x]), now.t, out)
            return now.mix(*out.chunk(2))

        return output

    try:
        yield partial(sample, pipe, make)
    finally:
        handle.remove()


def chebyshev(steps: Sequence[int], at: int, num_steps: int, degree: int, ridge: float) -> list[float]:
    """How much each step's value counts in the ridge regression on T_0 .. T_degree of 2 step / num_steps - 1."""

    def basis(places: Sequence[int]) -> Tensor:
        tau = 2 * torch.tensor(places, dtype=torch.float64) / num_steps - 1
        return torch.cos(torch.arange(degree + 1) * torch.arccos(tau)[:, None])

    design = basis(steps)
    gram = design.T @ design + ridge * torch.eye(degree + 1, dtype=torch.float64)
    return (basis([at]) @ torch.linalg.solve(gram, design.T))[0].tolist()


class _Past:
    """FSampler's history of real calls: denoised, or its "epsilon" (denoised minus latents), by sigma / alpha."""

    def __init__(self, *, sigma_aware: bool, denoised: bool) -> None:
        self.sigma_aware, self.denoised = sigma_aware, denoised
        self.real: list[tuple[float, Tensor]] = []

    def learn(self, now: Now, out: Tensor) -> Tensor:
        x0 = now.x0(out)
        self.real.append((now.noise, x0 if self.denoised else x0 - now.linear))
        return out

    def x0(self, now: Now, points: int) -> Tensor:
        last = self.real[-points:]
        nodes: list[float] = [noise for noise, _ in last]
        if self.sigma_aware and len(set(nodes)) == len(nodes):
            weights = lagrange(nodes, now.noise)
        else:
            weights = lagrange(range(-len(last), 0), 0)
        value = mixed(weights, [value for _, value in last])
        return value if self.denoised else now.linear + value


@peer
def fsampler(
    order: int = 2,
    calls: int | None = None,
    *,
    first: int = 2,
    last: int = 3,
    sigma_aware: bool = True,
    denoised: bool = True,
) -> Rule:
    """FSampler, "Training Free Acceleration of Diffusion Sampling via Epsilon Extrapolation" (Vladimir 2025, arXiv
    2511.09180), the ComfyUI node: h2, h3 and h4, with the defaults of the simple node.

    After ``calls`` real calls (as many as the order) one is skipped: the polynomial through the last ``order`` real
    ones, in sigma, stands in. ``sigma_aware=False, denoised=False`` is the advanced node's default, in the index. Its
    "learning" factor hardly leaves 1 with the simple node's memory of 0.9999 and is left out, and the solver is the
    pipeline's, not the node's own of the same name.
    """
    past, calls = _Past(sigma_aware=sigma_aware, denoised=denoised), order if calls is None else calls

    def output(now: Now) -> Tensor:
        place = (now.step - max(first, order)) % (calls + 1)
        if first <= now.step < now.num_steps - last and len(past.real) >= order and place == calls:
            return now.output(past.x0(now, order))
        return past.learn(now, now.guided())

    return output


@peer
def fsampler_adaptive(
    tolerance: float = 0.1,
    *,
    anchor: int = 4,
    most: int = 4,
    first: int = 2,
    last: int = 3,
    sigma_aware: bool = True,
    denoised: bool = True,
) -> Rule:
    """FSampler's adaptive mode (see `fsampler`): a call is skipped while its h3 and h2 agree on the next latents.

    They differ by at most ``tolerance`` of the batch's root mean square, after an Euler step as its gate for Euler and
    DDIM has it; 0.1 is fixed in its code. Every ``anchor``-th call is real.
    """
    past, skipped = _Past(sigma_aware=sigma_aware, denoised=denoised), 0

    def output(now: Now) -> Tensor:
        nonlocal skipped
        free = first <= now.step < now.num_steps - last and len(past.real) >= 3 and skipped < most
        if free and (anchor == 0 or (now.step - first) % anchor):
            x, ratio = now.linear, now.next_noise / now.noise
            high, low = past.x0(now, 3), past.x0(now, 2)
            after_high, after_low = (x0 + ratio * (x - x0) for x0 in (high, low))
            if (after_high - after_low).square().mean().sqrt() <= tolerance * after_high.square().mean().sqrt():
                skipped += 1
                return now.output(high)
        skipped = 0
        return past.learn(now, now.guided())

    return output


@peer
def ab_cache(order: int = 2, every: int = 6, warmup: int = 5) -> Rule:
    """AB-Cache, "Training-Free Acceleration of Diffusion Models via Adams-Bashforth Cached Feature Reuse" (Yu et al.
    2025, arXiv 2504.10540).

    The outputs of consecutive steps are taken for linearly related, with the error of order k that its k-step method
    has: y_n = sum_j (-1)^(j+1) C(k, j) y_{n-j}, of evaluated ones. The interval, the warm-up and the order are those
    of its script for FLUX, as others who ported it tell: the code was not to be had.
    """
    past: list[Tensor] = []

    def output(now: Now) -> Tensor:
        if len(past) < 2 or now.step < warmup or now.step % every == 0:
            past.append(now.guided())
            return past[-1]
        last = past[-order:]
        return mixed(lagrange(range(-len(last), 0), 0), last)

    return output


@peer
def ltc_accel(gains: Mapping[int, float]) -> Rule:
    """LTC-Accel, "Accelerating Diffusion Sampling via Exploiting Local Transition Coherence" (Zhu et al., ICCV 2025,
    arXiv 2503.09675): skipped steps move the latents on as far as the step before did, times a number of their own.

    They go past the solver, as in its code: a multistep solver has not seen them afterwards.
    """
    before: Tensor | None = None

    def output(now: Now) -> Tensor | Jump:
        nonlocal before
        if now.step in gains and before is not None:
            jump = Jump(now.latents + gains[now.step] * (now.latents - before))
            before = now.latents
            return jump
        before = now.latents
        return now.guided()

    return output
