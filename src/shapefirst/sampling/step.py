"""One denoising step, of one run or of several that stand at the same step: their evaluations are one batch.

eps_null = eps(t, x_t, 0)
eps_text = eps(t, x_t, C)                           each of the images whose follower wants it
eps_hat  = eps_null + w (eps_text - eps_null)       with what `guidance.follow` puts in the place of the others
x_t      = solver(eps_hat, t, x_t)
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shapefirst.families import Embeddings, family_of
from shapefirst.guidance.branches import evaluating, evaluating_some
from shapefirst.guidance.follow import BOTH, Call, Follower, guided_prediction
from shapefirst.models.faults import faults_of
from shapefirst.policies.auto import Policy
from shapefirst.policies.correction import follow_corrections
from shapefirst.policies.schedule import Branch, TextSchedule

__all__ = ["Evaluated", "Run", "advance", "follower_of", "model_output", "snapshot", "step_options"]


@dataclass
class Run:
    """A run between two steps.

    Attributes:
        x: (B, C, H, W), the latents as the solver holds them.
        solver: A scheduler of its own, with what it remembers.
        followers: Of the policies that have done the same so far; what the first does, all of them do.
    """

    x: torch.Tensor
    solver: Any
    followers: list[Follower]


@dataclass(frozen=True)
class Evaluated:
    """A call of the denoiser, in the model's own terms: noise, v or a flow.

    Attributes:
        call: Where in the run it was.
        t: The timestep.
        x_in: (B, C, H, W), what the denoiser was given.
        out: Branch -> (B, C, H, W), of those that were evaluated for every image.
        guided: (B, C, H, W), what the solver was given.
        rows: How many were evaluated, over branches and images.
    """

    call: Call
    t: torch.Tensor
    x_in: torch.Tensor
    out: dict[Branch, torch.Tensor]
    guided: torch.Tensor
    rows: int


def follower_of(
    policy: Policy, images: int, guidance_scale: float, *, late: bool = False, stochastic: bool = False
) -> Follower:
    """What carries a policy out; without guidance, every step evaluates the text branch alone, as pipelines do."""
    if guidance_scale <= 1:
        return Follower(TextSchedule.always(), images, ("text",))
    return Follower(policy, images, late=late, stochastic=stochastic)


def snapshot(solver: Any) -> Any:
    """A scheduler that goes on from here on its own: its lists, and its tensors but for the tables, are copies."""
    other = copy.copy(solver)
    for name, value in vars(solver).items():
        if isinstance(value, list):
            setattr(other, name, copy.copy(value))
        elif isinstance(value, torch.Tensor) and value.ndim > 1:  # PNDM adds up what it is given, in place
            setattr(other, name, value.clone())
    return other


def step_options(pipe: Any, solver: Any, generator: Any = None) -> dict[str, Any]:
    """What the pipeline's own call gives to its scheduler's steps, with eta = 0, as far as the solver takes it."""
    prepare, takes = getattr(pipe, "prepare_extra_step_kwargs", None), inspect.signature(solver.step).parameters
    given = {} if prepare is None else prepare(generator, 0.0)
    return {name: value for name, value in given.items() if name in takes}


@torch.no_grad()
def advance(
    pipe: Any,
    denoiser: Any,
    prompts: Embeddings,
    runs: Sequence[Run],
    calls: Sequence[tuple[Call, torch.Tensor]],
    *,
    extra: dict[str, Any],
    batch_size: int | None = None,
) -> list[list[Evaluated]]:
    """Take one step in every run, all of the same B prompts.

    Args:
        pipe: The pipeline, which is only read.
        denoiser: Its denoiser.
        prompts: Of B rows.
        runs: Changed in place, each by what its followers want.
        calls: The step's calls of the denoiser and their timesteps: one, or two (Heun).
        extra: For the solver's step.
        batch_size: Rows in one call of the denoiser; by default all.

    Returns:
        Each run's calls.
    """
    done: list[list[Evaluated]] = [[] for _ in runs]
    for call, t in calls:
        x_in = [_scaled(run, t) for run in runs]
        wanted = [
            (i, branch, images)
            for i, run in enumerate(runs)
            for branch, images in run.followers[0].wanted(call).items()
            if images
        ]
        whole = batch_size is None or batch_size >= sum(len(images) for *_, images in wanted)
        even = len(runs) == 1 and all(len(images) == len(prompts.text) for *_, images in wanted)
        ran = tuple(branch for _, branch, _ in wanted)
        with faults_of(pipe), evaluating(*ran) if even and whole else evaluating_some():
            parts = model_output(pipe, denoiser, [(x_in[i], *of) for i, *of in wanted], t, prompts, batch_size)
        for i, run in enumerate(runs):
            seen = {branch: y for (j, branch, _), y in zip(wanted, parts, strict=True) if j == i}
            completed, *_ = [follower.complete(call, seen, x_in[i]) for follower in run.followers]
            guided = guided_prediction(completed, call.guidance_scale)
            follow_corrections(run.followers[0].policy, call.step, call.num_steps, run.solver)
            with faults_of(pipe):
                run.x = run.solver.step(guided, t, run.x, **extra, return_dict=False)[0]
            out = {branch: y for branch, y in seen.items() if len(y) == len(x_in[i])}
            done[i].append(Evaluated(call, t, x_in[i], out, guided, sum(map(len, seen.values()))))
    return done


def _scaled(run: Run, t: torch.Tensor) -> torch.Tensor:
    """What the denoiser is given of a run's latents; flow matching solvers hold them as it takes them."""
    scale = getattr(run.solver, "scale_model_input", None)
    return run.x if scale is None else scale(run.x, t)


def model_output(
    pipe: Any,
    denoiser: Any,
    wanted: Sequence[tuple[torch.Tensor, Branch, Sequence[int]]],
    t: torch.Tensor,
    prompts: Embeddings,
    batch_size: int | None,
) -> list[torch.Tensor]:
    """The model's own output for images of the latents, (images, C, H, W), under the branch beside them."""
    if not wanted:
        return []
    count = len(prompts.text)
    family, conditions = family_of(pipe), prompts.rows()
    x = torch.cat([y if len(images) == count else y[list(images)] for y, _, images in wanted])
    at = torch.tensor([image + BOTH.index(branch) * count for _, branch, images in wanted for image in images])
    at = at.to(x.device)
    parts = []
    for rows, which in zip(x.split(batch_size or len(x)), at.split(batch_size or len(x)), strict=True):
        those = {name: tensor[which] for name, tensor in conditions.items()}
        parts.append(family.evaluate(pipe, denoiser, rows, t, those))
    return list(torch.cat(parts).split([len(images) for *_, images in wanted]))
