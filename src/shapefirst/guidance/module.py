"""A policy on a denoiser in a loop of the user's own, where there is no pipeline."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import unwrap_module

from shapefirst.errors import ShapefirstError
from shapefirst.families import OwnLoop
from shapefirst.families.arguments import TIMES, parameters_of
from shapefirst.guidance.blocks import Handle
from shapefirst.policies.auto import Auto, Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.words import policy_of
from shapefirst.signatures import guarded

__all__ = ["apply_to_module"]


@guarded
def apply_to_module(
    denoiser: torch.nn.Module,
    policy: Policy | str | Path | None = None,
    *,
    scheduler: SchedulerMixin,
    budget: float | str | None = None,
    tol: float | None = None,
    branches: Sequence[str] = (),
    calls: Sequence[str] = (),
    rowed: str | Collection[str] = (),
    timestep: str | None = None,
    guidance_scale: float | None = None,
) -> Handle:
    """As `shapefirst.apply`, for a denoiser in a loop of your own:

        handle = apply_to_module(unet, "paper:25", scheduler=scheduler, branches=("null", "text"))
        for t in scheduler.timesteps:
            null, text = unet(torch.cat([x, x]), t, embeddings).sample.chunk(2)
            x = scheduler.step(null + w * (text - null), t, x).prev_sample
        handle.remove()

    Whatever a call gives is evaluated or extrapolated as a whole, unless `branches` or `calls` say which rows or which
    calls are those of guidance; then a branch can be dropped. With `branches`, a batch is taken for a guided one if it
    holds the same latents for each branch.

    The step is found by the timestep that the denoiser is given: one of the scheduler's list (an element of it, or its
    value), its sigma, its share of the training's timesteps, or 1 minus that; alone, or one for each row or token.
    Where it does not come first, the latents are called `sample`, `hidden_states`, `x` or `latents`.

    Args:
        denoiser: The network, or torch.compile's wrapper of it.
        policy: As `shapefirst.guide` takes it.
        scheduler: The one of diffusers that the loop is over; its timesteps may be set later.
        budget: In place of a policy, see `shapefirst.guide`.
        tol: In place of a policy, see `shapefirst.guide`. With `branches` it needs the guidance scale.
        branches: What the rows of a call are, in their order, if it holds them all: ("null", "text"). Further names are
            those of branches without text.
        calls: What the calls of each step are, in their order, if each branch has its own: ("text", "null").
        rowed: Arguments with a row for each image and branch, where they have names of your own.
        timestep: The argument that is the timestep, if it has a name of your own.
        guidance_scale: w, for a tolerance.

    Raises:
        ShapefirstError: One of these is not what it should be, or they do not go together; as `shapefirst.guide`.
        UnsupportedPipelineError: In the first step: the timestep is not in the list; a batch has other rows than those
            of the branches; an argument may have rows, and `rowed` does not say so.
    """
    if branches and calls:
        raise ShapefirstError("Give branches= if one call holds them all, or calls= if each has its own, and not both.")
    for name, said in (("branches", branches), ("calls", calls)):
        wrong = isinstance(said, str) or len(set(said)) < len(said) or not {"null", "text"} <= set(said)
        if said and wrong:
            raise ShapefirstError(
                f'{name}= takes "null" and "text" in their order, such as ("null", "text"), not {said!r}.'
            )
    _check_timestep(denoiser, timestep)
    loop = OwnLoop(
        denoiser,
        scheduler,
        tuple(branches),
        tuple(calls),
        frozenset([rowed] if isinstance(rowed, str) else rowed),
        timestep=timestep,
        guidance_scale=guidance_scale,
    )
    found = policy_of(loop, policy, budget=budget, tol=tol)
    if not (branches or calls) and found.keep != "neither" and found != TextSchedule.always():
        raise ShapefirstError(
            'To drop a branch it must be known where it is: say branches=("null", "text") if a call holds rows of '
            'both, or calls=("text", "null") if each has a call of its own; budget=0.6 needs neither.'
        )
    needs_scale = branches or (calls and found.keep != "neither")
    if needs_scale and isinstance(found, Auto) and guidance_scale is None:
        raise ShapefirstError("A tolerance is of the guided prediction, and needs its scale: say guidance_scale=7.5.")
    return Handle(loop, found)


def _check_timestep(denoiser: torch.nn.Module, timestep: str | None) -> None:
    names = parameters_of(unwrap_module(denoiser))
    if timestep is None and names and set(TIMES).isdisjoint(names):
        raise ShapefirstError(
            f"None of the arguments of this {type(denoiser).__name__} ({', '.join(names)}) is called timestep: say "
            f"which one is, such as timestep={names[-1]!r}."
        )
