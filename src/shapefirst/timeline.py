"""From a scheduler's list of timesteps to denoising steps.

A solver may call the denoiser more than once in a step, and its list has one entry a call. With N steps:

    DDIM, DPM-Solver++, Euler, UniPC   t0      t1      t2     ...     N entries,     one call a step
    Heun                               t0 t1 | t1 t2 | t2 ... t(N-1)  2N - 1,        two calls a step, the last step one
    PNDM (skip_prk_steps)              t0 t1 | t1 | t2 ...            N + 1,         two calls in step 0

Step i of Heun evaluates the denoiser at t_i and again at t_(i+1), to correct itself: both calls belong to step i. So
the timestep t_(i+1) stands twice in the list, for the end of step i and for the start of step i + 1, and its value
alone does not tell the step; its position does.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from shapefirst.errors import UnsupportedPipelineError

__all__ = ["Run", "follow", "list_of", "position_of", "steps_of"]


@dataclass(eq=False)
class Run:
    """One generation as its denoiser sees it, from the first call on; see `follow`.

    Attributes:
        scheduler: The scheduler whose steps these are.
        timesteps: Its list of timesteps, held so that its place in memory stays its own.
        values: The same as numbers.
        steps: `steps_of(scheduler)`.
        first: Position of the first call in the list; a pipeline may start late (image to image).
        last: Position of the latest call.
    """

    scheduler: Any
    timesteps: torch.Tensor
    values: list[float]
    steps: list[int]
    first: int
    last: int

    @property
    def step(self) -> int:
        """The step of the latest call, counted from the first one that runs."""
        return self.steps[self.last] - self.steps[self.first]

    @property
    def num_steps(self) -> int:
        return self.steps[-1] - self.steps[self.first] + 1

    @property
    def begins_step(self) -> bool:
        """Whether the latest call is the first one of its step."""
        return self.last == self.first or self.steps[self.last - 1] < self.steps[self.last]


def follow(run: Run | None, t: Any, pipe: Any, timesteps: torch.Tensor | None = None) -> Run:
    """The run that a denoiser call at `t` belongs to, brought up to date: a new one with new timesteps or a step back.

    Args:
        run: The run of the denoiser's previous call.
        t: The timestep as the denoiser was given it.
        pipe: The pipeline.
        timesteps: The list that `t` is from, where it may be another one than `pipe.scheduler`'s (see `list_of`).

    Raises:
        UnsupportedPipelineError: `t` is not in the list.
    """
    scheduler = pipe.scheduler
    timesteps = scheduler.timesteps if timesteps is None else timesteps
    if run is not None and not _same_place(run.timesteps, timesteps):
        run = None
    if run is not None:
        scheduler, values, steps = run.scheduler, run.values, run.steps
    else:
        values = timesteps.tolist()  # the one wait for the device in a generation
        if not _same_place(timesteps, scheduler.timesteps):
            # A copy of the scheduler, out of reach: its N is the number of different timesteps.
            order = getattr(scheduler, "order", 1)
            scheduler = SimpleNamespace(timesteps=timesteps, order=order, num_inference_steps=len(set(values)))
        steps = steps_of(scheduler)

    position = position_of(t, scheduler, values, last=run.last if run else None)
    if position is None:
        raise UnsupportedPipelineError(
            f"{type(pipe).__name__} gave its denoiser the timestep {float(torch.as_tensor(t).flatten()[0])}, "
            "which is not in its scheduler's list, so the step cannot be told."
        )
    if run is None or position < run.last:
        return Run(scheduler, timesteps, values, steps, first=position, last=position)
    run.last = position
    return run


def list_of(t: Any, scheduler: Any) -> torch.Tensor:
    """The timesteps that `t` is an element of (or an expanded view of one); the scheduler's if that cannot be told.

    A loop that samples with a copy of the pipeline's scheduler, as `denoise` does, has a list of its own.
    """
    listed: torch.Tensor = scheduler.timesteps
    if not isinstance(t, torch.Tensor) or any(n > 1 and s for n, s in zip(t.shape, t.stride(), strict=True)):
        return listed
    entries = t.untyped_storage().nbytes() // t.element_size()
    if t.untyped_storage().data_ptr() == listed.untyped_storage().data_ptr() or (entries == 1 and t._base is None):
        return listed
    return t.detach().as_strided((entries,), (1,), 0)


def _same_place(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two lists are the same memory; set_timesteps() makes a new tensor for every generation."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


def steps_of(scheduler: Any) -> list[int]:
    """The denoising step that each entry of `scheduler.timesteps` belongs to, counted from 0.

    Entries beyond `num_inference_steps * order` are a multistep solver's warm-up and belong to step 0; diffusers'
    pipelines count them so for their progress bars.
    """
    entries = len(scheduler.timesteps)
    order = getattr(scheduler, "order", 1)
    num_inference_steps = getattr(scheduler, "num_inference_steps", None) or entries
    warmup = max(0, entries - num_inference_steps * order)
    return [max(0, position - warmup) // order for position in range(entries)]


def position_of(t: Any, scheduler: Any, values: list[float], last: int | None = None) -> int | None:
    """Where the timestep `t`, as the denoiser was given it, stands in `scheduler.timesteps`.

    Pipelines hand the denoiser an element of that tensor (or an expanded view of it): its place in memory is its
    position, exact also where timesteps repeat, and read without waiting for the device. Otherwise `t` is looked up by
    value. Where a value repeats, the solver's own `step_index` decides; if it has none, or one left over from an
    aborted run that does not fit `t`, the first occurrence after `last` is taken.

    Args:
        t: A number, or a tensor of shape () or (batch,) with one value.
        scheduler: The pipeline's scheduler.
        values: `scheduler.timesteps.tolist()`, which the caller keeps for a whole generation.
        last: The position of the generation's previous call.

    Returns:
        A position in [0, len(values)), or None if `t` is not in the list.
    """
    timesteps = scheduler.timesteps
    if isinstance(t, torch.Tensor):
        if (
            t.device == timesteps.device
            and t.dtype == timesteps.dtype
            and all(stride == 0 or size == 1 for size, stride in zip(t.shape, t.stride(), strict=True))
            and t.untyped_storage().data_ptr() == timesteps.untyped_storage().data_ptr()
        ):
            return t.storage_offset() - timesteps.storage_offset()
        t = t.flatten()[0].item()

    found = [position for position, value in enumerate(values) if value == t]
    if not found:
        return None
    if len(found) > 1 and (index := getattr(scheduler, "step_index", None)) in found:
        return index
    return next((position for position in found if last is not None and position > last), found[0])
