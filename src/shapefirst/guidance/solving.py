"""A policy's own solver on a pipeline: its scheduler, and its number of steps, for as long as a block is open.

The pipeline's scheduler is put aside and comes back with the last block. Meanwhile the pipeline is of a subclass whose
calls take the policy's number of steps where the caller gives none, and refuse another.
"""

from __future__ import annotations

import copy
import inspect
from functools import lru_cache, wraps
from typing import Any, Final
from weakref import WeakKeyDictionary

import diffusers

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError, first_line
from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.policies.auto import Policy
from shapefirst.policies.solver import Solver

__all__ = ["SolverBlock", "check_solver", "scheduler_for", "solver_of"]

#: What else decides when a pipeline's steps are.
_TIMES: Final = ("timesteps", "sigmas", "strength", "denoising_start", "denoising_end")


def scheduler_for(solver: Solver) -> Any:
    """The scheduler, before its first run.

    Raises:
        ShapefirstError: There is no such class, or it does not take the entries.
    """
    own = solver.class_name == FittedScheduler.__name__
    kind = FittedScheduler if own else getattr(diffusers, solver.class_name, None)
    if kind is None:
        raise ShapefirstError(
            f"The policy samples with {solver.class_name}, which this diffusers does not have: update it, or write the "
            "policy anew with `shapefirst tune`."
        )
    try:
        return kind.from_config(solver.entries)
    except ShapefirstError:
        raise
    except Exception as error:  # whatever a class makes of entries that are not its own
        raise ShapefirstError(
            f"The policy's {solver.class_name} cannot be made ({first_line(error)}): write it anew with `shapefirst "
            "tune`."
        ) from error


def solver_of(pipe: Any, policy: Policy) -> Any:
    """What a run samples with: a copy of the pipeline's scheduler, or the solver that the policy brings along."""
    return copy.deepcopy(pipe.scheduler) if policy.solver is None else scheduler_for(policy.solver)


def check_solver(pipe: Any) -> None:
    """Raise UnsupportedPipelineError unless a pipeline has a scheduler and takes a number of steps."""
    takes = inspect.signature(type(pipe).__call__).parameters if callable(pipe) else {}
    if not hasattr(pipe, "scheduler") or "num_inference_steps" not in takes:
        raise UnsupportedPipelineError(
            f"This policy brings a solver of its own, and {type(pipe).__name__} does not take one: give it a policy of "
            "steps, such as budget=0.75."
        )


class SolverBlock:
    """The solver on a pipeline, until `leave`.

    Args:
        pipe: The pipeline.
        solver: What it samples with.
        steps: The number of its steps.
    """

    def __init__(self, pipe: Any, solver: Solver, steps: int) -> None:
        check_solver(pipe)
        self._pipe, self.steps = pipe, steps
        self.scheduler = scheduler_for(solver)
        self._own = pipe.scheduler
        _BLOCKS.setdefault(pipe, []).append(self)
        pipe.scheduler = self.scheduler
        if not isinstance(pipe, _Solved):
            object.__setattr__(pipe, "__class__", _solved(type(pipe)))  # type: ignore[arg-type]

    def leave(self) -> None:
        """Give the pipeline its own scheduler again, unless it has another one by now.

        Raises:
            ShapefirstError: It has: that one stays.
        """
        pipe, blocks = self._pipe, _BLOCKS[self._pipe]
        place = blocks.index(self)
        blocks.remove(self)
        if place < len(blocks):  # an inner block goes on
            blocks[place]._own = self._own
            return
        if not blocks:
            object.__setattr__(pipe, "__class__", type(pipe).__mro__[2])
        if pipe.scheduler is not self.scheduler:
            raise ShapefirstError(
                f"The scheduler of this {type(pipe).__name__} was replaced while a policy sampled with its own: it "
                "stays, and no longer followed the policy."
            )
        pipe.scheduler = self._own


#: Pipeline -> its blocks with solvers, the innermost last.
_BLOCKS: WeakKeyDictionary[Any, list[SolverBlock]] = WeakKeyDictionary()


class _Solved:
    """Marks the classes that `_solved` makes."""


@lru_cache(maxsize=64)
def _solved(pipeline_class: Any) -> Any:
    """The class of such pipelines while they sample with a policy's solver; by name it is the same."""
    signature = inspect.signature(pipeline_class.__call__)

    @wraps(pipeline_class.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps = _BLOCKS[self][-1].steps
        given = signature.bind_partial(self, *args, **kwargs).arguments
        for name in _TIMES:
            if given.get(name) is not None:
                raise ShapefirstError(
                    f"The policy says itself which steps there are: leave out {name}=, or take a policy of steps, such "
                    "as budget=0.75."
                )
        if given.get("num_inference_steps") is None:
            kwargs["num_inference_steps"] = steps
        elif given["num_inference_steps"] != steps:
            raise ShapefirstError(
                f"The policy samples in {steps} steps, not {given['num_inference_steps']}: give "
                f"num_inference_steps={steps}, or leave it out."
            )
        return pipeline_class.__call__(self, *args, **kwargs)

    names = {name: getattr(pipeline_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(pipeline_class)(pipeline_class.__name__, (_Solved, pipeline_class), {**names, "__call__": __call__})
