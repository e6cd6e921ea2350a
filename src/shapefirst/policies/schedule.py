"""Which denoising steps use the text, as plain data.

Classifier-free guidance combines two predictions in each of the N steps (Yi et al. 2024, arXiv 2405.15330, eq. 9),

    eps_hat = eps(t, x, 0) + w (eps(t, x, C) - eps(t, x, 0)),

and so costs two denoiser evaluations per image. In a step that is not guided, a single branch runs and stands for
eps_hat: the null branch eps(t, x, 0), as in the paper, or the text branch eps(t, x, C). To keep the picture, what does
not run can be extrapolated from the guided steps before: the difference d of the two,

    eps_hat = eps(t, x, 0) + w d             null branch kept
    eps_hat = eps(t, x, C) + (w - 1) d       text branch kept

or both predictions, where neither branch runs.

Steps are counted from 0 in sampling order: step 0 is the noisiest.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Annotated, Any, Final, Literal, SupportsIndex, TypeAlias

from shapefirst.checks import BOUNDS, Steps, share_in
from shapefirst.errors import ShapefirstError, said
from shapefirst.policies.placement import Budget, Every, Growing, Placement
from shapefirst.policies.solver import Solver
from shapefirst.signatures import From, Positive, guarded

__all__ = ["Branch", "Kept", "TextSchedule", "Window", "calls_in", "check_kept"]

Branch: TypeAlias = Literal["null", "text"]
Kept: TypeAlias = Literal["null", "text", "neither"]
Window: TypeAlias = tuple[int, int | None]

_MOST: Final = int(BOUNDS["steps"][1])
ALL_STEPS: Final[tuple[Window, ...]] = ((0, None),)


@guarded
@dataclass(frozen=True)
class TextSchedule:
    """The steps that evaluate both branches, and what the other steps do.

    Attributes:
        windows: Half-open ranges (start, stop) of guided steps; a stop of None is the end of the run. They are stored
            in order, without empty or touching ones, so that equal schedules compare equal.
        keep: The one branch that the other steps evaluate: "null" (the paper) or "text"; or "neither".
        fraction: If given, the guided steps are the first floor(fraction N + 1/2) of the run's N steps. It lies in
            [0, 1].
        placement: If given, a rule that names the guided steps. Only one of windows, fraction and placement is given.
        order: What stands for the predictions that are not evaluated. None: nothing, the branch that runs is taken for
            eps_hat. 0: those of the last guided step are used again. 1 to 3: they are extrapolated, by a polynomial of
            this degree through the last order + 1 guided steps (see `guidance.extrapolation`). Where one branch runs,
            that is done with the difference of the two, where neither does, with both. "neither" needs an order.
        num_steps: If given, the N that the schedule was made for: another is refused.
        solver: If given, what `guide` and `denoise` sample with in the place of the pipeline's scheduler.
        stands_for: If given, the N of the run that it takes the place of: what was saved is counted against that.
        guidance_scale: If given, the w that the policy was tuned at: calls under `guide` that say none take it.

    Raises:
        ShapefirstError: A bound that is no whole number or is negative, a window that ends before it starts, a
            fraction outside [0, 1], an unknown branch, an order that does not exist or is missing.
    """

    windows: tuple[Window, ...] = ALL_STEPS
    keep: Kept = "null"
    fraction: Annotated[float, From(0, 1)] | None = None
    placement: Placement | None = None
    order: int | None = None
    num_steps: Steps | None = None
    solver: Solver | None = None
    stands_for: Steps | None = None
    guidance_scale: float | None = None

    def __post_init__(self) -> None:
        check_kept(self.keep, self.order)
        windows = _merged(self.windows)
        if self.fraction is not None:
            object.__setattr__(self, "fraction", float(self.fraction))
        if (windows != ALL_STEPS) + (self.fraction is not None) + (self.placement is not None) > 1:
            raise ShapefirstError(
                "A schedule takes windows of steps or a fraction of the steps, or a placement of them, not both."
            )
        if self.solver is not None and self.num_steps is None:
            raise ShapefirstError("A policy with a solver of its own says how many steps that takes: give num_steps.")
        object.__setattr__(self, "windows", windows)

    @classmethod
    @guarded
    def until(
        cls,
        step: SupportsIndex | None = None,
        *,
        fraction: float | str | None = None,
        keep: Branch = "null",
    ) -> TextSchedule:
        """Text in the first `step` steps, or in the first `fraction` (0.5, "50%"): exactly one of the two is given."""
        if (step is None) == (fraction is None):
            raise ShapefirstError("Give either a step (say, step=25) or a fraction (say, fraction=0.5) of the steps.")
        if step is None:
            return cls(fraction=share_in(fraction, "fraction", "fraction={}"), keep=keep)
        return cls(windows=((0, _whole(step, "step")),), keep=keep)

    @classmethod
    @guarded
    def starting_at(cls, step: SupportsIndex, *, keep: Branch = "null") -> TextSchedule:
        """Text from `step` to the end."""
        return cls(windows=((_whole(step, "step"), None),), keep=keep)

    @classmethod
    @guarded
    def window(cls, start: SupportsIndex, stop: SupportsIndex | None, *, keep: Branch = "null") -> TextSchedule:
        """Text in the steps start, ..., stop - 1."""
        return cls(windows=((_whole(start, "start"), None if stop is None else _whole(stop, "stop")),), keep=keep)

    @classmethod
    @guarded
    def always(cls) -> TextSchedule:
        """Text in every step: the stock pipeline."""
        return cls()

    @classmethod
    @guarded
    def never(cls, *, keep: Branch = "null") -> TextSchedule:
        """Text in no step."""
        return cls(windows=(), keep=keep)

    @classmethod
    @guarded
    def every(cls, gap: int, *, keep: Kept = "neither", order: int | None = 1) -> TextSchedule:
        """Both branches in every `gap`-th step, extrapolated between them."""
        return cls(placement=Every(gap), keep=keep, order=order)

    @classmethod
    @guarded
    def growing(cls, first: int, ratio: float, *, keep: Kept = "neither", order: int | None = 1) -> TextSchedule:
        """Both branches in the first `first` steps and then after gaps that grow by `ratio`, extrapolated between."""
        return cls(placement=Growing(first, ratio), keep=keep, order=order)

    @classmethod
    @guarded
    def at(cls, steps: Iterable[SupportsIndex], *, keep: Kept = "neither", order: int | None = 1) -> TextSchedule:
        """Both branches in these steps, extrapolated between them."""
        guided = [_whole(step, "step") for step in islice(steps, _MOST + 1)]
        if len(guided) > _MOST:
            raise ShapefirstError(f"A policy has at most {_MOST:,} guided steps: at() was given more.")
        return cls(windows=tuple((step, step + 1) for step in guided), keep=keep, order=order)

    @classmethod
    @guarded
    def within(cls, budget: float | str, *, keep: Kept = "neither", order: int | None = 1) -> TextSchedule:
        """As many guided steps as `budget`, a share of the evaluations of full guidance, pays for; well placed."""
        return cls(placement=Budget(share_in(budget, "budget", "budget={}")), keep=keep, order=order)

    @classmethod
    @guarded
    def solved(cls, solver: Solver, num_steps: Steps, stands_for: Steps | None = None) -> TextSchedule:
        """Every step whole, sampled with a solver of its own in so many steps, in place of a run of `stands_for`."""
        return cls(keep="neither", order=0, num_steps=num_steps, solver=solver, stands_for=stands_for)

    def check(self, num_steps: Steps) -> None:
        """Raise ShapefirstError if the schedule cannot be followed in a run of `num_steps` steps."""
        self.guided_steps(num_steps)

    @guarded
    def guided_steps(self, num_steps: Steps) -> frozenset[int]:
        """The steps that evaluate both branches.

        Raises:
            ShapefirstError: No steps, a window that reaches beyond `num_steps`, a budget that is too small, or a
                schedule that extrapolates and does not begin with a guided step.
        """
        return _guided_steps(self, num_steps)

    @guarded
    def uses_text(self, step: int, num_steps: Steps) -> bool:
        """Whether step `step` of `num_steps` is a guided one.

        Raises:
            ShapefirstError: If `step` is not in [0, num_steps), or as `guided_steps`.
        """
        guided = _guided_steps(self, num_steps)
        if not 0 <= step < num_steps:
            raise ShapefirstError(f"A generation of {num_steps} has no step {step}.")
        return step in guided

    def text_steps(self, num_steps: Steps) -> int:
        """The number of guided steps, in [0, num_steps]."""
        return len(self.guided_steps(num_steps))

    @guarded
    def calls(self, num_steps: Steps, solver_order: Positive = 1) -> tuple[int, int]:
        """Calls of the denoiser in the guided steps, and in the others.

        Args:
            num_steps: N.
            solver_order: The scheduler's ``order``, see `calls_in`.
        """
        guided = self.guided_steps(num_steps)
        each = [calls_in(step, num_steps, solver_order) for step in range(num_steps)]
        of_guided = sum(each[step] for step in guided)
        return of_guided, sum(each) - of_guided

    @guarded
    def evaluations(self, num_steps: Steps, solver_order: Positive = 1) -> int:
        """Denoiser evaluations per image: 2 for a guided call, and 1 for any other, or none if it keeps neither branch.

        The arguments are those of `calls`.
        """
        guided, others = self.calls(num_steps, solver_order)
        return 2 * guided + self.others * others

    def in_run(self, solver: Any, calls: Sequence[int], levels: Sequence[float] | None = None) -> TextSchedule:
        """The schedule as it holds in a run: its budget's steps lie as the solver asks, and its calls are paid for.

        Args:
            solver: The scheduler, if it is known.
            calls: Of the denoiser, of each step.
            levels: How much noise there is at each step, u_t (see `families.noise`), if it is known.

        Raises:
            ShapefirstError: A budget that is too small for that.
        """
        if not isinstance(self.placement, Budget):
            return self
        budget = self.placement
        if self.keep == "neither":
            budget = budget.with_solver(solver, len(calls), levels)
        return replace(self, placement=budget.held_in_calls(calls, self.others))

    @property
    def own_steps(self) -> int | None:
        """The N that it samples in, whatever that of the run in whose place it stands; None where it has that run's."""
        return self.num_steps if self.solver is not None or self.stands_for is not None else None

    @property
    def others(self) -> int:
        """Evaluations in a step that is not guided: 0 or 1."""
        return int(self.keep != "neither")

    def saved(self, num_steps: Steps, solver_order: Positive = 1) -> float:
        """The share of the evaluations of full guidance that is saved; (N - k) / (2 N) where one branch is kept."""
        return 1 - self.evaluations(num_steps, solver_order) / TextSchedule().evaluations(num_steps, solver_order)

    def strip(self, num_steps: Steps) -> str:
        """One character a step: # both branches; n or t: the one that runs, N or T: the other extrapolated; . none.

        A budget's steps lie as with most solvers; `in_run` gives those of one.
        """
        other = "." if self.keep == "neither" else self.keep[0]
        guided = self.guided_steps(num_steps)
        other = other if self.order is None else other.upper()
        return "".join("#" if step in guided else other for step in range(num_steps))

    def __str__(self) -> str:
        """The strip of the fewest steps that the schedule fits, from 50 to 1000; its fields where it fits none."""
        for num_steps in range(50, 1001) if self.num_steps is None else (self.num_steps,):
            with suppress(ShapefirstError):
                return self.strip(num_steps)
        return repr(self)


