"""What a search is for: which picture every other one is held against, and which solvers are tried besides.

keep    the picture of the run of N steps that one would have made, with the pipeline's own sampler
best    the picture that the model converges to, whoever samples it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from shapefirst.checks import Steps
from shapefirst.models.catalogue import SAMPLERS, is_flow, make_sampler
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.solver import Solver
from shapefirst.signatures import guarded

__all__ = ["CONVERGED_STEPS", "FEWEST", "reference", "solvers", "steps_to_fit"]

#: Steps of DPM-Solver++ after which more change nothing that is seen: twice as many are 0.00002 away on pocket.
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
    return _stock("dpm-solver", CONVERGED_STEPS, config), CONVERGED_STEPS


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
