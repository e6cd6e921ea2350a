"""The policies that could be chosen, what they cost, and the choice among those that ran."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from shapefirst.checks import Steps
from shapefirst.errors import ShapefirstError
from shapefirst.measure.intervals import SHARE, Interval, bootstrap
from shapefirst.policies.placement import Budget
from shapefirst.policies.schedule import Kept, TextSchedule
from shapefirst.policies.spacing import by_error, early, evenly, spread
from shapefirst.signatures import Positive, guarded
from shapefirst.tuning.goals import CONVERGED_STEPS, FEWEST

__all__ = [
    "Candidate",
    "Costs",
    "Found",
    "candidates",
    "check_choice",
    "check_reach",
    "choice_by",
    "choose",
    "near_miss",
    "shortlist",
]

SAVINGS: Final = (0.25, 0.33, 0.4, 0.5, 0.6, 0.7)  # of the evaluations: where the front is looked for
PAPERS: Final = (0.25, 0.4)  # the same for the paper's rule, which is there to compare with
POWERS: Final = (1.25, 1.5, 1.8)
ORDERS: Final = (0, 1, 2)
FEWER: Final = (0.75, 0.5)  # of N: numbers of steps that are tried, with and without extrapolation
NEAR: Final = 0.05  # of the time: what seconds on a machine that others share are off by
FIRST, LAST = 3, 2  # guided in any case, where the others lie by a power


@dataclass(frozen=True)
class Candidate:
    """A policy that could be chosen.

    Attributes:
        steps: The number of steps to sample with.
        schedule: For so many steps.
        kind: What it is compared with: of one kind and about one saving only the best by score runs.
        solver_order: The scheduler's ``order``, see `TextSchedule.calls`.
    """

    steps: int
    schedule: TextSchedule
    kind: str
    solver_order: int = 1

    @property
    def name(self) -> str:
        """Tells it from all others."""
        if (solver := self.schedule.solver) is not None:
            return f"{solver.class_name} {self.steps} {hashlib.sha256(solver.configuration.encode()).hexdigest()[:12]}"
        order = "" if self.schedule.order is None else f" order {self.schedule.order}"
        return f"{self.schedule.strip(self.steps)}{order}"

    @property
    def evaluations(self) -> int:
        return self.schedule.evaluations(self.steps, self.solver_order)

    @property
    def calls(self) -> tuple[int, int]:
        """Of the denoiser in guided steps, and in the others."""
        return self.schedule.calls(self.steps, self.solver_order)


@dataclass(frozen=True)
class Costs:
    """Seconds of a batch: of a call of the denoiser in a guided step, in one that keeps one branch, in one that keeps
    none, and of all the rest."""

    guided: float
    one: float
    none: float
    rest: float

    def seconds(self, candidate: Candidate) -> float:
        guided, others = candidate.calls
        other = self.none if candidate.schedule.keep == "neither" else self.one
        return self.rest + guided * self.guided + others * other

    def saved(self, candidate: Candidate, steps: int) -> float:
        """The share of the time of full guidance at `steps` steps that the candidate saves."""
        full = Candidate(steps, TextSchedule.always(), "", candidate.solver_order)
        return 1 - self.seconds(candidate) / self.seconds(full)


@dataclass(frozen=True)
class Found:
    """A candidate that ran: the share of the time that it is expected to save, and the L1 of each image."""

    candidate: Candidate
    time_saved: float
    l1: tuple[float, ...]

    @property
    def distance(self) -> Interval:
        return bootstrap(self.l1, within=SHARE)


@guarded
def candidates(
    steps: Steps, solver_order: Positive = 1, levels: Sequence[float] | None = None, *, flow: bool = False
) -> list[Candidate]:
    """All that are scored or run: placements, branches and orders at N steps, fewer steps, and both together.

    Args:
        steps: N.
        solver_order: The scheduler's ``order``.
        levels: u_t at each step, if some placements are to go by that (see `policies.spacing`).
        flow: They are those of a flow.
    """
    if levels is not None and len(levels) != steps:
        raise ShapefirstError(f"Each of {steps} steps has one level of noise, but there are {len(levels)} levels.")
    found: dict[str, Candidate] = {}

    def add(n: int, schedule: TextSchedule, kind: str) -> None:
        one = Candidate(n, schedule, kind, solver_order)
        found.setdefault(one.name, one)

    keeps: tuple[Kept, ...] = ("neither", "text", "null")
    for saving in SAVINGS:
        spent = 2 * steps * (1 - saving)
        for keep in keeps:
            guided = round(spent / 2) if keep == "neither" else round(spent - steps)
            if FIRST + LAST <= guided < steps:
                kind = "no branch" if keep == "neither" else "one branch"
                placements = [spread(steps, guided, FIRST, LAST, power) for power in POWERS]
                placements += [early(steps, guided, first) for first in (0.5, Budget.FIRST)]
                placements.append(evenly(steps, guided))
                placements += [by_error(levels, guided, flow=flow)] if levels is not None else []
                for order in ORDERS:
                    for placed in placements:
                        add(steps, TextSchedule.at(placed, keep=keep, order=order), f"{kind} {saving:g}")
    for saving in PAPERS:
        add(steps, TextSchedule.until(round(steps * (1 - 2 * saving))), f"the paper {saving:g}")
    for share in FEWER:
        fewer = round(share * steps)
        if fewer >= 2 * (FIRST + LAST):
            add(fewer, TextSchedule.always(), f"{fewer} steps")
            placed = spread(fewer, round(0.7 * fewer), FIRST, LAST, 1.25)
            add(fewer, TextSchedule.at(placed), f"{fewer} steps, extrapolated")
    return list(found.values())


@guarded
def check_choice(
    save_time: float | None, max_l1: float | None, evaluations: int | None = None, goal: str = "keep"
) -> None:
    """Raise ShapefirstError unless what to choose by is given at most once and in range."""
    if sum(one is not None for one in (save_time, max_l1, evaluations)) > 1:
        raise ShapefirstError(
            "Give only one of the time to save, the largest L1 and the evaluations (--save-time, --max-l1, "
            "--evaluations)."
        )
    if goal == "best" and evaluations is not None and not 2 * FEWEST <= evaluations < 2 * CONVERGED_STEPS:
        raise ShapefirstError(
            f"The best picture is looked for with {2 * FEWEST} evaluations or more and fewer than the "
            f"{2 * CONVERGED_STEPS} of the picture that it is held against, not {evaluations}."
        )
    if evaluations is not None and evaluations < 2:
        raise ShapefirstError(f"A picture takes 2 evaluations or more, not {evaluations}.")
    if save_time is not None and not 0 < save_time <= SAVINGS[-1]:
        raise ShapefirstError(
            f"The time to save is a share above 0 and up to {SAVINGS[-1]:g}, where the search ends, not {save_time:g}."
        )
    if max_l1 is not None and not 0 < max_l1 < 1:
        raise ShapefirstError(f"The largest L1 is a distance above 0 and below 1, such as 0.005, not {max_l1:g}.")


def check_reach(evaluations: int | None, of_policies: Sequence[int]) -> None:
    """Raise ShapefirstError where so few evaluations are asked for that each of the policies takes more."""
    if evaluations is not None and evaluations < (fewest := min(of_policies)):
        raise ShapefirstError(
            f"No policy takes {evaluations} evaluations: the fewest are {fewest}, so give {fewest} or more."
        )


def choice_by(
    save_time: float | None, max_l1: float | None, evaluations: int | None, goal: str
) -> Callable[[Sequence[Found]], Found]:
    """`choose` by what was asked for. Raises ShapefirstError as `check_choice`."""
    check_choice(save_time, max_l1, evaluations, goal)
    return partial(choose, save_time=save_time, max_l1=max_l1, evaluations=evaluations)


@guarded
def choose(
    found: Sequence[Found], save_time: float | None = None, max_l1: float | None = None, evaluations: int | None = None
) -> Found:
    """The closest of those that save as much time or take as few evaluations, or the fastest of those whose L1's
    interval stays below.

    Raises:
        ShapefirstError: None does.
    """
    check_choice(save_time, max_l1, evaluations)
    if not found:
        raise ShapefirstError("There is no policy to choose from: run some first.")
    if max_l1 is not None:
        fit = [f for f in found if f.distance.high <= max_l1]
        if not fit:
            closest = min(found, key=lambda f: f.distance.high)
            raise ShapefirstError(
                f"No policy keeps the L1 below {max_l1:g}: the closest has {closest.distance.estimate:.4f} (up to "
                f"{closest.distance.high:.4f}) and saves {closest.time_saved:.0%} of the time."
            )
        return max(fit, key=lambda f: f.time_saved)
    if evaluations is not None:
        fit = [f for f in found if f.candidate.evaluations <= evaluations]
        check_reach(evaluations, [f.candidate.evaluations for f in found])
        return min(fit, key=lambda f: f.distance.estimate)
    fit = [f for f in found if f.time_saved >= (save_time or 0)]
    if not fit:
        fastest = max(found, key=lambda f: f.time_saved)
        raise ShapefirstError(
            f"No policy saves {save_time:.0%} of the time: the fastest saves {fastest.time_saved:.0%} with an L1 of "
            f"{fastest.distance.estimate:.4f}."
        )
    return min(fit, key=lambda f: f.distance.estimate)


def near_miss(found: Sequence[Found], chosen: Found, save_time: float) -> Found | None:
    """The closest of those that save less time than was asked for by no more than `NEAR`, where it is at least twice as
    close as the choice: the time is an estimate from measured seconds."""
    near = [f for f in found if 0 < save_time - f.time_saved <= NEAR]
    best = min(near, key=lambda f: f.distance.estimate, default=None)
    return None if best is None or 2 * best.distance.estimate > chosen.distance.estimate else best


@guarded
def shortlist(among: Sequence[Candidate], scores: Mapping[str, float]) -> list[Candidate]:
    """Those that run: of each kind the best by score, and all that have none."""
    best: dict[str, Candidate] = {}
    for candidate in among:
        rival = best.get(candidate.kind)
        if rival is None or scores.get(candidate.name, 0) < scores.get(rival.name, 0):
            best[candidate.kind] = candidate
    return list(best.values())
