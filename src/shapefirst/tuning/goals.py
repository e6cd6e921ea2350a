"""What a search is for: which picture every other one is held against, and which solvers are tried besides.

keep    the picture of the run of N steps that one would have made, with the pipeline's own sampler
best    the picture that the model converges to, whoever samples it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from shapefirst.checks import Steps
from shapefirst.models.catalogue import is_flow, make_sampler
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.solver import Solver
from shapefirst.signatures import guarded

__all__ = ["CONVERGED_STEPS", "reference", "solvers", "steps_to_fit"]


#: Steps of DPM-Solver++ after which more change nothing that is seen: twice as many are 0.00002 away on pocket.
CONVERGED_STEPS: Final = 200
#: Shares of N that a solver is fitted for.
SHARES: Final = (0.3, 0.4, 0.5, 0.6, 0.67, 0.75)
FEWEST: Final = 5
#: Stock solvers: name in `models.SAMPLERS`, and what is changed of it. All begin where the model's noise is strongest.
STOCK: Final[Sequence[tuple[str, dict[str, Any]]]] = (
    ("dpm-solver", {}),
    ("dpm-solver", {"use_karras_sigmas": True}),
    ("unipc", {}),
    ("euler", {}),
)


def steps_to_fit(steps: Steps) -> list[int]:
    """Numbers of steps that a solver is fitted for, all below N."""
    return [m for m in sorted({max(FEWEST, round(share * steps)) for share in SHARES}) if m < steps]


@guarded
def reference(goal: str, steps: Steps, config: Any) -> tuple[TextSchedule, int]:
    """The policy and the steps of the runs that every other is held against, on a scheduler's configuration."""
    if goal == "keep":
        return TextSchedule.always(), steps
    return _stock("dpm-solver", {}, CONVERGED_STEPS, config), CONVERGED_STEPS


def solvers(steps: Sequence[int], config: Any) -> Iterator[tuple[int, TextSchedule]]:
    """Stock solvers, each in these numbers of steps. Karras' spacing is of noise, and not of a flow."""
    for number in steps:
        for name, options in STOCK:
            if not (options and is_flow(config)):
                yield number, _stock(name, options, number, config)


def _stock(name: str, options: dict[str, Any], steps: int, config: Any) -> TextSchedule:
    made = make_sampler(name, config)
    trailing = {"timestep_spacing": "trailing"} if "timestep_spacing" in made.config else {}
    return TextSchedule.solved(Solver.of(type(made).__name__, {**made.config, **trailing, **options}), steps)
