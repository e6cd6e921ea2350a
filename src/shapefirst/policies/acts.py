"""What a schedule does in a step, and what several cost that do the same for a while: plain data, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shapefirst.policies.schedule import Branch, TextSchedule, calls_in

__all__ = ["Act", "act_at", "evaluations_together"]


@dataclass(frozen=True)
class Act:
    """What a step does: the branches that it evaluates, and how it makes up for one that it does not (an order)."""

    branches: tuple[Branch, ...]
    order: int | None = None


def act_at(schedule: TextSchedule, step: int, num_steps: int, guidance_scale: float) -> Act:
    """What a schedule does in a step; two schedules are one run for as long as this is the same."""
    if guidance_scale <= 1:
        return Act(("text",))
    if schedule.uses_text(step, num_steps):
        return Act(("null", "text"))
    return Act(() if schedule.keep == "neither" else (schedule.keep,), schedule.order)


def evaluations_together(
    schedules: Sequence[TextSchedule], num_steps: int, guidance_scale: float, solver_order: int = 1
) -> int:
    """Denoiser evaluations per image of `together.denoise_together`.

    Raises:
        ShapefirstError: A schedule that does not fit the number of steps.
    """
    count = 0
    told: list[tuple[Act, ...]] = [()] * len(schedules)  # what each schedule has done so far
    for step in range(num_steps):
        told = [
            (*before, act_at(schedule, step, num_steps, guidance_scale))
            for before, schedule in zip(told, schedules, strict=True)
        ]
        count += calls_in(step, num_steps, solver_order) * sum(len(done[-1].branches) for done in set(told))
    return count
