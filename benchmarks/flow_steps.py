"""Where the evaluated steps of a budget lie best along a flow, by its shift and the solver.

    python benchmarks/flow_steps.py [--prompts 32]                                  (40 minutes on one core)

On pocket read as a model of flow matching (`peers.flow`): L1 in [0, 1] of each picture to that of the fully guided run
of the same seed, where the first steps are all evaluated and gaps grow (as with other models), where gaps are even, and
where what leaving them out does is least (`by_noise`); beside fewer steps. `guide` takes the one that is named.
The result is written to ``benchmarks/results/flow-steps.md``; rows that are there of as many prompts are kept.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from few_steps import FIRST_SEED, RESULTS, distance, kept_rows, pictures, pocket, save_table
from peers.flow import as_flow
from peers.settings import FLOWS
from rich.progress import track

from shapefirst import TextSchedule
from shapefirst.models import default_guidance_scale
from shapefirst.models.machine import hardware
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
RESULT = RESULTS / "flow-steps.md"


def by_noise(num_steps: int, guided: int, shift: float) -> frozenset[int]:
    """The steps of which those left out do least by a model of the error.

    At s of a flow x = (1 - s) x0 + s eps, after evaluated ones at s_a and s_b, a step of Euler's that takes the line
    through these leaves in the last latents about e = K(s) (s - s_next) (s - s_a) (s - s_b) / 2. Leaving out single
    steps, K was much the same with shifts of 1 and 3, and like (1 - s)^-3 between a ceiling and a floor. The sum of
    squares of e is least, by dynamic programming over the last two evaluated; the first two and the last are.
    """
    even = [1 - step / num_steps for step in range(num_steps + 1)]
    s = [shift * t / (1 + (shift - 1) * t) for t in even]  # Esser et al. 2024, arXiv 2403.03206, eq. 23
    k = [min(max(1.5 * (1 - one) ** -3 if one < 1 else math.inf, 9.0), 2000.0) for one in s]
    most_gap = max(9, 2 * math.ceil(num_steps / guided))
    best = {(0, 1): (0.0, frozenset({0, 1}))}  # the last two evaluated -> the least cost to get there, and all of them
    for still in range(guided - 3, -1, -1):
        after: dict[tuple[int, int], tuple[float, frozenset[int]]] = {}
        for (b, a), (cost, steps) in best.items():
            for c in range(a + 1, min(a + most_gap, num_steps - 1 - still) + 1):
                if (a, c) not in after or cost < after[a, c][0]:
                    after[a, c] = cost, steps | {c}
                cost += (k[c] * (s[c] - s[c + 1]) * (s[c] - s[a]) * (s[c] - s[b]) / 2) ** 2
        best = after
    return min(found for (_, last), found in best.items() if last == num_steps - 1)[1]


#: N, how many are evaluated, and the shift -> which ones.
WAYS: dict[str, Callable[[int, int, float], frozenset[int]]] = {
    "early": lambda steps, guided, shift: early(steps, guided, Budget.FIRST),
    "evenly": lambda steps, guided, shift: evenly(steps, guided),
    "by noise": by_noise,
}


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
        "even gaps and the last three, or by the noise at each (`by_noise`); of fewer steps; and what\n`guide` "
        "does.\n\n"
    )
    kept, rows = kept_rows(RESULT, words, 3), []
    for name, steps in track(SETTINGS, "settings"):
        pipe = as_flow(model, *FLOWS[name])
        names = {share: (name, str(steps), f"{share:g}") for share in BUDGETS}
        full = None if kept.keys() >= set(names.values()) else pictures(pipe, prompts, steps, budget=1.0)[0]
        for share, known in names.items():
            chosen = TextSchedule.within(share).in_run(pipe.scheduler, [1] * steps).guided_steps(steps)
            shift = shift_of(pipe.scheduler.config)
            ways = {way: place(steps, len(chosen), shift) for way, place in WAYS.items()}
            cells = kept[known][:-1] if full is None else cells_of(pipe, prompts, steps, ways, full)
            rows.append((*known, *cells, next(way for way, placed in ways.items() if placed == chosen)))
    head = ("sampler", "steps", "budget", *WAYS, "fewer steps", "`guide`")
    save_table(words, head, rows, RESULT)


def cells_of(
    pipe: Any, prompts: list[str], steps: int, ways: Mapping[str, frozenset[int]], full: list[np.ndarray]
) -> list[str]:
    """The distances by which steps are evaluated, and that of fewer steps."""
    drawn = [pictures(pipe, prompts, steps, policy=TextSchedule.at(way))[0] for way in ways.values()]
    drawn.append(pictures(pipe, prompts, len(ways["early"]), budget=1.0)[0])
    return [distance(images, full) for images in drawn]


if __name__ == "__main__":
    main()
