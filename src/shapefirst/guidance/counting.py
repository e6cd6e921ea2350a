"""What a block wants, and what was done in it."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch

from shapefirst.guidance.introspection import share_memory
from shapefirst.policies.auto import Policy

__all__ = ["Block", "Evaluations", "UnguidedWarning", "warn_unguided"]


@dataclass
class Evaluations:
    """What the denoisers have really done since the block was entered.

    Attributes:
        rows: Rows evaluated, over all calls: with B images and both branches in one batch, 2B for a guided step.
        calls: Calls of the denoisers, those that evaluated nothing left out.
        asked: Rows that the pipeline asked for: what full guidance would have evaluated, of a tuned policy in all steps
            of the run that it takes the place of.
        asked_calls: Calls that it asked for.
        control_rows: Rows evaluated by a ControlNet.

    ``print`` says it in a sentence.
    """

    rows: int = 0
    calls: int = 0
    asked: int = 0
    asked_calls: int = 0
    control_rows: int = 0
    _began: float = field(default_factory=time.perf_counter, repr=False, compare=False)
    _ended: float | None = field(default=None, repr=False, compare=False)

    @property
    def saved(self) -> float:
        """The share of the rows that were asked for and not evaluated."""
        return 1 - self.rows / self.asked if self.asked else 0.0

    @property
    def seconds(self) -> float:
        """Of the clock, since the block was entered, and until it ended where it has: of all that ran in it."""
        return (time.perf_counter() if self._ended is None else self._ended) - self._began

    def end(self) -> None:
        """Stop the clock, where it runs."""
        if self._ended is None:
            self._ended = time.perf_counter()

    def __str__(self) -> str:
        return f"{self.rows} of {self.asked} evaluations, {self.saved:.0%} saved, in {self.seconds:.1f} s"


@dataclass(eq=False)
class Block:
    """A block's policy and its counter.

    Attributes:
        policy: The policy.
        evaluations: The counter.
        scheduler: The policy's own solver on the pipeline, if it has one.
        solver_order: Calls of the denoiser in each of the policy's steps but the last.
    """

    policy: Policy
    evaluations: Evaluations = field(default_factory=Evaluations)
    scheduler: Any = None
    solver_order: int = 1
    _asked_for: Fraction = Fraction()
    _calls_asked_for: Fraction = Fraction()
    _conditions: tuple[torch.Tensor | None, dict[str, dict[str, Any]]] = field(default_factory=lambda: (None, {}))
    _has_warned: bool = False

    @property
    def part(self) -> Fraction:
        """Of the run that the policy stands for, for each call of its own fewer steps."""
        own, stands_for = self.policy.num_steps, self.policy.stands_for
        if stands_for is None or own is None:
            return Fraction(1)
        return Fraction(self._calls(stands_for), self._calls(own))

    def ask(self, rows: int, part: Fraction) -> None:
        """Count a call that the pipeline asks for, as the `part` that it is of the block whose policy holds."""
        self._asked_for += rows * part
        self._calls_asked_for += part
        self.evaluations.asked = round(self._asked_for)
        self.evaluations.asked_calls = round(self._calls_asked_for)

    def _calls(self, steps: int) -> int:
        """Of the denoiser in a run of so many steps, see `calls_in`."""
        return self.solver_order * (steps - 1) + 1

    def conditions_of(self, timesteps: torch.Tensor) -> dict[str, dict[str, Any]]:
        """What the branches of the generation over these timesteps were last given, for all denoisers of a pipeline."""
        if self._conditions[0] is None or not share_memory(timesteps, self._conditions[0]):
            self._conditions = timesteps, {}
        return self._conditions[1]

    def warn_unguided(self, pipe: str) -> None:
        """Say once that there is nothing to drop."""
        if not self._has_warned:
            self._has_warned = True
            warn_unguided(pipe)


class UnguidedWarning(UserWarning):
    """A call has no branch that a policy could drop."""


def warn_unguided(pipe: str, instead: str = "budget=0.6 or every:2, which skip whole evaluations") -> None:
    """Say that there is nothing to drop, and what to do ``instead``."""
    warnings.warn(
        f"This call of {pipe} runs without classifier-free guidance, at least in some steps, so "
        f"there is no branch to drop in them: give guidance_scale=7.5 or another scale above 1, or {instead}.",
        UnguidedWarning,
        stacklevel=3,
    )
