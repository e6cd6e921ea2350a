"""The search as `shapefirst tune` makes it: what an interrupted one has left is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Final

import diffusers
import torch

from shapefirst import __version__
from shapefirst.measure.intervals import Interval
from shapefirst.policies.file import PolicyFile, model_digest, sampler_digest
from shapefirst.policies.schedule import TextSchedule
from shapefirst.tuning.candidates import Candidate, Found, candidates, shortlist
from shapefirst.tuning.kept import UnfinishedSearch
from shapefirst.tuning.search import Tuner

__all__ = ["search_cost", "try_policies", "tuned_policy"]

PROBE: Final = 30  # evaluations of each image of a batch, about: those of `Tuner.costs`
PROBE_CALLS: Final = 16


def search_cost(tuner: Tuner) -> float:
    """About how many denoiser evaluations `try_policies` takes, over all images."""
    ran = sum(c.evaluations for c in shortlist(candidates(tuner.sampling.steps, tuner.solver_order), {}))
    return len(tuner.prompts) * (_fully(tuner) + ran) + PROBE * tuner.batch_size


def try_policies(tuner: Tuner, kept: UnfinishedSearch, tick: Callable[[float], None]) -> list[Found]:
    """Records, scores and runs candidates.

    Args:
        tuner: On the calibration prompts.
        kept: What is done goes there, and is taken from there.
        tick: Told as it goes, in denoiser evaluations (see `search_cost`).
    """
    steps, images = tuner.sampling.steps, len(tuner.prompts)
    among, recording_cost = candidates(steps, tuner.solver_order), images * _fully(tuner) / tuner.batches
    for batch in range(tuner.batches):
        recording = kept.recording(batch)
        if recording is None or not tuner.fits(batch, recording, among):
            recorded = tuner.record(batch, among, partial(tick, recording_cost / steps))
            kept.keep_recording(batch, recorded)
        else:
            tuner.restore(batch, recording)
            tick(recording_cost)
    runs = shortlist(among, tuner.scores())
    costs = kept.costs or kept.keep_costs(tuner.costs(partial(tick, PROBE * tuner.batch_size / PROBE_CALLS)))
    found = []
    for candidate in runs:
        distances = kept.runs.get(candidate.name)
        if distances is None or len(distances) != images:
            tick_batch = partial(tick, candidate.evaluations * images / tuner.batches)
            distances = kept.keep_run(candidate.name, tuner.run(candidate, tick_batch))
        else:
            tick(candidate.evaluations * images)
        found.append(Found(candidate, costs.saved(candidate, steps), tuple(distances)))
    return found


def _fully(tuner: Tuner) -> int:
    """Evaluations of an image under full guidance."""
    return TextSchedule.always().evaluations(tuner.sampling.steps, tuner.solver_order)


def tuned_policy(
    model: str, tuner: Tuner, choice: Candidate, prompts: int, distance: Interval, saved: Interval
) -> PolicyFile:
    """The choice, for `policies.file.write_policy`, with what was measured on so many other prompts."""
    pipe, schedule = tuner.pipe, choice.schedule
    return PolicyFile(
        model=model,
        model_digest=model_digest(pipe),
        sampler=type(pipe.scheduler).__name__,
        sampler_digest=sampler_digest(pipe.scheduler),
        guidance_scale=tuner.sampling.guidance_scale,
        steps=choice.steps,
        guided=tuple(sorted(schedule.guided_steps(choice.steps))),
        keep=schedule.keep,
        order=schedule.order,
        versions={"shapefirst": __version__, "diffusers": diffusers.__version__, "torch": torch.__version__},
        measured={
            "full guidance at steps": tuner.sampling.steps,
            "prompts": prompts,
            "evaluations": choice.evaluations,
            "L1": asdict(distance),
            "time saved": asdict(saved),
            "device": pipe.device.type,
            "batch size": tuner.batch_size,
        },
    )
