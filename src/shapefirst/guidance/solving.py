"""What a policy says of a pipeline's calls for as long as a block is open: steps, guidance scale, and a solver.

Meanwhile the pipeline is of a subclass whose calls take the policy's number of steps and its guidance scale where the
caller gives none. With a solver of the policy's own the pipeline's scheduler is put aside, and comes back with the last
block, or for an inner one whose policy has none; another number of steps is refused then.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Sequence
from functools import lru_cache, wraps
from typing import Any, Final
from weakref import WeakKeyDictionary

import diffusers

from shapefirst.errors import ShapefirstError, UnsupportedPipelineError, first_line
from shapefirst.families.noise import adds_noise
from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.policies.auto import Policy
from shapefirst.policies.solver import Solver

__all__ = ["CallBlock", "check_solver", "scheduler_for", "solver_of", "speaks_of_calls"]

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


def speaks_of_calls(pipe: Any, policy: Policy) -> bool:
    """Whether a policy has a solver, or steps or a scale for calls of a pipeline that takes them, or ends what an outer
    block's says of them."""
    if policy.solver is not None or isinstance(pipe, _Solved):
        return True
    says = policy.num_steps is not None or policy.guidance_scale is not None
    return says and isinstance(pipe, diffusers.DiffusionPipeline) and hasattr(pipe, "scheduler")


class CallBlock:
    """The policy's steps, scale and solver on a pipeline, until `leave`.

    Args:
        pipe: The pipeline.
        policy: One that `speaks_of_calls` of it.
    """

    def __init__(self, pipe: Any, policy: Policy) -> None:
        self._pipe, self.policy, self._before = pipe, policy, pipe.scheduler
        self.scheduler = _own(pipe)
        if policy.solver is not None:
            check_solver(pipe)
            self.scheduler = scheduler_for(policy.solver)
        if self.scheduler is not self._before:
            pipe.scheduler = self.scheduler
        _BLOCKS.setdefault(pipe, []).append(self)
        if not isinstance(pipe, _Solved):
            object.__setattr__(pipe, "__class__", _solved(type(pipe)))  # type: ignore[arg-type]

    def leave(self) -> None:
        """Give the pipeline the scheduler again that it had before, unless it has another one by now.

        Raises:
            ShapefirstError: It has, while the policy sampled with a solver: that one stays.
        """
        pipe, blocks = self._pipe, _BLOCKS[self._pipe]
        place = blocks.index(self)
        blocks.remove(self)
        if not blocks:
            object.__setattr__(pipe, "__class__", type(pipe).__mro__[2])
        if self.scheduler is self._before:
            return
        if place < len(blocks):  # an inner block goes on
            blocks[place]._before = self._before
            return
        if pipe.scheduler is not self.scheduler:
            raise ShapefirstError(
                f"The scheduler of this {type(pipe).__name__} was replaced while a policy sampled with its own: it "
                "stays, and no longer followed the policy."
            )
        pipe.scheduler = self._before


#: Pipeline -> its blocks, the innermost last.
_BLOCKS: WeakKeyDictionary[Any, list[CallBlock]] = WeakKeyDictionary()


def _own(pipe: Any) -> Any:
    """The scheduler that the outermost solver was put in the place of."""
    blocks = _BLOCKS.get(pipe, []) if isinstance(pipe, _Solved) else []
    return next((block._before for block in blocks if block.policy.solver is not None), pipe.scheduler)


class _Solved:
    """Marks the classes that `_solved` makes."""


@lru_cache(maxsize=64)
def _solved(pipeline_class: Any) -> Any:
    """The class of such pipelines within a block; by name it is the same."""
    signature = inspect.signature(pipeline_class.__call__)
    # Where guidance is called true_cfg_scale, guidance_scale is something that the model was distilled with.
    takes_scale = "guidance_scale" in signature.parameters and "true_cfg_scale" not in signature.parameters
    takes_steps = "num_inference_steps" in signature.parameters

    @wraps(pipeline_class.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        blocks = _BLOCKS.get(self)
        if not blocks:  # made of this one's class, or another thread's block has just ended
            return pipeline_class.__call__(self, *args, **kwargs)
        policy = blocks[-1].policy
        given = signature.bind_partial(self, *args, **kwargs).arguments
        times = [name for name in _TIMES if given.get(name) is not None]
        if policy.solver is not None:
            _check_steps(policy, given.get("num_inference_steps"), times)
        _check_noise(_own(self), self.scheduler, given.get("eta"))
        if takes_steps and policy.num_steps is not None and not times and given.get("num_inference_steps") is None:
            kwargs["num_inference_steps"] = policy.num_steps
        if takes_scale and policy.guidance_scale is not None:
            scale = given.get("guidance_scale")
            if scale is None:
                kwargs["guidance_scale"] = policy.guidance_scale
            elif scale != policy.guidance_scale:  # which moves the picture
                warnings.warn(
                    f"the policy was tuned at guidance scale {policy.guidance_scale:g}, not {scale:g}: what it "
                    "promises was measured there.",
                    stacklevel=2,
                )
        return pipeline_class.__call__(self, *args, **kwargs)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        """Copies are plain."""
        made, args, *rest = pipeline_class.__reduce_ex__(self, protocol)
        args = tuple(pipeline_class if one is type(self) else one for one in args)
        if made.__name__ == "__newobj__":  # pickle holds its first argument against the class that it sees
            made = object.__new__
        return made, args, *rest

    names = {name: getattr(pipeline_class, name) for name in ("__module__", "__qualname__", "__doc__")}
    members = {**names, "__call__": __call__, "__reduce_ex__": __reduce_ex__}
    return type(pipeline_class)(pipeline_class.__name__, (_Solved, pipeline_class), members)


def _check_steps(policy: Policy, steps: int | None, times: Sequence[str]) -> None:
    """Raise ShapefirstError where a call says otherwise than a solver's policy which steps there are."""
    if times:
        raise ShapefirstError(
            f"The policy says itself which steps there are: leave out {times[0]}=, or take a policy of steps, such as "
            "budget=0.75."
        )
    if steps is not None and steps != policy.num_steps:
        raise ShapefirstError(
            f"The policy samples in {policy.num_steps} steps, not {steps}: give "
            f"num_inference_steps={policy.num_steps}, or leave it out."
        )


def _check_noise(own: Any, solver: Any, eta: float | None) -> None:
    """Raise ShapefirstError where a call asks for noise that the own scheduler adds and the solver does not."""
    if eta and adds_noise(own, eta) and not adds_noise(solver, eta):
        raise ShapefirstError(
            f"The policy's {type(solver).__name__} adds no noise in its steps: leave out eta={eta:g}, or take a policy "
            "of steps, such as budget=0.75."
        )
