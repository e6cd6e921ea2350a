"""Where the evaluated steps of a budget lie best, by the model, the sampler, its times and how many they are.

    python benchmarks/placed_steps.py [--prompts 32] [--only REGEX]                 (an hour on one core; resumes)

L1 in [0, 1] of each picture to that of the fully guided run of the same seed, where the first steps are all evaluated
and gaps grow, where gaps are even, and where the error is least by a model of it (`policies.spacing`); beside fewer
steps. `guide` takes the one that is named. For flows pocket is read as a model of flow matching (`peers.flow`).
The result is written to ``benchmarks/results/placed-steps.md``; rows that are there of as many prompts are kept.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from few_steps import FIRST_SEED, RESULTS, distance, kept_rows, pictures, save_rows
from peers.settings import sampled_by
from rich.progress import track

from shapefirst import TextSchedule, load
from shapefirst.guidance.timeline import steps_ahead
from shapefirst.models import default_guidance_scale
from shapefirst.models.machine import hardware
from shapefirst.policies.placement import Budget
from shapefirst.policies.solver import is_flow
from shapefirst.policies.spacing import by_error, early, evenly
from shapefirst.prompts import mixed

#: Model, sampler of `STOCK` or `FLOWS`, and N.
SETTINGS: Final = (
    *(
        ("pocket", f"{sampler}, {spacing}", steps)
        for sampler, spacing, steps in (
            ("Euler", "leading", 25),
            ("Euler", "trailing", 25),
            ("Euler", "leading", 50),
            ("Euler, Karras", "linspace", 25),
            ("Euler, beta", "linspace", 25),
            ("DDIM", "leading", 20),
        )
    ),
    *(
        ("pocket-dit", sampler, steps)
        for sampler, steps in (
            ("Euler, leading", 25),
            ("Euler, Karras, linspace", 25),
        )
    ),
    *(
        ("pocket", f"{sampler}, flow, shift {shift}", steps)
        for sampler, shift, steps in (
            ("Euler", 3, 28),
            ("Euler", 3, 20),
            ("Euler", 3, 50),
            ("Euler", 1, 28),
            ("Euler", 2, 28),
            ("Euler", 5, 28),
            ("DPM++ 2M", 3, 20),
            ("DPM++ 2M", 1, 20),
            ("UniPC 2", 3, 20),
            ("UniPC 2", 5, 30),
            ("UniPC 2", 5, 50),
        )
    ),
)
BUDGETS: Final = (0.75, 0.6, 0.5, 0.4)
RESULT: Final = RESULTS / "placed-steps.md"

#: u_t at each of N steps, how many are evaluated, and whether u_t are those of a flow -> which ones.
WAYS: Final[dict[str, Callable[[Sequence[float], int, bool], frozenset[int]]]] = {
    "early": lambda levels, guided, flow: early(len(levels), guided, Budget.FIRST),
    "evenly": lambda levels, guided, flow: evenly(len(levels), guided),
    "by error": lambda levels, guided, flow: by_error(levels, guided, flow=flow),
}
OWN: Final = "of its own"  # what `guide` does, where it is none of these


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=32)
    arguments.add_argument("--only", default="", help="a regular expression: settings whose names match")
    given = arguments.parse_args()
    prompts = mixed(given.prompts, FIRST_SEED)
    words = (
        "# Where the steps of a budget lie\n\nWritten by `python benchmarks/placed_steps.py`. "
        f"w = {default_guidance_scale('pocket'):g}, n = {len(prompts)} prompts, image i of\nseed {FIRST_SEED} + i, "
        f"{hardware()}. L1 in [0, 1] to the\nfully guided run: mean with 95% bootstrap intervals over prompts, and the "
        "median, by which steps are evaluated: first ones\nand then gaps that grow, even gaps and the last three, or "
        "those that are left out at the least error (`by_error`);\nof fewer steps; and what `guide` does.\n\n"
    )
    kept = kept_rows(RESULT, words, 4)
    head = ("model", "sampler", "steps", "budget", *WAYS, "fewer steps", "`guide`")
    names_of = {setting: {share: (*map(str, setting), f"{share:g}") for share in BUDGETS} for setting in SETTINGS}
    for setting, names in track(names_of.items(), "settings"):
        model, sampler, steps = setting
        is_known = kept.keys() >= set(names.values())
        if not is_known and not re.search(given.only, f"{model}, {sampler}, {steps}"):
            continue
        pipe = sampled_by(load(model, dtype="float32"), sampler)
        calls, levels = steps_ahead(pipe.scheduler, steps)
        assert levels is not None
        flow = is_flow(pipe.scheduler.config)
        full = None if is_known else pictures(pipe, prompts, steps, budget=1.0)[0]
        for share, known in names.items():
            chosen = TextSchedule.within(share).in_run(pipe.scheduler, calls, levels).guided_steps(steps)
            ways = {way: place(levels, len(chosen), flow) for way, place in WAYS.items()}
            cells = kept[known][:-1] if full is None else cells_of(pipe, prompts, steps, ways, full)
            kept[known] = [*cells, next((way for way, placed in ways.items() if placed == chosen), OWN)]
        save_rows(words, head, kept, [name for those in names_of.values() for name in those.values()], RESULT)


def cells_of(
    pipe: Any, prompts: list[str], steps: int, ways: Mapping[str, frozenset[int]], full: list[np.ndarray]
) -> list[str]:
    """The distances by which steps are evaluated, and that of fewer steps."""
    drawn = [pictures(pipe, prompts, steps, policy=TextSchedule.at(way))[0] for way in ways.values()]
    drawn.append(pictures(pipe, prompts, len(ways["early"]), budget=1.0)[0])
    return [distance(images, full) for images in drawn]


if __name__ == "__main__":
    main()
