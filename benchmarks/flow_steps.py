"""Where the evaluated steps of a budget lie best along a flow, by its shift and the solver.

    python benchmarks/flow_steps.py [--prompts 32]                                  (20 minutes on one core)

On pocket read as a model of flow matching (`peers.flow`): L1 in [0, 1] of each picture to that of the fully guided run
of the same seed, where the first steps are all evaluated and gaps grow (as with other models), where gaps are even, and
where what leaving them out does is least by `policies.flows`; beside fewer steps. `guide` takes the one that is named.
The result is written to ``benchmarks/results/flow-steps.md``; rows that are there of as many prompts are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from few_steps import FIRST_SEED, RESULTS, distance, kept_rows, pictures, pocket, save_table
from peers.flow import as_flow
from peers.settings import FLOWS
from rich.progress import track

from shapefirst import TextSchedule
from shapefirst.models import default_guidance_scale
from shapefirst.models.machine import hardware
from shapefirst.policies.flows import by_noise
from shapefirst.policies.placement import Budget, early, evenly
from shapefirst.policies.solver import shift_of
from shapefirst.prompts import mixed

#: Sampler of `FLOWS`, and N.
SETTINGS = (
    ("Euler, flow, shift 3", 28),
    ("Euler, flow, shift 3", 20),
    ("Euler, flow, shift 3", 50),
    ("Euler, flow, shift 1", 28),
    ("Euler, flow, shift 2", 28),
    ("Euler, flow, shift 5", 28),
    ("DPM++ 2M, flow, shift 3", 20),
    ("DPM++ 2M, flow, shift 1", 20),
    ("UniPC 2, flow, shift 3", 20),
    ("UniPC 2, flow, shift 5", 30),
    ("UniPC 2, flow, shift 5", 50),
)
BUDGETS = (0.75, 0.6, 0.5, 0.4)
#: N, how many are evaluated, and the shift -> which ones.
WAYS: dict[str, Callable[[int, int, float], frozenset[int]]] = {
    "early": lambda steps, guided, shift: early(steps, guided, Budget.FIRST),
    "evenly": lambda steps, guided, shift: evenly(steps, guided),
    "by noise": by_noise,
}
RESULT = RESULTS / "flow-steps.md"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=32)
    given = arguments.parse_args()
    model, prompts = pocket(), mixed(given.prompts, FIRST_SEED)
    words = (
        "# Where the steps of a budget lie along a flow\n\nWritten by `python benchmarks/flow_steps.py`. pocket read "
        f"as a model of flow matching,\nw = {default_guidance_scale('pocket'):g}, n = {len(prompts)} prompts, image i "
        f"of seed {FIRST_SEED} + i, {hardware()}. L1 in [0, 1] to\nthe fully guided run: mean with 95% bootstrap "
        "intervals over prompts, and the median, by which steps are evaluated: first\nones and then gaps that grow, "
        "even gaps and the last three, those by `policies.flows`; which one `guide` takes; and of\nfewer steps.\n\n"
    )
    kept, rows = kept_rows(RESULT, words, 3), []
    for name, steps in track(SETTINGS, "settings"):
        pipe = as_flow(model, *FLOWS[name])
        names = {share: (name, str(steps), f"{share:g}") for share in BUDGETS}
        full = None if kept.keys() >= set(names.values()) else pictures(pipe, prompts, steps, budget=1.0)[0]
        for share, known in names.items():
            rows.append((*known, *(kept.get(known) or cells_of(pipe, prompts, steps, share, full))))
    head = ("sampler", "steps", "budget", *WAYS, "`guide`", "fewer steps")
    save_table(words, head, rows, RESULT)


def cells_of(pipe: Any, prompts: list[str], steps: int, share: float, full: list[np.ndarray] | None) -> list[str]:
    """The distances by which steps are evaluated, the way that a budget has, and that of fewer steps."""
    assert full is not None
    guided, shift = int(share * steps + 1e-9), shift_of(pipe.scheduler.config)
    chosen = TextSchedule.within(share).in_run(pipe.scheduler, [1] * steps).guided_steps(steps)
    ways = {name: place(steps, guided, shift) for name, place in WAYS.items()}
    drawn = (pictures(pipe, prompts, steps, policy=TextSchedule.at(way))[0] for way in ways.values())
    cells = [distance(images, full) for images in drawn]
    fewer, _ = pictures(pipe, prompts, guided, budget=1.0)
    return [*cells, next(name for name, way in ways.items() if way == chosen), distance(fewer, full)]


if __name__ == "__main__":
    main()
