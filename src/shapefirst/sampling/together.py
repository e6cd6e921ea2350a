"""Several schedules on the same prompts and noise: as long as they do the same, they are one run.

    text in 5    ##### nnnnn nnnnn ...      # both branches, n the null one alone
    text in 10   ##### ##### nnnnn ...      the first five guided steps are done once, the next five once for these two,
    text in 15   ##### ##### ##### ...      and the tails stand at the same step

A run forks at the step where its policies part, its solver's history with it. What the runs evaluate in a step, of all
prompts, is one batch. With N steps and the text in 0, 5, ..., N of them that takes 375 evaluations in place of 825 at
N = 50.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline

from shapefirst.checks import Steps
from shapefirst.errors import ShapefirstError
from shapefirst.families import Embeddings
from shapefirst.families.layout import denoiser_of
from shapefirst.guidance.blocks import is_steered
from shapefirst.guidance.follow import Call, Follower
from shapefirst.guidance.stochastic import is_stochastic
from shapefirst.guidance.timeline import by_step, calls_of, taking_step
from shapefirst.policies.auto import Policy, check_policy
from shapefirst.policies.correction import is_corrected
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import Latents, begin, first_latents
from shapefirst.sampling.step import Run, advance, follower_of, snapshot, step_options
from shapefirst.signatures import Positive, guarded

__all__ = ["Ended", "denoise_together"]


@dataclass(frozen=True)
class Ended:
    """A schedule's run after its last step.

    Attributes:
        latents: (B, C, H, W), for `loop.decode`.
        evaluations: Of the denoiser for each image, had the schedule been followed alone.
        guided_steps: Of each image.
    """

    latents: torch.Tensor
    evaluations: tuple[int, ...]
    guided_steps: tuple[int, ...]


@guarded
def denoise_together(
    pipe: DiffusionPipeline,
    prompts: Embeddings,
    schedules: Sequence[Policy],
    *,
    num_inference_steps: Steps = 50,
    guidance_scale: float = 7.5,
    generator: list[torch.Generator] | None = None,
    latents: Latents | None = None,
    batch_size: Positive | None = None,
    on_step: Callable[[float], None] | None = None,
) -> list[Ended]:
    """How each schedule's run ends, with the latents of `denoise` to rounding.

    Args:
        pipe: A pipeline that `shapefirst.families.layout` knows.
        prompts: B encoded prompts.
        schedules: What to follow.
        num_inference_steps: N.
        guidance_scale: w.
        generator: One per image (see `generators`).
        latents: (B, C, H / f, W / f), starting noise of unit variance, in place of the generators'.
        batch_size: Rows in one call of the denoiser; by default all that there are in a step.
        on_step: Told after each step how many evaluations it took for each image, of all calls, on average over them.

    Raises:
        UnsupportedPipelineError: A pipeline of an unknown layout.
        ShapefirstError: More steps than the model was trained for, a schedule that does not fit them, or a denoiser
            that `guide` is steering already.
    """
    denoiser = denoiser_of(pipe)
    if is_steered(denoiser):
        raise ShapefirstError("denoise_together() follows schedules of its own: call it outside of guide().")
    if any(schedule.solver is not None for schedule in schedules):
        raise ShapefirstError("Policies with solvers of their own have no steps in common: sample each by denoise().")
    solver = begin(pipe, num_inference_steps, TextSchedule.always())
    calls = list(zip(calls_of(solver, guidance_scale), solver.timesteps, strict=True))
    num_steps = calls[-1][0].num_steps
    each = by_step((call.step, call.u) for call, _ in calls)
    schedules = [schedule.in_run(solver, *each) for schedule in schedules]
    for schedule in schedules:
        check_policy(schedule, num_steps)
    x = first_latents(pipe, solver, prompts, generator, latents)
    extra, whole = step_options(pipe, solver), object()

    followers = [
        follower_of(schedule, len(x), guidance_scale, stochastic=is_stochastic(solver, schedule, extra.get("eta")))
        for schedule in schedules
    ]
    runs = [Run(x, solver, followers)] if followers else []
    for step in range(num_steps) if followers else ():
        here = [(call, t) for call, t in calls if call.step == step]
        runs = [
            Run(run.x, snapshot(run.solver) if fork else run.solver, mine)
            for run in runs
            for fork, mine in enumerate(_parted(run, here[0][0]))
        ]
        with taking_step(whole, step):
            done = advance(pipe, denoiser, prompts, runs, here, extra=extra, batch_size=batch_size)
        if on_step is not None:
            on_step(sum(one.rows for evaluated in done for one in evaluated) / len(x))
    ends = {id(one): Ended(run.x, one.evaluations, one.guided_steps) for run in runs for one in run.followers}
    return [ends[id(follower)] for follower in followers]


def _parted(run: Run, call: Call) -> list[list[Follower]]:
    """Its followers, those who do the same in the step that begins together."""
    ways: dict[Hashable, list[Follower]] = {}
    for follower in run.followers:
        way = follower.key(call), is_corrected(follower.policy, call.step, call.num_steps, run.solver)
        ways.setdefault(way, []).append(follower)
    return list(ways.values())
