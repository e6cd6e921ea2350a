"""What a search is for: which picture every other one is held against, and which solvers are tried besides.

keep    the picture of the run of N steps that one would have made, with the pipeline's own sampler
best    the picture that the model converges to, whoever samples it
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from shapefirst.checks import Steps
from shapefirst.families.noise import clean, scales_along
from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.guidance.solving import scheduler_for
from shapefirst.models.catalogue import SAMPLERS, make_sampler
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.solver import Solver, is_flow
from shapefirst.signatures import guarded

__all__ = ["CONVERGED_STEPS", "FEWEST", "reference", "solvers", "steps_to_fit"]

#: Evenly spaced steps of the run to the converged picture, before those down to the least noise.
CONVERGED_STEPS: Final = 200
#: Shares of N that a solver is fitted for, where no number of evaluations was asked for. Fewer for the best picture,
#: whose search follows hundreds of steps and runs every stock solver besides.
SHARES: Final = {"keep": (0.3, 0.4, 0.5, 0.6, 0.67, 0.75), "best": (0.3, 0.4, 0.6)}
#: Fewest steps of a solver that is fitted.
FEWEST: Final = 5
#: Stock solvers, by their names in `SAMPLERS`. All begin where the model's noise is strongest.
STOCK: Final = ("dpm-solver", "dpm-solver-karras", "unipc", "unipc-karras", "euler")


def steps_to_fit(goal: str, steps: Steps, evaluations: int | None) -> list[int]:
    """Numbers of steps that a solver is fitted for, all below those of the run that it follows: what is asked for."""
    if evaluations is not None:
        wanted = {evaluations // 2}
    else:
        wanted = {max(FEWEST, round(share * steps)) for share in SHARES[goal]}
    return sorted(m for m in wanted if FEWEST <= m < (CONVERGED_STEPS if goal == "best" else steps))


@guarded
def reference(goal: str, steps: Steps, config: Any) -> tuple[TextSchedule, int]:
    """The policy and the steps of the runs that every other is held against, on a scheduler's configuration."""
    if goal == "keep":
        return TextSchedule.always(), steps
    converged = _converged(config)
    assert converged.num_steps is not None, "it has a solver"
    return converged, converged.num_steps


def solvers(steps: Sequence[int], config: Any) -> Iterator[tuple[int, TextSchedule]]:
    """Stock solvers, each in these numbers of steps, as far as the model can be sampled by them."""
    for number in steps:
        for name in STOCK:
            if SAMPLERS[name].flow_class or not is_flow(config):
                yield number, _stock(name, number, config)


def _stock(name: str, steps: int, config: Any) -> TextSchedule:
    made = make_sampler(name, config)
    trailing = {"timestep_spacing": "trailing"} if "timestep_spacing" in made.config else {}
    return TextSchedule.solved(Solver.of(type(made).__name__, {**made.config, **trailing}), steps)


def _converged(config: Any) -> TextSchedule:
    """DPM++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2) down to the model's least noise.

    Evenly spaced, the last step of 200 begins at the fifth of 1000 times, and what a model would still paint below is
    left out, which is more than many solvers are off otherwise. So the last times halve. A flow has no least noise,
    and clean latents that are bounded by a threshold are not linear: there the steps are diffusers' own.
    """
    steps = min(CONVERGED_STEPS, config.get("num_train_timesteps", CONVERGED_STEPS))
    stock = _stock("dpm-solver", steps, config)
    assert stock.solver is not None
    scheduler = scheduler_for(stock.solver)
    scheduler.set_timesteps(steps)
    if is_flow(scheduler.config):
        return _stock("dpm-solver", _told_apart(scheduler, steps), config)
    if scheduler.config.thresholding:
        return stock
    times = [int(t) for t in scheduler.timesteps]
    while times[-1] > 0:
        times.append(times[-1] // 2)
    seen = clean(scheduler, times)
    if seen is None:
        return stock
    known = scales_along(scheduler, times)
    solver = FittedScheduler(
        times,
        [s / a for a, s in known],
        seen,
        [after / before for (_, before), (_, after) in pairwise(known)] + [0.0],
        [*_second_order(known), [1.0]],
        prediction_type=scheduler.config.prediction_type,
        num_train_timesteps=scheduler.config.num_train_timesteps,
    )
    return TextSchedule.solved(Solver.like(solver), len(times))


def _told_apart(scheduler: Any, steps: int) -> int:
    """The most steps, up to so many, whose times are all different: diffusers rounds them, and takes the second of two
    equal ones for the first, so that a run has no end where a flow is shifted far."""
    while len(set(scheduler.timesteps.tolist())) < steps:
        steps -= 1
        scheduler.set_timesteps(steps)
    return steps


def _second_order(scales: Sequence[tuple[float, float]]) -> Iterator[list[float]]:
    """What each step but the last weighs the clean latents with, the latest first."""
    lambdas = [math.log(a / s) for a, s in scales]
    before = math.inf
    for n, (one, other) in enumerate(pairwise(lambdas)):
        h, a = other - one, scales[n + 1][0]
        latest = -a * math.expm1(-h)
        change = latest * h / (2 * before)
        yield [latest + change, -change] if n else [latest]
        before = h
