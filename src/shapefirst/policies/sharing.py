"""What several policies cost on the same prompts and noise, where what they have in common is done once: no torch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from shapefirst.checks import Steps
from shapefirst.policies.auto import Auto, Policy
from shapefirst.policies.correction import is_corrected
from shapefirst.policies.schedule import calls_in
from shapefirst.signatures import Positive, guarded

__all__ = ["evaluations_together"]


@guarded
def evaluations_together(
    policies: Sequence[Policy],
    num_steps: Steps,
    guidance_scale: float,
    solver_order: Positive = 1,
    solver: Any = None,
    levels: Sequence[float] | None = None,
) -> int:
    """Denoiser evaluations per image of `sampling.together.denoise_together`.

    It is at most so many where a policy decides while sampling: it is taken to guide every step, and to have no more
    than its first ones in common with others. Without the scheduler and its levels budgets lie as with most
    (`placement.Budget.with_solver`), and none corrects its latents (`correction`): with others it can be a few more.

    Raises:
        ShapefirstError: A policy that does not fit the number of steps.
    """
    calls = [calls_in(step, num_steps, solver_order) for step in range(num_steps)]
    policies = [policy.in_run(solver, calls, levels) for policy in policies]
    count = 0
    told: list[tuple[tuple[int, Hashable], ...]] = [()] * len(policies)  # what each has done so far
    for step in range(num_steps):
        ways = [_way(policy, step, num_steps, guidance_scale, solver) for policy in policies]
        told = [(*before, way) for before, way in zip(told, ways, strict=True)]
        count += calls[step] * sum(done[-1][0] for done in set(told))
    return count


def _way(policy: Policy, step: int, num_steps: int, guidance_scale: float, solver: Any) -> tuple[int, Hashable]:
    """Evaluations in a call of the step, and what tells the policy from those that do something else there."""
    if guidance_scale <= 1:
        return 1, "text"
    if isinstance(policy, Auto):
        return 2, ("both", True) if step < policy.order + 2 else policy
    if policy.uses_text(step, num_steps):
        return 2, ("both", is_corrected(policy, step, num_steps, solver))
    return policy.others, (policy.keep, policy.order)
