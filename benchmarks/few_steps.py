"""Where a budget and a tolerance end, by the sampler: against fewer steps of it, at the same number of evaluations.

    python benchmarks/few_steps.py [--prompts 16] [--steps 25] [--only REGEX]           (20 minutes on one core)

On pocket: L1 in [0, 1] of each picture to that of the fully guided run of the same seed and sampler, with 95% bootstrap
intervals over prompts. It says for which samplers `Budget.is_too_small` has to hold, and what a tolerance saves in so
few steps. The result is written to ``benchmarks/results/few-steps.md``; of another number of steps than 25 to
``few-steps-50.md``, of smaller budgets and without tolerances: where budgets end when steps are many. Rows that are
there of as many prompts are kept.
"""

from __future__ import annotations

import argparse
import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from rich.progress import track

from shapefirst import guide, load
from shapefirst.families.layout import own_size
from shapefirst.files import save_text
from shapefirst.measure import l1
from shapefirst.measure.intervals import SHARE, bootstrap
from shapefirst.models import default_guidance_scale
from shapefirst.models.machine import hardware
from shapefirst.prompts import mixed
from shapefirst.sampling.loop import generators

DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
#: Their classes and what is changed in pocket's configuration.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler, Karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", DPM),
    "DPM++ 2M, trailing": ("DPMSolverMultistepScheduler", {**DPM, "timestep_spacing": "trailing"}),
    "DPM++ 2M, Karras": ("DPMSolverMultistepScheduler", {**DPM, "use_karras_sigmas": True}),
    "DPM++ 2M, exponential": ("DPMSolverMultistepScheduler", {**DPM, "use_exponential_sigmas": True}),
    "DPM++ 2M, Lu": ("DPMSolverMultistepScheduler", {**DPM, "use_lu_lambdas": True}),
    "DPM++ 2M, beta": ("DPMSolverMultistepScheduler", {**DPM, "use_beta_sigmas": True}),
    "Euler, beta": ("EulerDiscreteScheduler", {"use_beta_sigmas": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "UniPC, Karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
    "DEIS": ("DEISMultistepScheduler", {}),
}
STEPS = 25
BUDGETS = (0.75, 0.6, 0.5, 0.4, 0.3, 0.2)
HEAD = ("sampler", "policy", "saved", "mean L1, median", "fewer steps", "theirs: mean L1, median")
SMALLER = (0.5, 0.4, 0.3, 0.2)
TOLERANCES = (0.006, 0.02, 0.06, 0.2)
FIRST_SEED = 85_000
BATCH = 32
RESULTS = Path(__file__).parent / "results"


def pictures(pipe: Any, prompts: list[str], steps: int, **policy: Any) -> tuple[list[np.ndarray], float]:
    """Of each prompt, and the evaluations that they took over those of full guidance in all of `steps`."""
    found: list[np.ndarray] = []
    rows = asked = 0
    for first in range(0, len(prompts), BATCH):
        those = prompts[first : first + BATCH]
        with guide(pipe, **policy) as evaluations:
            out = pipe(
                those,
                num_inference_steps=steps,
                **own_size(pipe),
                guidance_scale=default_guidance_scale("pocket"),
                generator=generators(range(FIRST_SEED + first, FIRST_SEED + first + len(those))),
                output_type="np",
            )
        found += list(out.images)
        rows, asked = rows + evaluations.rows, asked + evaluations.asked
    return found, rows / asked


def pocket() -> Any:
    """The model in float32, without a progress bar of its own."""
    pipe = copy.copy(load("pocket", dtype="float32"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def distance(images: list[np.ndarray], full: list[np.ndarray]) -> str:
    """Mean L1 with its interval, and the median."""
    errors = [l1(image, reference) for image, reference in zip(images, full, strict=True)]
    return f"{bootstrap(errors, within=SHARE):.4f}, {np.median(errors):.4f}"


def save_table(words: str, head: Sequence[str], rows: Sequence[Sequence[str]], file: Path) -> None:
    """The words, and the rows under their head."""
    table = [head, ("---",) * len(head), *rows]
    save_text(words + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n", file)
    print(file)


def save_rows(
    words: str,
    head: Sequence[str],
    kept: Mapping[tuple[str, ...], Sequence[str]],
    names: Iterable[tuple[str, ...]],
    file: Path,
) -> None:
    """The rows of these names, in this order, as far as there are any: of a run that was stopped none are lost."""
    rows = [(*name, *kept[name]) for name in names if name in kept]
    save_table(words, head, [(*row, *[""] * (len(head) - len(row))) for row in rows], file)


def kept_rows(file: Path, words: str, names: int) -> dict[tuple[str, ...], list[str]]:
    """The first cells of each row, its name -> the others, of a table that is there under the same words."""
    text = file.read_text() if file.is_file() else ""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {tuple(row[:names]): row[names:] for row in rows} if text.startswith(words) else {}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=16)
    arguments.add_argument("--steps", type=int, default=STEPS)
    arguments.add_argument("--only", default="", help="a regular expression: samplers whose names match")
    given = arguments.parse_args()
    pipe, prompts, steps = pocket(), mixed(given.prompts, FIRST_SEED), given.steps
    config, usual = pipe.scheduler.config, steps == STEPS
    file = RESULTS / ("few-steps.md" if usual else f"few-steps-{steps}.md")
    words = (
        "# A budget against fewer steps, by the sampler\n\nWritten by `python benchmarks/few_steps.py`. pocket, "
        f"{steps} steps, w = {default_guidance_scale('pocket'):g},\nn = {len(prompts)} prompts, image i of seed "
        f"{FIRST_SEED} + i, {hardware()}. L1 in [0, 1] to\nthe fully guided run of {steps} steps of the same sampler, "
        "with 95% bootstrap intervals over prompts, and the median.\n\n"
    )
    kept = kept_rows(file, words, 2)
    policies = [("budget", b) for b in (BUDGETS if usual else SMALLER)] + [("tol", t) for t in TOLERANCES if usual]
    for name, (kind, options) in track(SAMPLERS.items(), "samplers"):
        pipe.scheduler = getattr(diffusers, kind).from_config(config, **options)
        if begins_late(pipe.scheduler, steps):
            continue
        full: list[np.ndarray] | None = None
        for what, value in policies:
            known = name, f"{what}={value:g}"
            if known not in kept and re.search(given.only, name):
                full = full or pictures(pipe, prompts, steps, budget=1.0)[0]
                kept[known] = cells_of(pipe, prompts, steps, what, value, full)
        save_rows(words, HEAD, kept, product(SAMPLERS, [f"{what}={value:g}" for what, value in policies]), file)


def begins_late(scheduler: Any, steps: int) -> bool:
    """Whether its first two times are rounded to one: diffusers begins at the second, and ends in an IndexError."""
    scheduler.set_timesteps(steps)
    return bool(scheduler.timesteps[0] == scheduler.timesteps[1])


def cells_of(pipe: Any, prompts: list[str], steps: int, what: str, value: float, full: list[np.ndarray]) -> list[str]:
    """What a policy saves and how far it is off; beside a budget fewer steps, and how far they are."""
    mine, spent = pictures(pipe, prompts, steps, **{what: value})
    cells = [f"{1 - spent:.0%}", distance(mine, full)]
    if what != "budget":
        return cells
    fewer = int(value * steps + 1e-9)
    return [*cells, f"{fewer}", distance(pictures(pipe, prompts, fewer, budget=1.0)[0], full)]


if __name__ == "__main__":
    main()
