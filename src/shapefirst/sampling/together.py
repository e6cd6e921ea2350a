"""Several schedules on the same prompts and noise: as long as they do the same, they are one run.

    text in 5    ##### nnnnn nnnnn ...      # both branches, n the null one alone
    text in 10   ##### ##### nnnnn ...      the first five guided steps are done once, the next five once for these two,
    text in 15   ##### ##### ##### ...      and the tails stand at the same step

A run forks at the step where its schedules part, its solver's history with it. What the runs evaluate in a step, of all
prompts, is one batch. With N steps and the text in 0, 5, ..., N of them that takes 375 evaluations in place of 825 at
N = 50.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from shapefirst.errors import ShapefirstError
from shapefirst.families import Embeddings
from shapefirst.families.layout import denoiser_of
from shapefirst.guidance.blocks import is_steered
from shapefirst.guidance.timeline import steps_of, taking_step
from shapefirst.policies.acts import Act, act_at
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import begin, first_latents, step_options
from shapefirst.sampling.step import Run, advance

__all__ = ["denoise_together"]


def denoise_together(
    pipe: Any,
    prompts: Embeddings,
    schedules: Sequence[TextSchedule],
    *,
    num_inference_steps: int = 50,
    guidance_scale: float = 7.5,
    generator: list[torch.Generator] | None = None,
    latents: torch.Tensor | None = None,
    batch_size: int | None = None,
    on_step: Callable[[int], None] | None = None,
) -> list[torch.Tensor]:
    """Each schedule's final latents, (B, C, H, W) for `denoising.decode`, those of `denoise` to rounding.

    Args:
        pipe: A pipeline that `shapefirst.families.layout` knows.
        prompts: B encoded prompts.
        schedules: What to follow.
        num_inference_steps: N.
        guidance_scale: w.
        generator: One per image (see `generators`).
        latents: (B, C, H / f, W / f), starting noise of unit variance, in place of the generators'.
        batch_size: Rows in one call of the denoiser; by default all that there are in a step.
        on_step: Told after each step how many evaluations it took for each image, calls of Heun's second kind included.

    Raises:
        UnsupportedPipelineError: A pipeline of an unknown layout.
        ShapefirstError: More steps than the model was trained for, a schedule that does not fit them, or a denoiser
            that `guide` is steering already.
    """
    denoiser = denoiser_of(pipe)
    if is_steered(denoiser):
        raise ShapefirstError("denoise_together() follows schedules of its own: call it outside of guide().")
    for schedule in schedules:
        schedule.check(num_inference_steps)
    solver = begin(pipe, num_inference_steps)
    start = Run(first_latents(pipe, solver, prompts, generator, latents), solver)
    extra = step_options(pipe)
    step_of = steps_of(solver)

    groups = [(start, list(range(len(schedules))))] if schedules else []
    for step in range(num_inference_steps):
        moving: list[tuple[Run, Act, list[int]]] = []
        for run, members in groups:
            ways: dict[Act, list[int]] = {}
            for i in members:
                ways.setdefault(act_at(schedules[i], step, num_inference_steps, guidance_scale), []).append(i)
            forks = [run, *(run.fork() for _ in range(len(ways) - 1))]
            moving += [(fork, act, those) for fork, (act, those) in zip(forks, ways.items(), strict=True)]
        timesteps = [t for t, at in zip(solver.timesteps, step_of, strict=True) if at == step]
        with taking_step(start, step):
            advance(
                pipe,
                denoiser,
                prompts,
                [(run, act) for run, act, _ in moving],
                timesteps,
                guidance_scale,
                extra=extra,
                batch_size=batch_size,
            )
        if on_step is not None:
            on_step(len(timesteps) * sum(len(act.branches) for _, act, _ in moving))
        groups = [(run, those) for run, _, those in moving]
    ends = {i: run.x for run, members in groups for i in members}
    return [ends[i] for i in range(len(schedules))]
