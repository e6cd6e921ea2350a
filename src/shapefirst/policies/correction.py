"""Solvers that correct their latents (UniPC), where a policy skips steps.

UniPC moves x_i once the prediction at x_i is known, and keeps that prediction as it is (Zhao et al. 2023, arXiv
2302.04867, algorithm 1). So each prediction is of latents that were moved afterwards, and the difference of two
neighbours, which an extrapolation carries over a gap, holds more than their slope. Without the corrections from shortly
before the first gap on, budgets stayed up to three times closer to the pictures of the run that corrects all of its
steps (pocket, 20 and 25 steps; `benchmarks/correction.py`). Where each image decides by a tolerance, corrections did no
harm, and stay. They stay, too, where a pipeline samples with copies of its scheduler, which a hook does not see
(SkyReels' diffusion forcing).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule

__all__ = ["first_departure", "follow_corrections", "is_corrected"]

#: Steps before the first that is skipped, of which the first gaps extrapolate.
BEFORE: Final = 4


def is_corrected(policy: Policy, step: int, num_steps: int, solver: Any) -> bool:
    """Whether a solver takes a step as it would without the policy: all do that have no corrector."""
    if not isinstance(policy, TextSchedule) or not _parts_early(policy, solver):
        return True
    skipped = _first_skipped(policy, num_steps)
    return skipped is None or step < skipped - BEFORE


def follow_corrections(policy: Policy, step: int, num_steps: int, solver: Any) -> None:
    """Before a solver's step: UniPC corrects the latents that it remembers, if it remembers some."""
    if not is_corrected(policy, step, num_steps, solver):
        solver.last_sample = None


def first_departure(schedule: TextSchedule, num_steps: int, solver: Any) -> int:
    """The first step that is not the fully guided run's, as it is skipped or not corrected; 0 if there is none."""
    skipped = _first_skipped(schedule, num_steps) or 0
    return max(skipped - BEFORE, 0) if _parts_early(schedule, solver) else skipped


def _parts_early(schedule: TextSchedule, solver: Any) -> bool:
    return schedule.keep == "neither" and hasattr(solver, "disable_corrector")


@lru_cache(maxsize=256)
def _first_skipped(schedule: TextSchedule, num_steps: int) -> int | None:
    return min(frozenset(range(num_steps)) - schedule.guided_steps(num_steps), default=None)
