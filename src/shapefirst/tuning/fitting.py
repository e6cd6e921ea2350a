"""A solver's weights, fitted to trajectories that were recorded on calibration prompts.

A trajectory is what is to be followed: the fully guided run of N steps that shall be kept, or one of so many steps that
it has converged. Of its times M are chosen (`tuning.times`), then each step's weights, see `guidance.fitted`, and at
last all of them together (`tuning.refining`).

The solver takes its steps on the calibration prompts, from its own latents: of each one the weights are those
that bring the latents nearest to the trajectory, before the next one is taken. Nearest is the least sum over images of
the rms distance (least squares, reweighted by what is left of each image: Weiszfeld 1937): by its square, few images
that have gone astray would rule the weights of all. On the way to the converged picture an error counts by the power
that clean latents have at its frequency, for the model takes it for signal, and paints it, where signal is strong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor

from shapefirst.families import Embeddings
from shapefirst.families.layout import denoiser_of
from shapefirst.families.noise import clean, scales_along
from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.guidance.follow import guided_prediction
from shapefirst.measure.spectrum import energies, modes, radial_bands
from shapefirst.policies.schedule import Branch
from shapefirst.policies.solver import is_flow
from shapefirst.sampling.loop import Step
from shapefirst.sampling.step import model_output
from shapefirst.training.noise import coloured

__all__ = [
    "FollowedRuns",
    "Weights",
    "added",
    "features",
    "fitted_solver",
    "followed_runs",
    "inner_products",
    "nearest",
    "seen",
    "taken",
]

#: l and w of each step, see `guidance.fitted`.
Weights = list[tuple[float, list[float]]]

#: Clean latents that a step weighs: its own and those of the steps before.
HISTORY: Final = 3
#: By which the weights are drawn to DDIM's, as a share of each feature's own size.
RIDGE: Final = 1e-4
#: What is added to what is left of an image, see `nearest`.
FLOOR: Final = 1e-3
#: How often least squares are solved, each time with an image by what is left of it.
ROUNDS: Final = 10


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

    def split(self, size: int) -> list[FollowedRuns]:
        """Those of so many images at a time."""
        count = self.latents.shape[1]
        prompts = {name: value.split(size) for name, value in vars(self.prompts).items() if value is not None}
        return [
            replace(
                self,
                prompts=Embeddings(**{name: parts[n] for name, parts in prompts.items()}),
                latents=self.latents[:, first : first + size],
                predictions=self.predictions[:, first : first + size],
            )
            for n, first in enumerate(range(0, count, size))
        ]

    def solver(self, times: Sequence[int], weights: Weights) -> FittedScheduler:
        """One that goes through these of the S times."""
        return FittedScheduler(
            [self.timesteps[n] for n in times],
            [s if self.flow else s / a for a, s in (self.scales[n] for n in times)],
            [self.clean[n] for n in times],
            [own for own, _ in weights],
            [row for _, row in weights],
            init_noise_sigma=self.first_scale,
            use_flow_sigmas=self.flow,
            prediction_type=self.prediction_type,
        )

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
    weights: Weights = []
    for place, n in enumerate(times):
        ends = place + 1 == len(times)
        past = seen(pipe, recorded, x, past, n, batch_size)
        target = recorded.latents[-1 if ends else times[place + 1]]
        after = (1.0, 0.0) if ends else recorded.scales[times[place + 1]]
        heard, *heard_past, goal = (coloured(value, signal) for value in (x, *past, target))
        weights.append(_weights(recorded, heard, heard_past, goal, n, after))
        x = taken(x, past, weights[-1])
        tick()
    return recorded.solver(times, weights), x


def seen(
    pipe: Any, recorded: FollowedRuns, x: Tensor, past: Sequence[Tensor], step: int, batch_size: int
) -> list[Tensor]:
    """The clean latents that a step weighs, the latest first: what the model sees in x, and what it saw before."""
    p, q = recorded.clean[step]
    return [p * x + q * _guided(pipe, recorded, x, step, batch_size), *past][:HISTORY]


def taken(x: Tensor, past: Sequence[Tensor], weights: tuple[float, Sequence[float]]) -> Tensor:
    """The latents after a step by its weights."""
    own, row = weights
    return own * x + sum(w * d for w, d in zip(row, past, strict=True))


def features(recorded: FollowedRuns, x: Tensor, past: Sequence[Tensor], step: int) -> list[Tensor]:
    """What a step's weights can add: the slope, the latest clean latents, and how these have changed."""
    return [recorded.slopes(x, past[0], step), past[0], *(d - e for d, e in pairwise(past))]


