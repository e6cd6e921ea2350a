"""What a choice costs on prompts that it was not chosen by: whole calls, in turn with the stock pipeline's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from shapefirst.images.jobs import Job, Result, generate
from shapefirst.measure import l1
from shapefirst.measure.intervals import SHARE, Interval, Range, bootstrap
from shapefirst.policies.schedule import TextSchedule
from shapefirst.tuning.candidates import Candidate
from shapefirst.tuning.search import Tuner

__all__ = ["held_out", "held_out_cost"]

SEED: Final = 2_000_000  # of the first image
BATCHES: Final = 4


def held_out_cost(tuner: Tuner, prompts: int) -> int:
    """How many denoiser evaluations `held_out` takes at most, over all images."""
    full = 2 * tuner.sampling.steps
    chosen = min(full, tuner.evaluations or full)
    target = 2 * tuner.reference_steps if tuner.goal == "best" else 0
    return (prompts + _held_out_batch(prompts)) * (full + chosen) + prompts * target


def _held_out_batch(prompts: int) -> int:
    """Images in a batch of `held_out`, the first of which is sampled once more to warm up."""
    return -(-prompts // BATCHES)


def held_out(
    tuner: Tuner, candidate: Candidate, prompts: Sequence[str], report: Callable[[float], None]
) -> tuple[Interval, Interval]:
    """L1, and the share of the time saved, on prompts that had no say: whole calls, in turn with full guidance.

    L1 is to the pictures of the search's goal, time saved is of the pipeline's own N steps. It is compared batch by
    batch, and its interval is over the batches.

    Args:
        tuner: The search, as it was calibrated.
        candidate: The choice.
        prompts: At least `BATCHES` of them.
        report: Takes the share that is done.
    """
    pipe, sampling = tuner.pipe, tuner.sampling
    size = _held_out_batch(len(prompts))
    jobs = [Job(prompt, SEED + i) for i, prompt in enumerate(prompts)]
    fully = Candidate(sampling.steps, TextSchedule.always(), "")
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    target = Candidate(tuner.reference_steps, tuner.reference, "") if tuner.goal == "best" else None

    def made(one: Candidate, batch: Sequence[Job]) -> list[Result]:
        return generate(pipe, batch, {"": one.schedule}, replace(sampling, steps=one.steps), batch_size=size)[""]

    for one in (fully, candidate):  # neither pays for what only the first call does
        made(one, batches[0])
    distances: list[float] = []
    saved: list[float] = []
    for n, batch in enumerate(batches):
        results: dict[str, list[Result]] = {}
        for one in (fully, candidate) if n % 2 else (candidate, fully):
            results["full" if one is fully else "mine"] = made(one, batch)
        pairs = list(zip(results["mine"], results["full"], strict=True))
        wanted = results["full"] if target is None else made(target, batch)
        distances += [l1(mine.image, it.image) for mine, it in zip(results["mine"], wanted, strict=True)]
        saved.append(1 - sum(mine.seconds for mine, _ in pairs) / sum(full.seconds for _, full in pairs))
        report((n + 1) / len(batches))
    return bootstrap(distances, within=SHARE), bootstrap(saved, within=Range(-np.inf, 1.0))
