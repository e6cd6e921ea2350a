"""Text in some of the steps only, on a stock diffusers pipeline.

    with text_until(pipe, step=25):
        pipe("a wooden car", num_inference_steps=50)

    with guide(pipe, budget=0.6) as evaluations:
        pipe("a wooden car", num_inference_steps=50)
    print(evaluations)

A block puts a hook before each of the pipeline's denoisers and before what feeds them (`families.layout`).
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import diffusers
import torch
from diffusers.utils.torch_utils import unwrap_module

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError, said
from shapefirst.families import family_of
from shapefirst.families.layout import controls_of, denoisers_of, scheduler_of
from shapefirst.guidance.counting import Block, Evaluations
from shapefirst.guidance.hook import Reentrant, check_uncached
from shapefirst.guidance.meeting import follows
from shapefirst.guidance.solving import CallBlock, check_solver, speaks_of_calls
from shapefirst.guidance.steering import ControlHook, SteeringHook
from shapefirst.policies.auto import Auto, Policy
from shapefirst.policies.schedule import Branch, TextSchedule
from shapefirst.policies.words import describe, policy_of

__all__ = ["Evaluations", "Handle", "PolicyBlock", "apply", "guide", "is_steered", "text_until"]

Function = TypeVar("Function", bound=Callable[..., Any])


def text_until(
    pipe: Any, step: int | None = None, *, fraction: float | str | None = None, keep: Branch = "null"
) -> PolicyBlock:
    """Within the block, generations use the text in the first `step` steps (or `fraction` of them) only.

    See `guide` for what it works on and what it raises.

    Args:
        pipe: A stock diffusers pipeline with classifier-free guidance.
        step: The number of leading steps that use the text.
        fraction: The same as a share of the steps, in [0, 1] or as "50%". Exactly one of the two is given.
        keep: The branch that the later steps keep: "null" (the paper) or "text".
    """
    return guide(pipe, TextSchedule.until(step, fraction=fraction, keep=keep))


def guide(
    pipe: Any, policy: Policy | str | Path | None = None, *, budget: float | str | None = None, tol: float | None = None
) -> PolicyBlock:
    """Within the block, generations of `pipe` follow a policy, which says what each step evaluates.

    The block yields an `Evaluations` counter. It is a decorator, too: each call of the function is a block. When it
    ends, also by an error, the pipeline is as it was found.

        with guide(pipe, budget=0.6) as evaluations:
            image = pipe("a wooden car", num_inference_steps=25).images[0]
        print(f"{evaluations.saved:.0%} of the denoiser's evaluations saved")

    Args:
        pipe: A diffusers pipeline.
        policy: A `TextSchedule`, an `Auto`, words such as "paper:25" (see `shapefirst.policies.words`), or the path of
            a policy that `shapefirst tune` wrote.
        budget: In its place: the share of the evaluations of full guidance that may be spent, above 0 and up to 1 (0.6,
            "60%"). The guided steps are then well placed, and the others extrapolated. Where some steps have calls of
            their own kind beside (skip-layer guidance), steps are counted and not those calls.
        tol: In its place: the error that an extrapolation may have, from 0 up; each image decides for itself (`Auto`).

    Raises:
        UnsupportedPipelineError: Here, if the policy drops a branch and nothing is known of the pipeline's, or a cache
            of diffusers is on; in the first step, if another tool has replaced its denoiser's methods, its batch turns
            out to be of another layout, or what its denoiser is given beside the latents has rows of which cannot be
            told whose they are.
        ShapefirstError: Not exactly one of policy, budget and tol; one that is no policy; a policy file that was made
            for another model or sampler; in the first step of a generation, a policy that does not fit its steps.

    A tuned policy's number of steps and guidance scale hold for calls that say none; another scale is warned of.

    Any batch size, `num_images_per_prompt`, scheduler and dtype will do. Steps are denoising steps, whatever the number
    of denoiser calls in each (see `shapefirst.guidance.timeline`), and are those that the call runs: where
    image-to-image with strength 0.6 runs the last 30 of 50 steps, or a call with `denoising_end=0.6` the first 30,
    there are 30.

    How a pipeline is met is what its family says (`shapefirst.families`): all branches in one batch, or a call a
    branch; any other by whole calls, which policies that keep neither branch skip. So are the calls of a pipeline whose
    guidance is off (`guidance_scale <= 1`) or distilled, where there is no branch to drop: a policy that would drop one
    changes nothing then, and says so in a warning. Where several denoisers take turns (Wan 2.2), a budget, a placement
    and a tolerance hold for each one's steps.

    Blocks nest: the inner policy holds until its block ends, then the outer one again; an outer counter also counts
    the inner block. One block may be entered again. A loop of your own over the pipeline's parts works too, except with
    a tolerance; its batch is taken for a guided one if both halves of the latents are equal.

    A block is the pipeline's, and not the task's: what other threads and tasks of asyncio run on the pipeline meanwhile
    follows the policy, too. So does another pipeline that shares its denoisers (`from_pipe`), in the threads that have
    entered a block; in others it runs as ever. With a solver of the policy's own it is refused, unless it shares the
    scheduler of the block, too.

    Where a callback changes what a generation is made of (the prompt, the size of the latents, the guidance scale), a
    policy that extrapolates begins anew: it guides each step until it has as many behind it as its order asks for.
    """
    found = policy_of(pipe, policy, budget=budget, tol=tol)
    check_way(pipe, found)
    return PolicyBlock(pipe, found)


class PolicyBlock(Reentrant[Evaluations]):
    """What `guide` gives: a `with` block, or a decorator of what calls the pipeline. By itself it does nothing.

    Attributes:
        evaluations: What was done since it was last entered; None before.
    """

    def __init__(self, pipe: Any, policy: Policy) -> None:
        def begin() -> tuple[Evaluations, Callable[[], None]]:
            handle = Handle(pipe, policy)
            return handle.evaluations, handle.remove

        super().__init__(begin, "A policy", _USE)
        self._pipe, self._policy = pipe, policy
        self.evaluations: Evaluations | None = None

    def __enter__(self) -> Evaluations:
        self.evaluations = super().__enter__()
        return self.evaluations

    def __call__(self, function: Function) -> Function:
        """The function, of which each call is a block."""
        if not inspect.isroutine(function) or inspect.isgeneratorfunction(function):
            raise ShapefirstError(f"A policy decorates a function that is no generator, not {said(function)}: {_USE}")
        self._used = True

        @wraps(function)
        def within(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        @wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with self:
                return await function(*args, **kwargs)

        return awaited if inspect.iscoroutinefunction(function) else within  # type: ignore[return-value]

    def __repr__(self) -> str:
        policy = str(self._policy)
        with suppress(ShapefirstError):
            policy = describe(self._policy, self._policy.num_steps or 50)
        return f"<{type(self._pipe).__name__} with {policy}: {_USE}>"


_USE: Final = "write `with guide(pipe, ...) as evaluations:` above the pipeline's call, or `apply(pipe, ...)`."


def is_steered(denoiser: Any) -> bool:
    """Whether a denoiser is in a `guide` block."""
    return SteeringHook.on(denoiser) is not None


def apply(
    pipe: Any, policy: Policy | str | Path | None = None, *, budget: float | str | None = None, tol: float | None = None
) -> Handle:
    """`guide` without `with`: generations follow the policy from here on, until `Handle.remove`.

        handle = apply(pipe, budget=0.6)
        pipe("a wooden car")
        print(handle.evaluations.saved)
        handle.remove()

    It takes and raises what `guide` does.
    """
    found = policy_of(pipe, policy, budget=budget, tol=tol)
    check_way(pipe, found)
    return Handle(pipe, found)


class Handle:
    """A policy on a pipeline, until it is removed; that nobody keeps the handle does not remove it.

    Attributes:
        evaluations: What was done since it was applied.
    """

    def __init__(self, pipe: Any, policy: Policy) -> None:
        self._pipe, self._denoisers, self._policy = pipe, denoisers_of(pipe), policy
        own = policy.solver is None  # those that policies bring along have one call a step
        block = Block(policy, solver_order=getattr(getattr(pipe, "scheduler", None), "order", 1) if own else 1)
        self.evaluations = block.evaluations
        with ExitStack() as stack:
            for denoiser in self._denoisers.values():
                stack.callback(SteeringHook.enter(pipe, denoiser, block).leave, block)
            for control in controls_of(pipe):
                stack.callback(ControlHook.enter(pipe, control, block).leave, block)
            if speaks_of_calls(pipe, policy):
                calls = CallBlock(pipe, policy)
                stack.callback(calls.leave)
                block.scheduler = calls.scheduler if policy.solver else None
            self._hooks = stack.pop_all()

    def remove(self) -> None:
        """Leave the pipeline as it was found, and stop the clock. Removing it twice does nothing more.

        Raises:
            ShapefirstError: Another denoiser was put in the pipeline meanwhile, which did not follow the policy.
        """
        self.evaluations.end()
        self._hooks.close()
        if self._denoisers and sys.exc_info()[0] is None:
            _warn_of_a_tight_tolerance(self._policy, self.evaluations)
        denoisers, self._denoisers = self._denoisers, {}
        for name, denoiser in denoisers.items():
            other = getattr(self._pipe, name, None)
            if other is not denoiser and unwrap_module(other) is not denoiser:
                raise ShapefirstError(
                    f"The {name} of this {type(self._pipe).__name__} was replaced while a policy was on it, and the "
                    "new one did not follow it: put it in before."
                )


def _warn_of_a_tight_tolerance(policy: Policy, evaluations: Evaluations) -> None:
    if isinstance(policy, Auto) and policy.tol > 0 and evaluations.rows >= evaluations.asked > 0:
        warnings.warn(
            f"A tolerance of {policy.tol:g} let no step pass, so nothing was saved: in few steps each is a long way. "
            "Give a larger one, or budget=0.75, which saves what it says.",
            stacklevel=4,
        )


def check_way(pipe: Any, policy: Policy) -> None:
    """Raise ShapefirstError if a policy cannot be followed on a pipeline, whatever it is called with."""
    if isinstance(pipe, (str, torch.nn.Module)) or not hasattr(pipe, "__dict__"):
        raise ShapefirstError(f"A policy is for a pipeline, not for a {type(pipe).__name__}: see apply_to_module.")
    family, name = family_of(pipe), type(pipe).__name__
    if family.refused is not None:
        raise UnsupportedPipelineError(f"{name} {family.refused}")
    if any(isinstance(getattr(part, "evaluations", None), Evaluations) for part in vars(pipe).values()):
        raise ShapefirstError(
            f"{name} has a Guider, which follows a policy of its own: take that or guide(), not both."
        )
    if not follows(family, policy):
        if isinstance(pipe, diffusers.ModularPipeline) and "guider" in pipe.components:
            raise UnsupportedPipelineError(
                f"{name} asks its guider in each step which branches to evaluate, and guide() cannot drop one there: "
                'give it the policy as that, as in pipe.update_components(guider=Guider("paper:25")).'
            )
        raise UnsupportedPipelineError(
            f"Of {name} is not known which rows or calls are the branches of its guidance, so none can be dropped: "
            "take a policy that skips whole evaluations, such as budget=0.6, tol=0.006 or every:2."
        )
    denoisers = denoisers_of(pipe)
    scheduler_of(pipe)
    if policy.solver is not None:
        check_solver(pipe)
    drops_rows = policy.keep != "neither" or (isinstance(policy, Auto) and family.way == "one batch")
    if drops_rows and policy != TextSchedule.always():
        for denoiser in denoisers.values():
            check_uncached(denoiser)
