"""How far extrapolation moves the picture with samplers that add noise, by what is extrapolated.

    python benchmarks/stochastic.py [--prompts 24] [--steps 20 50] [--budget 0.6]         (most of an hour on 2 cores)

On pocket: L1 in [0, 1] of each picture to the fully guided one of the same seed and sampler, so of the same noise, with
95% bootstrap intervals over prompts. Beside the two things that can be extrapolated, the model's output and the clean
latents that it implies (`shapefirst.guidance.stochastic`), stand the paper's rule and fewer steps at the same number of
evaluations. The result is written to ``benchmarks/results/stochastic.md``; rows that are there of as many prompts are
kept.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import diffusers
import numpy as np
from few_steps import kept_rows, save_table
from rich.progress import track

from shapefirst import TextSchedule, load
from shapefirst.guidance.stochastic import is_stochastic
from shapefirst.measure import l1
from shapefirst.measure.intervals import SHARE, bootstrap
from shapefirst.models import default_guidance_scale
from shapefirst.prompts import mixed
from shapefirst.sampling.loop import decode, denoise, encode, generators

#: Their classes and what is changed in pocket's configuration; DDIM with eta = 1 is DDPM.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", {}),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "DPM-Solver++ SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "SA-Solver": ("SASolverScheduler", {}),
    "LCM": ("LCMScheduler", {"clip_sample": False}),
}
FIRST_SEED = 80_000
BATCH = 12
RESULT = Path(__file__).parent / "results" / "stochastic.md"


def pictures(
    pipe: Any, prompts: Sequence[str], schedule: TextSchedule, steps: int, stochastic: bool | None = None
) -> list[np.ndarray]:
    """Of each prompt; `stochastic` says what is extrapolated, whatever the sampler is."""
    found: list[np.ndarray] = []
    taken = is_stochastic if stochastic is None else lambda *_: stochastic
    for first in range(0, len(prompts), BATCH):
        those = prompts[first : first + BATCH]
        with patch("shapefirst.sampling.loop.is_stochastic", taken):
            *_, last = denoise(
                pipe,
                encode(pipe, those),
                schedule=schedule,
                num_inference_steps=steps,
                guidance_scale=default_guidance_scale("pocket"),
                generator=generators(range(FIRST_SEED + first, FIRST_SEED + first + len(those))),
            )
        found += [np.asarray(image) for image in decode(pipe, last.x_next)]
    return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--prompts", type=int, default=24)
    arguments.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    arguments.add_argument("--budget", type=float, default=0.6)
    given = arguments.parse_args()
    pipe, prompts = copy.copy(load("pocket", dtype="float32")), mixed(given.prompts, FIRST_SEED)
    config, budget = pipe.scheduler.config, given.budget
    ways = {
        "output, order 1": (TextSchedule.within(budget, order=1), 1.0, False),
        "output, order 0": (TextSchedule.within(budget, order=0), 1.0, False),
        "x0, order 0": (TextSchedule.within(budget, order=0), 1.0, True),
        "the paper": (TextSchedule.until(fraction=2 * budget - 1), 1.0, None),
        "fewer steps": (TextSchedule.always(), budget, None),
    }
    scale = default_guidance_scale("pocket")
    about = (
        f"pocket, w = {scale:g}, {budget:.0%} of the evaluations, n = {len(prompts)} prompts, image i of seed "
        f"{FIRST_SEED} + i. L1 to the fully guided image of the same seed and sampler, with 95% bootstrap intervals "
        "over prompts. `budget=` extrapolates the output with the first two samplers, and x0 with the others."
    )
    kept, rows = kept_rows(RESULT, about, 2), []
    for steps in given.steps:
        for name, (kind, options) in track(SAMPLERS.items(), f"{steps} steps"):
            known = name, str(steps)
            if known not in kept:
                pipe.scheduler = getattr(diffusers, kind).from_config(config, **options)
                full = pictures(pipe, prompts, TextSchedule.always(), steps)
                drawn = (pictures(pipe, prompts, policy, round(s * steps), what) for policy, s, what in ways.values())
                kept[known] = [f"{bootstrap(list(map(l1, found, full)), within=SHARE):.4f}" for found in drawn]
            rows.append((*known, *kept[known]))
    save_table(f"{about}\n\n", ("sampler", "steps", *ways), rows, RESULT)


if __name__ == "__main__":
    main()
