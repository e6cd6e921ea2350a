"""A policy that decides while sampling, and what all policies are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from shapefirst.checks import Steps
from shapefirst.errors import ShapefirstError
from shapefirst.policies.placement import UNEVEN, Budget
from shapefirst.policies.schedule import Kept, TextSchedule, check_kept
from shapefirst.policies.solver import config_of
from shapefirst.signatures import guarded

__all__ = ["Auto", "Policy", "check_policy", "warn_of_small_budget"]


@guarded
@dataclass(frozen=True)
class Auto:
    """Each image decides for itself which steps evaluate both branches, by the error of the extrapolation.

    A guided step knows what the extrapolation would have been: its error in eps_hat, as a root mean square over the
    latents, times the way since the last guided step, in the u_t of `guidance.extrapolation`, is about the error e
    that the steps between have brought into the latents (which have a variance of about 1). It sets the number of steps
    to the next guided one, as an ODE solver sets its step size:

        gap' = gap (tol / e)^(1 / (order + 2)),    rounded down; at least 1, at most twice gap + 1 and MAX_GAP

    The first `order` + 2 steps and the last `LAST` are guided.

    Attributes:
        tol: The error that is let pass; 0 guides every step.
        keep: What the other steps evaluate, as in `TextSchedule`.
        order: Degree of the polynomial, 0 to 3.

    Raises:
        ShapefirstError: A tolerance that is negative or no number, an unknown branch or order.
    """

    tol: float
    keep: Kept = "neither"
    order: int = 1

    MAX_GAP: ClassVar[int] = 8
    LAST: ClassVar[int] = 2
    solver: ClassVar[None] = None  # it goes with any sampler, and any number of steps
    num_steps: ClassVar[None] = None
    own_steps: ClassVar[None] = None
    stands_for: ClassVar[None] = None
    guidance_scale: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 0 <= self.tol < math.inf:
            raise ShapefirstError(f"A tolerance is a finite number from 0 up, such as 0.006, not {self.tol:g}.")
        if self.order is None:
            raise ShapefirstError("Deciding by the extrapolation's error needs an order from 0 to 3, not None.")
        check_kept(self.keep, self.order)

    def next_gap(self, gap: int, error: float) -> int:
        """Steps to the next guided one, after one that came `gap` steps after its predecessor with this error.

        An error that is not a number, where predictions have overflown, lets no step pass.
        """
        most = min(2 * gap + 1, self.MAX_GAP)
        if math.isnan(error):
            return 1
        if error == 0:
            return most if self.tol > 0 else 1
        return max(1, math.floor(min(gap * (self.tol / error) ** (1 / (self.order + 2)), most)))

    def due(self, step: int, gap: int, num_steps: int) -> int:
        """The next guided step after `step`: `gap` later, and in any case the last `LAST` of the run."""
        return step + 1 if step + self.LAST >= num_steps else min(step + gap, num_steps - self.LAST)

    def in_run(self, solver: Any, calls: Sequence[int], levels: Sequence[float] | None = None) -> Auto:
        """Itself, whatever the run, see `TextSchedule.in_run`."""
        return self

    def __str__(self) -> str:
        return f"decides while sampling, tolerance {self.tol:g}"


Policy: TypeAlias = TextSchedule | Auto


@guarded
def check_policy(policy: Policy, num_steps: Steps) -> None:
    """Raise ShapefirstError if it is no policy, or one that cannot be followed in a run of ``num_steps`` steps."""
    if isinstance(policy, TextSchedule):
        policy.check(num_steps)
    elif not isinstance(policy, Auto):
        raise ShapefirstError(f"A policy is a TextSchedule or an Auto, not a {type(policy).__name__}.")


def warn_of_small_budget(policy: Policy, solver: Any, num_steps: Steps, whole: Steps | None = None) -> None:
    """Says where fewer steps of the sampler would come nearer than a budget does.

    Args:
        policy: As it holds in the run.
        solver: The scheduler.
        num_steps: N, the steps that run.
        whole: Those that were asked for, where only a part of them runs (image to image).
    """
    budget = policy.placement if isinstance(policy, TextSchedule) and policy.keep == "neither" else None
    if isinstance(budget, Budget) and budget.is_too_small(num_steps, solver):
        fewer = math.floor(budget.share * (whole or num_steps) + 1e-9)
        options = [name for name in UNEVEN if config_of(solver).get(name)]
        called = type(solver).__name__ + (f" with {options[0]}" if options else "")
        warnings.warn(
            f"With {called} a budget of {budget.share:g} over {num_steps} steps strayed further from the pictures of "
            f"all steps than as few steps of the same sampler did, on pocket: give num_inference_steps={fewer} "
            "instead, or a policy of `shapefirst tune`.",
            stacklevel=3,
        )
