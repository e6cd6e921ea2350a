"""How many of a run's last steps a budget has to guide in any case, by the solver and how its steps lie.

    python benchmarks/last_steps.py [--prompts 32]                                  (an hour on one core)

On pocket: L1 in [0, 1] of each picture to that of the fully guided run of the same seed, for budgets that guide the
last one, two, three or four steps whatever they leave out before; `Budget.with_solver` gives a run its number. The
result is written to ``benchmarks/results/last-steps.md``; rows that are there of as many prompts are kept.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
from few_steps import DPM, FIRST_SEED, RESULTS, distance, kept_rows, pictures, pocket, save_table
from rich.progress import track

from shapefirst.models import default_guidance_scale
from shapefirst.models.machine import hardware
from shapefirst.policies.placement import Budget
from shapefirst.prompts import mixed

_DPM, _EULER, _UNIPC, _DEIS = (
    f"{name}Scheduler" for name in ("DPMSolverMultistep", "EulerDiscrete", "UniPCMultistep", "DEISMultistep")
)
_EVEN, _LEADING = {"timestep_spacing": "trailing"}, {"timestep_spacing": "leading"}
#: Sampler, its class, what is changed in pocket's configuration, and N.
SETTINGS: tuple[tuple[str, str, dict[str, Any], int], ...] = (
    ("DPM++ 2M, trailing", _DPM, {**DPM, **_EVEN}, 20),
    ("DPM++ 2M, trailing", _DPM, {**DPM, **_EVEN}, 30),
    ("DPM++ 2M, leading", _DPM, {**DPM, **_LEADING}, 20),
    ("DPM++ 2M, Karras", _DPM, {**DPM, "use_karras_sigmas": True}, 25),
    ("DPM++ 2M, exponential", _DPM, {**DPM, "use_exponential_sigmas": True}, 20),
    ("DPM++ 3M, trailing", _DPM, {**DPM, **_EVEN, "solver_order": 3}, 25),
    ("UniPC, trailing", _UNIPC, _EVEN, 20),
    ("UniPC, trailing", _UNIPC, _EVEN, 30),
    ("DEIS, trailing", _DEIS, _EVEN, 20),
    ("DEIS, trailing", _DEIS, _EVEN, 30),
    ("Euler, trailing", _EULER, _EVEN, 25),
)
BUDGETS = (0.75, 0.6, 0.5)
LASTS = (1, 2, 3, 4)
RESULT = RESULTS / "last-steps.md"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=32)
    given = arguments.parse_args()
    pipe, prompts = pocket(), mixed(given.prompts, FIRST_SEED)
    config = pipe.scheduler.config
    words = (
        "# The last steps of a budget\n\nWritten by `python benchmarks/last_steps.py`. pocket, w = "
        f"{default_guidance_scale('pocket'):g}, n = {len(prompts)} prompts, image i of seed\n{FIRST_SEED} + i, "
        f"{hardware()}. L1 in [0, 1] to the fully guided run:\nmean with 95% bootstrap intervals over "
        "prompts, and the median, by how many of the last steps are guided in any case,\nand what `guide` does.\n\n"
    )
    kept, rows = kept_rows(RESULT, words, 3), []
    for name, kind, options, steps in track(SETTINGS, "settings"):
        pipe.scheduler = getattr(diffusers, kind).from_config(config, **options)
        chosen = Budget(0.5).with_solver(pipe.scheduler, steps).last or 1
        names = {share: (name, str(steps), f"{share:g}") for share in BUDGETS}
        full = None if kept.keys() >= set(names.values()) else pictures(pipe, prompts, steps, budget=1.0)[0]
        for share, known in names.items():
            cells = kept[known][: len(LASTS)] if full is None else cells_of(pipe, prompts, steps, share, full)
            rows.append((*known, *cells, str(chosen)))
    head = ("sampler", "steps", "budget", *(f"last {last}" for last in LASTS), "`guide`")
    save_table(words, head, rows, RESULT)


def cells_of(pipe: Any, prompts: list[str], steps: int, share: float, full: list[np.ndarray]) -> list[str]:
    """The distances by how many of the last steps are guided in any case."""
    cells = []
    for last in LASTS:

        def with_last(self: Budget, solver: Any, num_steps: int, last: int = last) -> Budget:
            return replace(self, last=last)

        with patch.object(Budget, "with_solver", with_last):
            mine, _ = pictures(pipe, prompts, steps, budget=share)
        cells.append(distance(mine, full))
    return cells


if __name__ == "__main__":
    main()
