"""What UniPC's corrector does to a run that skips steps.

    python benchmarks/correction.py [--prompts 32]                                  (half an hour on one core)

On pocket: L1 in [0, 1] of each picture to that of the fully guided run of the same seed, which corrects every step, for
budgets of which all steps are corrected, those until shortly before the first gap (`policies.correction`, what `guide`
does), and none; beside fewer steps, all corrected. The result is written to ``benchmarks/results/correction.md``; rows
that are there of as many prompts are kept.
"""

from __future__ import annotations

import argparse
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
from few_steps import FIRST_SEED, RESULTS, distance, kept_rows, pictures, pocket, save_table
from rich.progress import Progress

from shapefirst.models import default_guidance_scale
from shapefirst.models.machine import hardware
from shapefirst.policies import correction
from shapefirst.prompts import mixed

#: Spacing, order and N.
SETTINGS = (
    ("trailing", 2, 20),
    ("karras", 2, 20),
    ("trailing", 2, 25),
    ("karras", 2, 25),
    ("trailing", 3, 25),
    ("trailing", 2, 50),
)
BUDGETS = (0.75, 0.6, 0.5, 0.4)
#: How many steps before the first gap stop to be corrected.
WAYS = {"all": -1000, "until the first gap": correction.BEFORE, "none": 1000}
RESULT = RESULTS / "correction.md"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=32)
    given = arguments.parse_args()
    pipe, prompts = pocket(), mixed(given.prompts, FIRST_SEED)
    config = pipe.scheduler.config
    words = (
        "# UniPC's corrector where steps are skipped\n\nWritten by `python benchmarks/correction.py`. pocket, w = "
        f"{default_guidance_scale('pocket'):g}, n = {len(prompts)} prompts, image i of seed\n{FIRST_SEED} + i, "
        f"{hardware()}. L1 in [0, 1] to the fully guided run\nof all steps, each of them corrected: mean with 95% "
        "bootstrap intervals over prompts, and the median, by which\nsteps of the budget's run are corrected: all, "
        f"those until {correction.BEFORE} steps before the first gap (what `guide` does), none.\n\n"
    )
    head = ("spacing", "order", "steps", "budget", "saved", *WAYS, "fewer steps, all")
    kept = kept_rows(RESULT, words, 4)
    rows = []
    with Progress() as progress:
        task = progress.add_task("settings", total=len(SETTINGS) * len(BUDGETS))
        for spacing, order, steps in SETTINGS:
            names = {budget: (spacing, str(order), str(steps), f"{budget:g}") for budget in BUDGETS}
            times = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
            pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(config, solver_order=order, **times)
            full = None if kept.keys() >= set(names.values()) else pictures(pipe, prompts, steps, budget=1.0)[0]
            for budget, name in names.items():
                rows.append((*name, *(kept.get(name) or cells_of(pipe, prompts, steps, budget, full))))
                progress.advance(task)
    save_table(words, head, rows, RESULT)


def cells_of(pipe: Any, prompts: list[str], steps: int, budget: float, full: list[np.ndarray] | None) -> list[str]:
    """What the budget saved, and the distances by which steps are corrected, and of fewer steps."""
    assert full is not None
    found, spent = [], 1.0
    for before in WAYS.values():
        with patch.object(correction, "BEFORE", before):
            mine, spent = pictures(pipe, prompts, steps, budget=budget)
        found.append(mine)
    fewer, _ = pictures(pipe, prompts, int(budget * steps), budget=1.0)
    return [f"{1 - spent:.0%}", *(distance(images, full) for images in (*found, fewer))]


if __name__ == "__main__":
    main()