def added(recorded: FollowedRuns, found: Sequence[float], step: int) -> tuple[float, list[float]]:
    """l and w of a sum of the features."""
    a, s = recorded.scales[step]
    of_slope, of_latest, *of_changes = found
    row = [of_latest - of_slope * (1.0 if recorded.flow else a) / s, *(0.0 for _ in of_changes)]
    for j, weight in enumerate(of_changes):
        row[j] += weight
        row[j + 1] -= weight
    return of_slope / s, row


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
    noise = (x - a * past[0]) / s
    rest = target - (a_next * past[0] + s_next * noise)
    own, row = added(recorded, _combined(torch.stack(features(recorded, x, past, step)), rest), step)
    return s_next / s + own, [row[0] + a_next - s_next * a / s, *row[1:]]


def _combined(of: Tensor, rest: Tensor) -> list[float]:
    """The sum of F features (F, B, ...) that is nearest to (B, ...)."""
    return nearest(*inner_products(of, rest), ridge=RIDGE, floor=FLOOR)


def inner_products(of: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of B images, of F features (F, B, ...) and a target (B, ...): (B, F, F), (B, F) and (B)."""
    columns, target = of.flatten(2).double(), rest.flatten(1).double()
    gram = torch.einsum("fbv,gbv->bfg", columns, columns)
    return gram, torch.einsum("fbv,bv->bf", columns, target), target.square().sum(1)


def nearest(
    gram: Tensor, aim: Tensor, square: Tensor, *, ridge: float, floor: float, evenly: bool = False
) -> list[float]:
    """The sum of features that is nearest to a target, by the sum of the images' distances.

    Args:
        gram: (B, F, F), products of the features.
        aim: (B, F), those with the target.
        square: (B), the target's with itself.
        ridge: By which the sum is drawn to nothing, as a share of each feature's own size, or evenly of the mean.
        floor: Added to what is left of an image, as a share of the mean, so that none counts without bound.
        evenly: See there.
    """
    count = torch.ones_like(square)  # how much each image counts
    found = torch.zeros_like(aim[0])
    for _ in range(ROUNDS):
        normal = torch.einsum("b,bfg->fg", count, gram)
        size = normal.diagonal().mean().expand(len(normal)) if evenly else normal.diagonal()
        found = torch.linalg.solve(normal + ridge * size.diag(), count @ aim)
        left = (square - 2 * aim @ found + torch.einsum("f,bfg,g->b", found, gram, found)).clamp(min=0).sqrt()
        count = 1 / (left / left.mean().clamp(min=torch.finfo(left.dtype).tiny) + floor)
    return [float(one) for one in found]


def _guided(pipe: Any, recorded: FollowedRuns, x: Tensor, step: int, batch_size: int) -> Tensor:
    """eps_hat in the model's own terms for latents of all images."""
    device, everyone = pipe._execution_device, range(len(x))
    t = torch.tensor(recorded.timesteps[step], device=device)
    given = x.to(device, recorded.prompts.text.dtype)
    wanted: list[tuple[Tensor, Branch, Sequence[int]]] = [(given, "null", everyone), (given, "text", everyone)]
    null, text = model_output(pipe, denoiser_of(pipe), wanted, t, recorded.prompts, 2 * batch_size)
    return guided_prediction({"null": null.float(), "text": text.float()}, recorded.guidance_scale).cpu()
