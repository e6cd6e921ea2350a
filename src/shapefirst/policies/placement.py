"""Where the guided steps of a generation lie, as rules that hold for any number of steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from shapefirst.errors import ShapefirstError
from shapefirst.policies.solver import config_of, is_flow, is_of_first_order, shift_of
from shapefirst.policies.spacing import by_error, early, evenly, leaves_none_together
from shapefirst.signatures import guarded

__all__ = ["Budget", "Every", "Growing", "Placement"]

#: What a scheduler's configuration says of steps that do not lie evenly in a noise model's timesteps.
UNEVEN: Final = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "use_flow_sigmas",
    "sigma_schedule",
)
_by_error = lru_cache(maxsize=64)(by_error)  # each run asks what its calls cost, and then which they are


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

    They are the first ones up to a step, others after gaps that grow from there on, and the `last`: what a picture
    shows is decided in the noisy steps, where errors grow; later ones stay as they are. The first ones are `FIRST` of
    all guided steps, if that leaves the last ones, and as many as leave no two steps together for the others. Of the
    rules that were tried this one kept pocket's pictures best where people work, in 20 to 30 steps.

    Along a flow whose times are shifted the first steps are short, and later ones long: there gaps are even, and no
    more steps come first than leave no two together for the others. Where the solver is of first order, and makes no
    more of an error than it is, they are those without which the error is least; along such a flow where even gaps
    would leave two together.

    Attributes:
        share: Of the evaluations of full guidance, above 0 and up to 1.
        last: How many steps at the end are guided in any case; None: as many as `with_solver` finds for a run, else 1.
        evenly: Gaps are even, as `with_solver` finds it for a run.
        levels: How much noise there is at each step of a run, u_t, if `with_solver` finds that steps go by that.
        flow: They are those of a flow.
    """

    share: float
    last: int | None = None
    evenly: bool = False
    levels: tuple[float, ...] | None = None
    flow: bool = False

    FIRST: ClassVar[float] = 0.6
    #: How many last steps a multistep solver of order 2 needs whose steps lie evenly in the timesteps: in the last ones
    #: log sigma falls furthest, and the difference of two predictions counts for more than in any before.
    LAST_OF_EVEN: ClassVar[int] = 2
    LAST_OF_DEIS: ClassVar[int] = 3
    #: From which shift on a flow's first steps are short enough to be spared: 2 was measured to be, and 1 not to be.
    SHIFTED: ClassVar[float] = 1.5
    #: With a smaller share the steps before them are missed more.
    LEAST_SHARE: ClassVar[float] = 0.4
    #: Shares below which fewer steps came nearer to pocket's pictures, in up to `FEW` steps and in more.
    WORTH: ClassVar[tuple[float, float]] = (0.4, 0.25)
    WORTH_OF_HIGHER_ORDER: ClassVar[tuple[float, float]] = (0.45, 0.35)
    #: Where they are left out at the least error.
    WORTH_BY_ERROR: ClassVar[tuple[float, float]] = (0.25, 0.2)
    #: In any number of steps: with Karras' times and a higher order; with beta sigmas by order 1, and by a higher one.
    WORTH_OF_KARRAS: ClassVar[float] = 0.55
    WORTH_OF_BETA: ClassVar[tuple[float, float]] = (0.7, 1.0)
    #: Along a flow whose times are shifted, and along any by a higher order.
    WORTH_OF_FLOWS: ClassVar[tuple[float, float]] = (0.5, 0.4)
    WORTH_OF_FLOWS_OF_HIGHER_ORDER: ClassVar[tuple[float, float]] = (0.55, 0.4)
    FEW: ClassVar[int] = 30
    #: Up to which number of steps they go by the error: finding them takes time that grows with N^2.
    MOST_STEPS: ClassVar[int] = 250
    LEAST: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ShapefirstError(f"A budget is a share of the evaluations, above 0 and up to 1, not {self.share:g}.")
        if self.last is not None and not 1 <= self.last < self.LEAST:
            raise ShapefirstError(f"A budget guides the last 1 to {self.LEAST - 1} steps in any case, not {self.last}.")

    def with_solver(self, solver: Any, num_steps: int, levels: Sequence[float] | None = None) -> Budget:
        """The budget where this scheduler samples, as far as was measured: `benchmarks/results/last-steps.md`, and
        `placed-steps.md` for flows and for solvers of first order.

        Args:
            solver: The scheduler.
            num_steps: N.
            levels: u_t (see `families.noise`) at each step, if they are known.
        """
        name, config = type(solver).__name__, config_of(solver)
        adds_noise = str(config.get("algorithm_type")).startswith("sde") or config.get("stochastic_sampling")
        if self.last is not None or adds_noise or "LCM" in name:
            return self
        flow = is_flow(config)
        own = replace(self, evenly=flow and shift_of(config, levels) >= self.SHIFTED)
        if levels is not None and is_of_first_order(name, config) and num_steps <= self.MOST_STEPS:
            return replace(own, levels=tuple(levels), flow=flow)
        if flow:
            return own
        is_multistep = "Multistep" in name and config.get("solver_order") == 2
        is_even = not any(config.get(option) for option in UNEVEN)
        guided = self._paid_for(num_steps, 0)
        few = guided < self.LEAST_SHARE * num_steps - 1e-9
        if not is_multistep or not is_even or few:
            return self
        last = self.LAST_OF_DEIS if "DEIS" in name else self.LAST_OF_EVEN
        return replace(self, last=max(1, min(last, guided // 3)))

    def held_in_calls(self, calls: Sequence[int], others: int) -> Budget:
        """The budget that holds in calls of the denoiser, of which step i has ``calls[i]``; see `steps` for `others`.

        PNDM has more of them in its first step, which every budget guides.

        Raises:
            ShapefirstError: It is too small for that.
        """
        num_steps = len(calls)
        most, least = self._paid_for(num_steps, others), min(self.LEAST, num_steps)
        for guided in range(most, least - 1, -1):
            budget = self if guided == most else self._guiding(guided, num_steps, others)
            if budget._spent(calls, others) <= self.share + 1e-9:
                return budget
        raise self._too_small(calls, others)

    def is_too_small(self, num_steps: int, solver: Any) -> bool:
        """Whether fewer steps of the same sampler are the better way to save as much; see `with_solver`.

        They are below a share that depends on how its steps lie and on its order (`benchmarks/results/few-steps.md`,
        `few-steps-50.md`, of UniPC `correction.md`, and of flows `placed-steps.md`). With "leading" spacing fewer
        steps begin later, and are further off. Beta sigmas lie close at the start, where a budget leaves no step out,
        and far apart at the end.

        Args:
            num_steps: N.
            solver: The scheduler.
        """
        config = config_of(solver)
        is_higher, are_many = (config.get("solver_order") or 1) > 1, num_steps > self.FEW
        if self.levels is not None and not self.flow:
            return self.share < self.WORTH_BY_ERROR[are_many]
        if config.get("use_beta_sigmas"):
            return self.share < self.WORTH_OF_BETA[is_higher]
        if is_flow(config) and is_higher:
            return self.share < self.WORTH_OF_FLOWS_OF_HIGHER_ORDER[are_many]
        if self.evenly:
            return self.share < self.WORTH_OF_FLOWS[are_many]
        if not is_higher:
            return self.share < self.WORTH[are_many]
        if config.get("use_karras_sigmas"):
            return self.share < self.WORTH_OF_KARRAS
        begins_later = config.get("timestep_spacing") == "leading" and "DEIS" not in type(solver).__name__
        return self.share < self.WORTH_OF_HIGHER_ORDER[are_many or begins_later]

    def steps(self, num_steps: int, others: int) -> frozenset[int]:
        guided = self._paid_for(num_steps, others)
        if guided < min(self.LEAST, num_steps):
            raise self._too_small([1] * num_steps, others)
        if self.evenly and (self.levels is None or leaves_none_together(num_steps, guided)):
            return evenly(num_steps, guided)
        if self.levels is not None and guided < num_steps:
            return _by_error(self.levels, guided, flow=self.flow)
        return early(num_steps, guided, self.FIRST, self.last or 1)

    def _paid_for(self, num_steps: int, others: int) -> int:
        """How many guided steps; see `steps`."""
        return math.floor((2 * num_steps * self.share - others * num_steps) / (2 - others) + 1e-9)

    def _guiding(self, guided: int, num_steps: int, others: int) -> Budget:
        """The budget that pays for so many guided steps and no more."""
        return replace(self, share=(2 * guided + others * (num_steps - guided)) / (2 * num_steps))

    def _spent(self, calls: Sequence[int], others: int) -> float:
        """The share of the evaluations of full guidance, where step i has ``calls[i]`` calls."""
        guided = self.steps(len(calls), others)
        return sum(2 * n if step in guided else others * n for step, n in enumerate(calls)) / (2 * sum(calls))

    def _too_small(self, calls: Sequence[int], others: int) -> ShapefirstError:
        """The error of a budget that does not pay for the fewest guided steps, and which one does."""
        num_steps = len(calls)
        if num_steps <= self.LEAST:
            return ShapefirstError(
                f"A generation of {num_steps} has too few steps to extrapolate from within a budget: take every:2, or "
                "leave the budget out."
            )
        fewest = self._guiding(self.LEAST, num_steps, others)
        enough = math.ceil(100 * max(fewest.share, fewest._spent(calls, others)) - 1e-9) / 100
        guided = max(self._paid_for(num_steps, others), 0)
        pays = f"pays for {guided} guided steps of {num_steps}, too few to extrapolate from"
        if calls[0] > max(calls[1:]):
            first = f"as this solver's first step has {calls[0]} calls"
            pays = f"does not pay for the guided steps to extrapolate from, {first}"
        return ShapefirstError(f"A budget of {self.share:g} {pays}: give {enough:g} or more.")