def check_kept(keep: object, order: object) -> None:
    """Raise ShapefirstError for an unknown branch or order, or if they leave steps without a prediction."""
    if not isinstance(keep, str) or keep not in ("null", "text", "neither"):
        branches = '"null" or "text"' if order is None else '"null", "text" or "neither"'
        raise ShapefirstError(f"keep must be {branches}, not {said(keep)}.")
    if order is not None and (not isinstance(order, int) or isinstance(order, bool) or order not in range(4)):
        raise ShapefirstError(f"order must be 0 (the last prediction again), 1, 2 or 3, or None, not {said(order)}.")
    if keep == "neither" and order is None:
        raise ShapefirstError(
            'Steps that keep neither branch need a prediction: give an order from 0 to 3 with "neither".'
        )


@guarded
def calls_in(step: int, num_steps: Steps, solver_order: Positive) -> int:
    """How often a solver calls the denoiser in a step: once, or with order 2 (Heun) twice in all but the last."""
    return solver_order if step < num_steps - 1 else 1


@lru_cache(maxsize=256)
def _guided_steps(schedule: TextSchedule, num_steps: Steps) -> frozenset[int]:
    if schedule.num_steps not in (None, num_steps):
        raise ShapefirstError(
            f"This policy was made for {schedule.num_steps} steps, but this generation has {num_steps}: sample with "
            f"num_inference_steps={schedule.num_steps}, or tune one for {num_steps}."
        )
    last = max((start if stop is None else stop - 1 for start, stop in schedule.windows), default=0)
    if any(bound is not None and bound > num_steps for window in schedule.windows for bound in window):
        beyond = f"step {last}, counted from 0, but the last step of this generation of {num_steps} is {num_steps - 1}"
        if schedule.windows == ((0, last + 1),):
            beyond = f"the first {last + 1} steps, but this generation has {num_steps}"
        raise ShapefirstError(
            f"The text schedule guides {beyond}: name steps that it has, or a share of them such as paper:0.5."
        )
    if schedule.fraction is not None:
        guided = frozenset(range(math.floor(schedule.fraction * num_steps + 0.5)))
    elif schedule.placement is not None:
        guided = schedule.placement.steps(num_steps, schedule.others)
    else:
        guided = frozenset(
            step for start, stop in schedule.windows for step in range(start, num_steps if stop is None else stop)
        )
    if schedule.order is not None and 0 not in guided:
        raise ShapefirstError("A schedule that extrapolates needs a guided step to begin with: add step 0.")
    return guided


def _merged(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    """The same steps as ordered, non-empty, disjoint windows."""
    spans = []
    for window in windows:
        try:
            first, last = window
        except (TypeError, ValueError):
            raise ShapefirstError(f"A window is a pair (start, stop), not {said(window)}.") from None
        start = _whole(first, "start")
        stop = math.inf if last is None else _whole(last, "stop")
        if stop < start:
            raise ShapefirstError(f"The window ({first}, {last}) ends before it starts.")
        if stop > start:
            spans.append((start, stop))
    merged: list[tuple[int, float]] = []
    for start, stop in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple((start, None if stop == math.inf else int(stop)) for start, stop in merged)


def _whole(value: object, name: str) -> int:
    """`value` as a whole number of steps, >= 0."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < 2**63 or isinstance(value, bool):
        part = value.endswith("%") if isinstance(value, str) else isinstance(value, float) and 0 < value < 1
        meant = f": did you mean fraction={said(value)}?" if part else "."
        raise ShapefirstError(f"{name} must be a whole number of steps, 0 or more, not {said(value)}{meant}")
    return number
