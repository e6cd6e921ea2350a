"""A solver's times and weights, fitted to trajectories that were recorded on calibration prompts.

A trajectory is what is to be followed: the fully guided run of N steps that shall be kept, or one of so many steps that
it has converged. Of its times the M best are chosen, and then each step's weights, see `guidance.fitted`.

Times. Let X = x / alpha over sigma / alpha (or x over sigma of a flow), of which the model tells the slope e. From the
recorded X, a step from i to j by the slopes at i and at the time k before it makes the local error

    min over a, b of  mean over images of rms(X_j - X_i - a e_i - b e_k) alpha_j sigma_j^(-1/4)

and the sum of these is least along the path that dynamic programming finds, as in GITS (Chen et al. 2024, arXiv
2405.11326), whose steps are Euler's. The power of sigma kept pocket's pictures best: late errors are seen as they are.

Weights. The solver takes its steps on the calibration prompts, from its own latents: of each one the weights are those
that bring the latents nearest to the trajectory, before the next one is taken. Nearest is the least sum over images of
the rms distance (least squares, reweighted by what is left of each image: Weiszfeld 1937): by its square, few images
that have gone astray would rule the weights of all. On the way to the converged picture an error counts by the power
that clean latents have at its frequency, for the model takes it for signal, and paints it, where signal is strong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from shapefirst.families import Embeddings
from shapefirst.families.layout import denoiser_of
from shapefirst.families.noise import LEAST_ALPHA, clean, scales_along
from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.guidance.follow import guided_prediction
from shapefirst.measure.spectrum import energies, modes, radial_bands
from shapefirst.models.catalogue import is_flow
from shapefirst.policies.placement import Budget, early
from shapefirst.policies.schedule import Branch
from shapefirst.sampling.loop import Step
from shapefirst.sampling.step import model_output
from shapefirst.training.noise import coloured

__all__ = ["MOST_TRIES", "FollowedRuns", "best_times", "fitted_solver", "followed_runs", "times_to_try"]

#: Clean latents that a step weighs: its own and those of the steps before.
HISTORY: Final = 3
#: The power of sigma by which an error counts, see the module.
LATE: Final = -0.25
MOST_NOISE: Final = 80.0  # Karras' own, where a flow begins at no signal
#: Choices of times that are tried, at most.
MOST_TRIES: Final = 4
#: By which the weights are drawn to DDIM's, as a share of each feature's own size.
RIDGE: Final = 1e-4
#: How often least squares are solved, each time with an image by what is left of it; what is added to that, as a share
#: of the mean, so that no image counts without bound.
ROUNDS: Final = 10
FLOOR: Final = 1e-3


@dataclass(frozen=True)
class FollowedRuns:
    """Fully guided runs of B images in S steps of one call each.

    Attributes:
        prompts: Of the B images.
        timesteps: S, noise first.
        scales: alpha and sigma at them (`families.noise`).
        clean: p and q at them.
        first_scale: By which the first noise is multiplied.
        latents: (S + 1, B, C, H, W) as the denoiser is given them, and the last ones.
        predictions: (S, B, C, H, W), the clean latents that the predictions imply.
        flow: The model follows a flow.
        prediction_type: What the model predicts.
        guidance_scale: w.
    """

    prompts: Embeddings
    timesteps: list[float]
    scales: list[tuple[float, float]]
    clean: list[tuple[float, float]]
    first_scale: float
    latents: Tensor
    predictions: Tensor
    flow: bool
    prediction_type: str
    guidance_scale: float

    def slopes(self, x: Tensor, predicted: Tensor, step: int) -> Tensor:
        """Of X: the noise, or a flow's derivative."""
        a, s = self.scales[step]
        return (x - (1.0 if self.flow else a) * predicted) / s

    @classmethod
    def joined(cls, parts: Sequence[FollowedRuns]) -> FollowedRuns:
        """Those of several batches as one."""
        first = parts[0]
        if len(parts) == 1:
            return first
        prompts = {
            name: torch.cat([getattr(part.prompts, name) for part in parts])
            for name, value in vars(first.prompts).items()
            if value is not None
        }
        return replace(
            first,
            prompts=Embeddings(**prompts),
            latents=torch.cat([part.latents for part in parts], 1),
            predictions=torch.cat([part.predictions for part in parts], 1),
        )


