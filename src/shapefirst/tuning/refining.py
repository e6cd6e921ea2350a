"""All weights of a fitted solver once more, together.

`tuning.fitting` brings each step nearest to the trajectory before the next one is taken: what its error does to the
steps after it has no say. So all weights of a fitted solver move once, together, by what they do to the last latents:
with z = X_end - x_end what is missing, and J_f the change of x_end where a step's latents are moved along one of its
features f, of which each has the rms 1,

    min over c of  sum over images of  rms(z - sum_f c_f J_f)

a step of Gauss and Newton's, whose J is measured by running on from latents that are moved a little. There is one step
only: from where it leads a second one follows the calibration's own images, and others are further off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.tuning.fitting import (
    HISTORY,
    FollowedRuns,
    Weights,
    added,
    features,
    inner_products,
    nearest,
    seen,
    taken,
)

__all__ = ["FEWEST_IMAGES", "MOST_STEPS", "refined_solver", "refining_cost"]

#: With fewer images the weights follow them, and those of other prompts are further off.
FEWEST_IMAGES: Final = 16
#: The cost grows with the square of the steps, and what is to be gained becomes less.
MOST_STEPS: Final = 20
#: By which weights stay as they were, and what is added to what is left of an image, see `fitting.nearest`.
RIDGE: Final = 1e-3
FLOOR: Final = 0.1
#: How far latents are moved, as a share of their rms; further where numbers have fewer digits.
SHIFT: Final = 3e-3
#: Of a feature that is nothing, such as a change where there is none.
LEAST: Final = 1e-9


def refining_cost(steps: int) -> int:
    """Denoiser evaluations of an image: of the run and the new one, and of those from latents that were moved."""
    features_at = [min(place + 1, HISTORY) + 1 for place in range(steps)]
    return 2 * (2 * steps + sum(count * (steps - 1 - place) for place, count in enumerate(features_at)))


@torch.no_grad()
def refined_solver(
    pipe: Any,
    recorded: FollowedRuns,
    solver: FittedScheduler,
    *,
    batch_size: int,
    tick: Callable[[int], None] = lambda evaluations: None,
) -> tuple[FittedScheduler, Tensor]:
    """The solver with weights that have moved, and where it takes the calibration's images: (B, C, H, W).

    Args:
        pipe: The pipeline.
        recorded: What is to be followed.
        solver: One that was fitted to it.
        batch_size: Images in a call of the denoiser.
        tick: Told of each step how many denoiser evaluations it took.
    """
    times = [recorded.timesteps.index(t) for t in solver.config.timesteps]
    weights = [(own, list(row)) for own, row in zip(solver.config.latents, solver.config.weights, strict=True)]
    runs = [_Run(pipe, part, times, weights, tick) for part in recorded.split(batch_size)]
    states = [list(run.states(run.recorded.latents[0])) for run in runs]
    sizes = _sizes([run.features(of_run) for run, of_run in zip(runs, states, strict=True)])
    products = [
        inner_products(run.changes(of_run, sizes), run.recorded.latents[-1] - of_run[-1][0])
        for run, of_run in zip(runs, states, strict=True)
    ]
    gram, aim, square = (torch.cat(of_runs) for of_runs in zip(*products, strict=True))
    found = iter(nearest(gram, aim, square, ridge=RIDGE, floor=FLOOR, evenly=True))
    moved: Weights = []
    for (own, row), n, of_step in zip(weights, times, sizes, strict=True):
        own_more, row_more = added(recorded, [next(found) / size for size in of_step], n)
        moved.append((own + own_more, [w + more for w, more in zip(row, row_more, strict=True)]))
    ends = [list(replace(run, weights=moved).states(run.recorded.latents[0]))[-1][0] for run in runs]
    return recorded.solver(times, moved), torch.cat(ends)


def _sizes(of_runs: Sequence[Sequence[Sequence[Tensor]]]) -> list[list[float]]:
    """The rms of each step's features over all images."""
    return [
        [float(torch.cat(parts).square().mean().sqrt().clamp(min=LEAST)) for parts in zip(*of_step, strict=True)]
        for of_step in zip(*of_runs, strict=True)
    ]


@dataclass(frozen=True)
class _Run:
    """A solver on a batch of images. A state is a step's latents and what the step weighs besides."""

    pipe: Any
    recorded: FollowedRuns
    times: Sequence[int]
    weights: Weights
    tick: Callable[[int], None]

    def states(self, x: Tensor, past: Sequence[Tensor] = (), first: int = 0) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Of each step from the first on, and the last latents."""
        for n, of_step in zip(self.times[first:], self.weights[first:], strict=True):
            past = seen(self.pipe, self.recorded, x, past, n, len(x))
            yield x, past
            x = taken(x, past, of_step)
            self.tick(2 * len(x))
        yield x, []

    def features(self, states: Sequence[tuple[Tensor, list[Tensor]]]) -> list[list[Tensor]]:
        return [features(self.recorded, *state, n) for state, n in zip(states, self.times, strict=False)]

    def changes(self, states: Sequence[tuple[Tensor, list[Tensor]]], sizes: Sequence[Sequence[float]]) -> Tensor:
        """(F, B, ...): J, one step's features after the other's."""
        shift = max(SHIFT, torch.finfo(self.recorded.prompts.text.dtype).eps ** 0.5)
        end, found = states[-1][0], []
        for place, (of_step, of_sizes) in enumerate(zip(self.features(states), sizes, strict=True)):
            after = states[place + 1][0]
            by = shift * float(after.square().mean().sqrt())
            for feature, size in zip(of_step, of_sizes, strict=True):
                *_, (there, _) = self.states(after + by / size * feature, states[place][1], place + 1)
                found.append((there - end) / by)
        return torch.stack(found)
