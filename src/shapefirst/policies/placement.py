"""Where the guided steps of a generation lie, as rules that hold for any number of steps."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from shapefirst.errors import ShapefirstError
from shapefirst.signatures import guarded

__all__ = ["Budget", "Every", "Growing", "Placement"]


@runtime_checkable
class Placement(Protocol):
    """A rule that names the guided steps."""

    def steps(self, num_steps: int, others: int) -> frozenset[int]:
        """The guided ones of `num_steps` steps, where each of the others costs `others` evaluations (0 or 1).

        Raises:
            ShapefirstError: The rule cannot be followed in so many steps.
        """
        ...


@guarded
@dataclass(frozen=True)
class Every:
    """Every `gap`-th step, from the first on."""

    gap: int

    def __post_init__(self) -> None:
        if self.gap < 1:
            raise ShapefirstError(f"Every how many steps is a whole number from 1 up, not {self.gap}.")

    def steps(self, num_steps: int, others: int) -> frozenset[int]:
        return frozenset(range(0, num_steps, self.gap))


@guarded
@dataclass(frozen=True)
class Growing:
    """The first `first` steps, and then after gaps that grow by `ratio` from one to the next."""

    first: int
    ratio: float

    def __post_init__(self) -> None:
        if self.first < 1:
            raise ShapefirstError(f"The first guided steps must be 1 or more, not {self.first}.")
        if not 1 <= self.ratio < math.inf:
            raise ShapefirstError(f"Gaps grow by a finite ratio of 1 or more, not {self.ratio:g}.")

    def steps(self, num_steps: int, others: int) -> frozenset[int]:
        found = set(range(min(self.first, num_steps)))
        at, gap = float(self.first - 1), 1.0
        while (at := at + (gap := gap * self.ratio)) < num_steps - 0.5:
            found.add(round(at))
        return frozenset(found)


@guarded
@dataclass(frozen=True)
class Budget:
    """As many guided steps as `share` of the evaluations of full guidance pays for.

    They are the first ones up to a step, others after gaps that grow from there on, and the last: what a picture shows
    is decided in the noisy steps, where errors grow; later ones stay as they are. The first ones are `FIRST` of all
    guided steps, and as many as leave no two steps together for the others. Of the rules that were tried this one kept
    pocket's pictures best where people work, in 20 to 30 steps.
    """

    share: float

    FIRST: ClassVar[float] = 0.6
    #: Below this share of so few steps, fewer steps came nearer to pocket's pictures with solvers of higher order.
    WORTH: ClassVar[float] = 0.55
    #: The same for UniPC with even steps.
    WORTH_OF_UNIPC: ClassVar[float] = 0.45
    FEW: ClassVar[int] = 30
    LEAST: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ShapefirstError(f"A budget is a share of the evaluations, above 0 and up to 1, not {self.share:g}.")

    def is_too_small(self, num_steps: int, solver: str, config: Mapping[str, Any]) -> bool:
        """Whether fewer steps of the same sampler are the better way to save as much.

        They are for multistep solvers of order 2 and 3 that begin at full noise in any number of steps, and for DEIS;
        with Euler and DDIM, and with "leading" spacing, a budget is nearer (`benchmarks/results/few-steps.md`, and of
        UniPC `correction.md`).

        Args:
            num_steps: N.
            solver: The scheduler's class.
            config: Its configuration.
        """
        karras = bool(config.get("use_karras_sigmas"))
        worth = self.WORTH_OF_UNIPC if "UniPC" in solver and not karras else self.WORTH
        if self.share >= worth or num_steps > self.FEW or config.get("solver_order", 1) < 2:
            return False
        return karras or config.get("timestep_spacing") != "leading" or "DEIS" in solver

    def steps(self, num_steps: int, others: int) -> frozenset[int]:
        guided = math.floor((2 * num_steps * self.share - others * num_steps) / (2 - others) + 1e-9)
        least = min(self.LEAST, num_steps)
        if guided < least:
            if least == num_steps:
                raise ShapefirstError(
                    f"A generation of {num_steps} has too few steps to extrapolate from within a budget: take every:2, "
                    "or leave the budget out."
                )
            smallest = (2 * least + others * (num_steps - least)) / (2 * num_steps)
            raise ShapefirstError(
                f"A budget of {self.share:g} pays for {max(guided, 0)} guided steps of {num_steps}, too few to "
                f"extrapolate from: give {math.ceil(100 * smallest) / 100:g} or more."
            )
        return early(num_steps, guided, self.FIRST)


def early(num_steps: int, guided: int, first: float) -> frozenset[int]:
    """`guided` of `num_steps` steps: the first ones, others after gaps that grow, and the last; see `Budget`."""
    return spread(num_steps, guided, max(round(first * guided), 2 * guided - num_steps), 1, 1.2)


def spread(num_steps: int, guided: int, first: int, last: int, power: float) -> frozenset[int]:
    """`guided` of `num_steps` steps: the first and the last ones, and between them at x^power of the way."""
    found = set(range(min(first, num_steps))) | set(range(max(num_steps - last, 0), num_steps))
    free = sorted(set(range(num_steps)) - found)
    start, end, between = first - 1, num_steps - last, guided - len(found)
    for j in range(1, between + 1):
        place = start + (end - start) * (j / (between + 1)) ** power
        right = bisect_left(free, place)
        near = min(range(max(right - 1, 0), min(right + 1, len(free))), key=lambda i: (abs(free[i] - place), free[i]))
        found.add(free.pop(near))
    return frozenset(found)
