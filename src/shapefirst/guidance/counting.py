"""What a block wants, and what was done in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shapefirst.policies.auto import Policy

__all__ = ["Block", "Evaluations"]


@dataclass
class Evaluations:
    """What the denoisers have really done since the block was entered.

    Attributes:
        rows: Rows evaluated, over all calls: with B images and both branches in one batch, 2B for a guided step.
        calls: Calls of the denoisers, those that evaluated nothing left out.
        asked: Rows that the pipeline asked for: what full guidance would have evaluated.
        asked_calls: Calls that it asked for.
        control_rows: Rows evaluated by a ControlNet.
    """

    rows: int = 0
    calls: int = 0
    asked: int = 0
    asked_calls: int = 0
    control_rows: int = 0

    @property
    def saved(self) -> float:
        """The share of the rows that were asked for and not evaluated."""
        return 1 - self.rows / self.asked if self.asked else 0.0


@dataclass(eq=False)
class Block:
    """A block's policy and its counter.

    Attributes:
        policy: The policy.
        evaluations: The counter.
        conditions: What the branches of its latest generation were last given, which all denoisers of a pipeline share.
        has_warned: Whether it has said that there is nothing to drop.
    """

    policy: Policy
    evaluations: Evaluations = field(default_factory=Evaluations)
    conditions: dict[str, dict[str, Any]] = field(default_factory=dict)
    has_warned: bool = False