def followed_runs(steps: Sequence[Step], guidance_scale: float) -> FollowedRuns:
    """Of the steps of a run by `denoise`, kept on the CPU."""
    solver, timesteps = steps[0].solver, [float(step.calls[0].t) for step in steps]
    pairs = clean(solver, timesteps)
    assert pairs is not None, "denoise() has told x0"
    flow = is_flow(solver.config)
    calls = [step.calls[0] for step in steps]
    held, given = steps[0].x_t.float(), calls[0].x_in.float()
    of_noise = float(getattr(solver, "init_noise_sigma", 1.0)) * float((held * given).sum() / held.square().sum())
    predictions = [(p * c.x_in.float() + q * c.guided.float()).cpu() for (p, q), c in zip(pairs, calls, strict=True)]
    return FollowedRuns(
        steps[0].prompts,
        timesteps,
        scales_along(solver, timesteps),
        pairs,
        of_noise,
        torch.stack([*(call.x_in.float().cpu() for call in calls), steps[-1].x_next.float().cpu()]),
        torch.stack(predictions),
        flow,
        "flow_prediction" if flow else str(solver.config.get("prediction_type", "epsilon")),
        guidance_scale,
    )


def times_to_try(recorded: FollowedRuns, steps: int, *, keep: bool) -> list[list[int]]:
    """Which of the recorded times a solver could take; the choice is by what it then makes of the pictures.

    To keep a picture: all of the first steps, where it is decided, and fewer of the later ones (`policies.placement`),
    or as many of all.
    For the best one: those of the module, Karras', and between the two: the former lead to the nearest typical picture,
    the latter, which begin with shorter steps, keep those together that a step too long turns into others.
    """
    tries = [best_times(recorded, steps)]
    count = len(recorded.timesteps)
    if keep:
        tries += [sorted(early(count, steps, first)) for first in (Budget.FIRST, 0.5)]
        tries.append([n * count // steps for n in range(steps)])
    else:
        tries += [_between(tries[0], _karras(recorded, steps, rho)) for rho in (2.0, 3.0)]
        tries.append(_karras(recorded, steps, 3.0))
    return [list(one) for one in dict.fromkeys(tuple(one) for one in tries if len(one) == steps)]


def _karras(recorded: FollowedRuns, steps: int, rho: float) -> list[int]:
    """The recorded times nearest to Karras' (Karras et al. 2022, arXiv 2206.00364, eq. 5), down to twice the least."""
    ratios = [min(s / max(a, LEAST_ALPHA), MOST_NOISE) for a, s in recorded.scales]
    first, last = ratios[0] ** (1 / rho), min(2 * ratios[-1], ratios[0]) ** (1 / rho)
    wanted = [(first + place / max(steps - 1, 1) * (last - first)) ** rho for place in range(steps)]
    return sorted({min(range(len(ratios)), key=lambda n: abs(math.log(ratios[n] / sigma))) for sigma in wanted} | {0})


def _between(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The positions half-way."""
    return sorted({round((i + j) / 2) for i, j in zip(one, other, strict=False)})


def best_times(recorded: FollowedRuns, steps: int) -> list[int]:
    """`steps` of the S recorded times, the first among them; see the module."""
    count = len(recorded.timesteps)
    if steps >= count:
        return list(range(count))
    local = _local_errors(recorded)
    best = np.full((count, count), np.inf)  # of paths whose last two times are k and i
    best[0, 1:] = local[0, 0, 1:count]
    came_from = []
    for _ in range(steps - 2):
        through = best[:, :, None] + local[:, :, :count]
        came_from.append(through.argmin(0))
        best = through.min(0)
    if steps == 1:
        return [0]
    k, i = np.unravel_index((best + local[:, :, count]).argmin(), best.shape)
    path = [int(i), int(k)]
    for before in reversed(came_from):
        path.append(int(before[path[-1], path[-2]]))
    return path[::-1]


def _local_errors(recorded: FollowedRuns) -> np.ndarray:
    """(k, i, j), where j = S is the end; the first step has k = i = 0. Infinite where the order is another."""
    count = len(recorded.timesteps)
    scale = [1.0 if recorded.flow else a for a, _ in recorded.scales] + [1.0]
    least = recorded.scales[-1][1]
    weight = np.array(
        [c * (s + least) ** LATE for c, (_, s) in zip(scale, [*recorded.scales, (1.0, 0.0)], strict=True)]
    )
    position = torch.stack([x / c for x, c in zip(recorded.latents, scale, strict=True)])
    slope = torch.stack(
        [
            recorded.slopes(x, d, n)
            for n, (x, d) in enumerate(zip(recorded.latents[:-1], recorded.predictions, strict=True))
        ]
    )
    vectors = torch.cat([slope, position]).flatten(2).transpose(0, 1).double()  # (B, 2 S + 1, values)
    gram = torch.stack([v @ v.T for v in vectors]).numpy() / vectors.shape[-1]
    local = np.full((count, count, count + 1), np.inf, dtype=np.float32)
    for i in range(count):
        k, j = np.arange(i) if i else np.array([0]), np.arange(i + 1, count + 1)
        x_i, x_j = count + i, count + j
        yy = gram[:, x_j, x_j] - 2 * gram[:, x_j, x_i] + gram[:, x_i, x_i][:, None]
        yi = gram[:, i, x_j] - gram[:, i, x_i][:, None]
        yk = gram[:, k][:, :, x_j] - gram[:, k, x_i][:, :, None]
        ii, kk, ik = gram[:, i, i], gram[:, k, k], gram[:, i, k]
        if i == 0:
            a, b = (yi.sum(0) / ii.sum())[None], np.zeros((1, len(j)))
        else:
            det = (ii.sum() * kk.sum(0) - ik.sum(0) ** 2 + 1e-9 * ii.sum() * kk.sum(0))[:, None]
            a = (kk.sum(0)[:, None] * yi.sum(0) - ik.sum(0)[:, None] * yk.sum(0)) / det
            b = (ii.sum() * yk.sum(0) - ik.sum(0)[:, None] * yi.sum(0)) / det
        square = yy[:, None] - 2 * a * yi[:, None] - 2 * b * yk + 2 * a * b * ik[:, :, None]
        square = square + a**2 * ii[:, None, None] + b**2 * kk[:, :, None]
        local[k[:, None], i, j] = np.sqrt(np.maximum(square, 0)).mean(0) * weight[j]
    return local


@torch.no_grad()
def fitted_solver(
    pipe: Any,
    recorded: FollowedRuns,
    times: Sequence[int],
    *,
    by_signal: bool,
    batch_size: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[FittedScheduler, Tensor]:
    """The solver through these of the recorded times, and where it takes the calibration's images: (B, C, H, W).

    Args:
        pipe: The pipeline.
        recorded: What is to be followed.
        times: Positions among the recorded ones, from 0 on.
        by_signal: Errors count by the power of clean latents at their frequency, and not all alike.
        batch_size: Images in a call of the denoiser.
        tick: Called after every step.
    """
    x = recorded.latents[0]
    signal = _signal(recorded.latents[-1]) if by_signal else None
    past: list[Tensor] = []
    of_latents, weights = [], []
    for place, n in enumerate(times):
        ends = place + 1 == len(times)
        p, q = recorded.clean[n]
        past = [p * x + q * _guided(pipe, recorded, x, n, batch_size), *past][:HISTORY]
        target = recorded.latents[-1 if ends else times[place + 1]]
        after = (1.0, 0.0) if ends else recorded.scales[times[place + 1]]
        heard, *heard_past, goal = (coloured(value, signal) for value in (x, *past, target))
        own, row = _weights(recorded, heard, heard_past, goal, n, after)
        of_latents.append(own)
        weights.append(row)
        x = own * x + sum(w * d for w, d in zip(row, past, strict=True))
        tick()
    scheduler = FittedScheduler(
        [recorded.timesteps[n] for n in times],
        [s if recorded.flow else s / a for a, s in (recorded.scales[n] for n in times)],
        [recorded.clean[n] for n in times],
        of_latents,
        weights,
        init_noise_sigma=recorded.first_scale,
        use_flow_sigmas=recorded.flow,
        prediction_type=recorded.prediction_type,
    )
    return scheduler, x


def _signal(final: Tensor) -> Tensor | None:
    """(C, ..., H, W): the rms of clean latents at the frequencies of each channel, or None of those without a place."""
    if final.ndim < 4:  # tokens
        return None
    bands = radial_bands(*final.shape[-2:])
    return (energies(final, bands).mean(0) / modes(bands)).sqrt()[..., bands]


def _weights(
    recorded: FollowedRuns, x: Tensor, past: Sequence[Tensor], target: Tensor, step: int, after: tuple[float, float]
) -> tuple[float, list[float]]:
    """l and w of one step: DDIM's, and what is added to bring x to the target."""
    (a, s), (a_next, s_next) = recorded.scales[step], after
    along = 1.0 if recorded.flow else a
    slope = recorded.slopes(x, past[0], step)
    features = [slope, past[0], *(d - e for d, e in pairwise(past))]
    noise = (x - a * past[0]) / s
    rest = (target - (a_next * past[0] + s_next * noise)).flatten(1).double()
    of_slope, of_latest, *of_changes = _combined(torch.stack([f.flatten(1).double() for f in features]), rest)
    row = [0.0] * len(past)
    row[0] = a_next - s_next * a / s - of_slope * along / s + of_latest
    for j, weight in enumerate(of_changes):
        row[j] += weight
        row[j + 1] -= weight
    return s_next / s + of_slope / s, row


def _combined(features: Tensor, rest: Tensor) -> list[float]:
    """The sum of F features (F, B, values) that is nearest to (B, values), by the sum of B images' rms distances."""
    count = torch.ones(len(rest), dtype=rest.dtype)  # how much each image counts
    for _ in range(ROUNDS):
        counted = features * count[:, None]
        normal = torch.einsum("fbv,gbv->fg", counted, features)
        aim = torch.einsum("fbv,bv->f", counted, rest)
        found = torch.linalg.solve(normal + RIDGE * normal.diagonal().diag(), aim)
        left = (rest - torch.einsum("f,fbv->bv", found, features)).square().mean(1).sqrt()
        count = 1 / (left / left.mean().clamp(min=torch.finfo(left.dtype).tiny) + FLOOR)
    return [float(one) for one in found]


def _guided(pipe: Any, recorded: FollowedRuns, x: Tensor, step: int, batch_size: int) -> Tensor:
    """eps_hat in the model's own terms for latents of all images."""
    device, everyone = pipe._execution_device, range(len(x))
    t = torch.tensor(recorded.timesteps[step], device=device)
    given = x.to(device, recorded.prompts.text.dtype)
    wanted: list[tuple[Tensor, Branch, Sequence[int]]] = [(given, "null", everyone), (given, "text", everyone)]
    null, text = model_output(pipe, denoiser_of(pipe), wanted, t, recorded.prompts, 2 * batch_size)
    return guided_prediction({"null": null.float(), "text": text.float()}, recorded.guidance_scale).cpu()
