"""What `pareto.py` compares: ours and everybody else's ways to sample faster, at all their settings.

What each rival is measured with is in `peers.settings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from peers.loop import Block
from peers.settings import FLOWS, RIVALS, STOCK, ays

from shapefirst import TextSchedule, guide
from shapefirst.cli.tune import CALIBRATION_SEED
from shapefirst.files import save_text
from shapefirst.images.jobs import Sampling
from shapefirst.models import default_guidance_scale
from shapefirst.policies.solver import Solver
from shapefirst.prompts import mixed
from shapefirst.tuning.goals import reference
from shapefirst.tuning.search import Tuner

CONVERGED: Final = 1000  # all of the model's times
#: Of more of them, which diffusers rounds, the first two are the same, and it begins at the second.
CONVERGED_FLOW: Final = 320
#: Setting -> the sampler, of `STOCK` or `FLOWS`, and its number of steps.
SETTINGS: Final = {
    "dpm-karras-25": ("DPM++ 2M, Karras", 25),
    "euler-25": ("Euler, trailing", 25),
    "ddim-50": ("DDIM, trailing", 50),
    "dpm-20": ("DPM++ 2M, trailing", 20),
    "unipc-20": ("UniPC 2, trailing", 20),
    "deis-30": ("DEIS 2, trailing", 30),
    "euler-leading-25": ("Euler, leading", 25),
    "flow-28": ("Euler, flow, shift 3", 28),
    "best": ("DPM++ 2M, trailing", CONVERGED),
    "best-flow": ("DPM++ 2M, flow, shift 3", CONVERGED_FLOW),
}
CONFIRMING: Final = {"best": "UniPC 2, trailing", "best-flow": "UniPC 2, flow, shift 3"}
BEST_STEPS: Final = (10, 15, 20)
FEWER: Final = (0.88, 0.76, 0.68, 0.6, 0.5, 0.4)
SHARES: Final = (0.76, 0.6, 0.5)  # of the evaluations, of ours
BATCH: Final = 16
CALIBRATION: Final = 64  # prompts, the most that the command takes
SCALE: Final = default_guidance_scale("pocket")
REFERENCE: Final = "reference"
OURS: Final = "ours"
FEWER_STEPS: Final = "fewer steps"


@dataclass(frozen=True)
class Method:
    """A way to sample, at one setting: its steps are those of the pipeline's call, None if it says them itself."""

    family: str
    setting: str
    sampler: str
    steps: int | None
    block: Block

    @property
    def name(self) -> str:
        """For files."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.family} {self.setting}".lower()).strip("-")

    @property
    def is_ours(self) -> bool:
        return self.family.startswith(OURS)


@contextmanager
def stock(pipe: Any) -> Iterator[Callable[..., Any]]:
    yield pipe


@contextmanager
def guided(pipe: Any, what: Any = None, **how: Any) -> Iterator[Callable[..., Any]]:
    with guide(pipe, what, **how):
        yield pipe


@contextmanager
def fitted(pipe: Any, goal: str, num_steps: int, steps: int, out: Path) -> Iterator[Callable[..., Any]]:
    """The solver that `shapefirst tune` fits to so many steps, on its calibration prompts; kept in ``out``."""
    file = out / f"solver-{steps}.json"
    if not file.is_file():
        tuner = Tuner(pipe, Sampling(SCALE, num_steps), mixed(CALIBRATION, CALIBRATION_SEED), BATCH, goal)
        for batch in range(tuner.batches):
            tuner.record(batch, [], lambda: None)
        for number in fits(num_steps) if goal == "keep" else BEST_STEPS:
            fit = tuner.fit(number, lambda: None)
            schedule = (tuner.refine(*fit) if tuner.can_refine(number) else fit)[0].schedule
            assert schedule.solver is not None
            save_text(schedule.solver.configuration, out / f"solver-{number}.json")
    with guide(pipe, TextSchedule.solved(Solver("FittedScheduler", file.read_text()), steps)):
        yield pipe


@contextmanager
def followed(pipe: Any) -> Iterator[Callable[..., Any]]:
    """The run to the converged picture that `shapefirst tune` follows."""
    policy, _ = reference("best", CONVERGED, pipe.scheduler.config)
    with guide(pipe, policy):
        yield pipe


def fits(num_steps: int) -> list[int]:
    return [round(share * num_steps) for share in SHARES]


def methods(setting: str, out: Path) -> list[Method]:
    """All of them, the reference first."""
    sampler, n = SETTINGS[setting]
    found = [Method(REFERENCE, "", sampler, n, stock)]
    if setting in CONFIRMING:
        return [*found, *best_methods(setting, out)]
    found += [
        Method(f"{OURS}, budget", f"{share:g}", sampler, n, partial(guided, budget=share + 1e-6)) for share in SHARES
    ]
    found += [Method(f"{OURS}, tol", f"{tol:g}", sampler, n, partial(guided, tol=tol)) for tol in (0.003, 0.006, 0.012)]
    found += [
        Method(
            f"{OURS}, fitted",
            f"{steps} steps",
            sampler,
            None,
            partial(fitted, goal="keep", num_steps=n, steps=steps, out=out),
        )
        for steps in fits(n)
    ]
    found += [Method(FEWER_STEPS, f"{round(s * n)} steps", sampler, round(s * n), stock) for s in FEWER]
    found += [
        Method(family, words, sampler, n, factory(n)) for family, ladder in RIVALS.items() for words, factory in ladder
    ]
    return found


def best_methods(setting: str, out: Path) -> Iterator[Method]:
    """What is held against the converged picture."""
    sampler, n = SETTINGS[setting]
    yield Method("another solver", f"{n} steps", CONFIRMING[setting], n, stock)
    yield Method("fewer of them", "250 steps", sampler, 250, stock)
    yield Method("what tune follows", "to the least noise", sampler, None, followed)
    is_flow = sampler in FLOWS
    for steps in BEST_STEPS:
        how = partial(fitted, goal="best", num_steps=25, steps=steps, out=out)
        yield Method(f"{OURS}, fitted", f"{steps} steps", sampler, None, how)
        for name in FLOWS if is_flow else STOCK:
            yield Method(name, f"{steps} steps", name, steps, stock)
        if not is_flow:
            yield Method("AYS, DPM++ 2M", f"{steps} steps", "DPM++ 2M, leading", steps, ays(steps))
    if not is_flow:
        for tol in (0.02, 0.05, 0.1):
            how = partial(guided, tol=tol)
            yield Method(f"{OURS}, each image its steps", f"tol {tol:g}", "DPM++ 2M, Karras", 40, how)
