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

from typing import Any

import torch

__all__ = ["position_of", "steps_of"]


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
