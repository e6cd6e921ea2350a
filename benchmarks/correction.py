"""What UniPC's corrector does to a run that skips steps.

    python benchmarks/correction.py [--prompts 32]                                  (half an hour on one core)

On pocket: L1 in [0, 1] of each picture to that of the fully guided run of the same seed, which corrects every step, for
budgets of which all steps are corrected, those until shortly before the first gap (`guidance.correction`, what `guide`
does), and none; beside fewer steps, all corrected. The result is written to ``benchmarks/results/correction.md``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import numpy as np
from few_steps import FIRST_SEED, pictures
from rich.progress import Progress

from shapefirst import load
from shapefirst.files import save_text
from shapefirst.guidance import correction
from shapefirst.measure import l1
from shapefirst.measure.intervals import SHARE, bootstrap
from shapefirst.models import default_guidance_scale
from shapefirst.models.machine import hardware
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
BUDGETS = (0.75, 0.6, 0.5)
#: How many steps before the first gap stop to be corrected.
WAYS = {"all": -1000, "until the first gap": correction.BEFORE, "none": 1000}
RESULT = Path(__file__).parent / "results" / "correction.md"


@contextmanager
def uncorrected_before(steps: int) -> Iterator[None]:
    own = correction.BEFORE
    correction.BEFORE = steps  # type: ignore[misc]
    correction._first_uncorrected.cache_clear()
    try:
        yield
    finally:
        correction.BEFORE = own  # type: ignore[misc]
        correction._first_uncorrected.cache_clear()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=32)
    given = arguments.parse_args()
    pipe, prompts = copy.copy(load("pocket", dtype="float32")), mixed(given.prompts, FIRST_SEED)
    pipe.set_progress_bar_config(disable=True)
    config = pipe.scheduler.config
    rows = []
    with Progress() as progress:
        task = progress.add_task("settings", total=len(SETTINGS) * len(BUDGETS))
        for spacing, order, steps in SETTINGS:
            times = {"use_karras_sigmas": True} if spacing == "karras" else {"timestep_spacing": spacing}
            pipe.scheduler = diffusers.UniPCMultistepScheduler.from_config(config, solver_order=order, **times)
            full, _ = pictures(pipe, prompts, steps, budget=1.0)

            def distance(images: list[np.ndarray], full: list[np.ndarray] = full) -> str:
                errors = [l1(image, reference) for image, reference in zip(images, full, strict=True)]
                return f"{bootstrap(errors, within=SHARE):.4f}, {np.median(errors):.4f}"

            for budget in BUDGETS:
                found, spent = [], 1.0
                for before in WAYS.values():
                    with uncorrected_before(before):
                        mine, spent = pictures(pipe, prompts, steps, budget=budget)
                    found.append(distance(mine))
                fewer, _ = pictures(pipe, prompts, int(budget * steps), budget=1.0)
                found.append(distance(fewer))
                rows.append((spacing, str(order), str(steps), f"{budget:g}", f"{1 - spent:.0%}", *found))
                progress.advance(task)
    head = ("spacing", "order", "steps", "budget", "saved", *WAYS, "fewer steps, all")
    table = [head, ("---",) * len(head), *rows]
    words = (
        "# UniPC's corrector where steps are skipped\n\nWritten by `python benchmarks/correction.py`. pocket, w = "
        f"{default_guidance_scale('pocket'):g}, n = {len(prompts)} prompts, image i of seed\n{FIRST_SEED} + i, "
        f"{hardware()}. L1 in [0, 1] to the fully guided run\nof all steps, each of them corrected: mean with 95% "
        "bootstrap intervals over prompts, and the median, by which\nsteps of the budget's run are corrected: all, "
        f"those until {correction.BEFORE} steps before the first gap (what `guide` does), none.\n\n"
    )
    save_text(words + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n", RESULT)
    print(RESULT)


if __name__ == "__main__":
    main()
