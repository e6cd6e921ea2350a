"""The times of a solver that is fitted: which of those of a recorded trajectory it takes.

Let X = x / alpha over sigma / alpha (or x over sigma of a flow), of which the model tells the slope e. From the
recorded X, a step from i to j by the slopes at i and at the time k before it makes the local error

    min over a, b of  mean over images of rms(X_j - X_i - a e_i - b e_k) alpha_j sigma_j^(-1/4)

and the sum of these is least along the path that dynamic programming finds, as in GITS (Chen et al. 2024, arXiv
2405.11326), whose steps are Euler's. The power of sigma kept pocket's pictures best: late errors are seen as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from shapefirst.families.noise import LEAST_ALPHA
from shapefirst.policies.placement import Budget
from shapefirst.policies.spacing import early
from shapefirst.tuning.fitting import FollowedRuns

__all__ = ["MOST_TRIES", "best_times", "times_to_try"]

#: The power of sigma by which an error counts, see the module.
LATE: Final = -0.25
MOST_NOISE: Final = 80.0  # Karras' own, where a flow begins at no signal
#: Choices of times that are tried, at most.
MOST_TRIES: Final = 4


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
    """The recorded times nearest to Karras' (Karras et al. 2022, arXiv 2206.00364, eq. 5), down to the least noise."""
    ratios = [min(s / max(a, LEAST_ALPHA), MOST_NOISE) for a, s in recorded.scales]
    first, last = ratios[0] ** (1 / rho), ratios[-1] ** (1 / rho)
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
