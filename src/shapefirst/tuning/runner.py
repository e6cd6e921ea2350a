"""The search as `shapefirst tune` makes it: what an interrupted one has left is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Final

import diffusers
import torch

from shapefirst import __version__
from shapefirst.errors import ShapefirstError
from shapefirst.guidance.timeline import steps_ahead
from shapefirst.measure.intervals import Interval
from shapefirst.policies.file import PolicyFile, model_digest, sampler_digest
from shapefirst.policies.solver import is_flow
from shapefirst.tuning.candidates import Candidate, Found, candidates, check_reach, shortlist
from shapefirst.tuning.goals import FEWEST, solvers, steps_to_fit
from shapefirst.tuning.kept import UnfinishedSearch
from shapefirst.tuning.refining import refining_cost
from shapefirst.tuning.search import Tuner
from shapefirst.tuning.times import MOST_TRIES

__all__ = ["search_cost", "try_policies", "tuned_policy"]

PROBE: Final = 30  # evaluations of each image of a batch, about: those of `Tuner.costs`
PROBE_CALLS: Final = 16


def search_cost(tuner: Tuner) -> float:
    """About how many denoiser evaluations `try_policies` takes, over all images.

    Raises:
        ShapefirstError: It would find no policy that takes so few evaluations as are asked for.
    """
    among = _among(tuner)
    fitted = steps_to_fit(tuner.goal, tuner.sampling.steps, 2 * FEWEST) if tuner.can_fit else []
    check_reach(tuner.evaluations, [*(c.evaluations for c in among), *(2 * steps for steps in fitted)])
    ran = sum(c.evaluations for c in shortlist(among, {})) + sum(2 * MOST_TRIES * steps for steps in _fits(tuner))
    return len(tuner.prompts) * (_recorded(tuner) + ran + _refined(tuner)) + PROBE * tuner.batch_size


def try_policies(
    tuner: Tuner,
    kept: UnfinishedSearch,
    choice: Callable[[Sequence[Found]], Found],
    tick: Callable[[float], None],
) -> list[Found]:
    """Records, scores and runs candidates, fits solvers, and refines the one of these that would be chosen.

    Args:
        tuner: On the calibration prompts.
        kept: What is done goes there, and is taken from there.
        choice: Which of those that are given would be chosen; raises ShapefirstError if none.
        tick: Told as it goes, in denoiser evaluations (see `search_cost`).
    """
    steps, images = tuner.sampling.steps, len(tuner.prompts)
    among, recording_cost = _among(tuner), images * _recorded(tuner) / tuner.batches
    for batch in range(tuner.batches):
        recording = kept.recording(batch)
        if recording is None or not tuner.fits(batch, recording, among):
            recorded = tuner.record(batch, among, partial(tick, recording_cost / tuner.reference_steps))
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
    for number in _fits(tuner):
        fitted = kept.fitted(number, images)
        if fitted is None:
            fitted = kept.keep_fitted(number, *tuner.fit(number, partial(tick, 2 * images)))
        else:
            tick(2 * MOST_TRIES * number * images)
        found.append(Found(fitted[0], costs.saved(fitted[0], steps), tuple(fitted[1])))
    return _with_one_refined(tuner, kept, choice, tick, found)


def _with_one_refined(
    tuner: Tuner,
    kept: UnfinishedSearch,
    choice: Callable[[Sequence[Found]], Found],
    tick: Callable[[float], None],
    found: list[Found],
) -> list[Found]:
    images = len(tuner.prompts)
    left = images * _refined(tuner)

    def counted(evaluations: int) -> None:
        nonlocal left
        left -= evaluations
        tick(evaluations)

    best: Found | None = None
    with suppress(ShapefirstError):  # none of them would be chosen
        best = choice([one for one in found if one.candidate.kind == "fitted"])
    if best is not None and tuner.can_refine(best.candidate.steps):
        steps = best.candidate.steps
        refined = kept.fitted(steps, images, refined=True) or kept.keep_fitted(
            steps, *tuner.refine(best.candidate, list(best.l1), counted), refined=True
        )
        found[found.index(best)] = Found(refined[0], best.time_saved, tuple(refined[1]))
    tick(left)
    return found


def _refined(tuner: Tuner) -> int:
    """Evaluations of an image for the solver that is refined, at most."""
    return max((refining_cost(steps) for steps in _fits(tuner) if tuner.can_refine(steps)), default=0)


def _among(tuner: Tuner) -> list[Candidate]:
    """All that are scored or run, besides solvers that are fitted."""
    if tuner.goal == "keep":
        solver, steps = tuner.pipe.scheduler, tuner.sampling.steps
        _, levels = steps_ahead(solver, steps)
        return candidates(steps, tuner.solver_order, levels, flow=is_flow(solver.config))
    stock = solvers(_fits(tuner), tuner.pipe.scheduler.config)
    found = [Candidate(number, schedule, "") for number, schedule in stock]
    return [replace(one, kind=one.name) for one in found]


def _fits(tuner: Tuner) -> list[int]:
    return steps_to_fit(tuner.goal, tuner.sampling.steps, tuner.evaluations) if tuner.can_fit else []


def _recorded(tuner: Tuner) -> int:
    """Evaluations of an image of the pictures that all are held against."""
    return tuner.reference.evaluations(tuner.reference_steps, 1 if tuner.goal == "best" else tuner.solver_order)


def tuned_policy(
    model: str,
    tuner: Tuner,
    found: Sequence[Found],
    choice: Candidate,
    prompts: int,
    distance: Interval,
    saved: Interval,
    lora: str = "",
) -> PolicyFile:
    """The choice, for `policies.file.write_policy`, with what was measured on so many other prompts, with these LoRAs
    on the pipeline."""
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
        goal="best" if tuner.goal == "best" else "keep",
        solver=schedule.solver,
        lora=lora,
        versions={"shapefirst": __version__, "diffusers": diffusers.__version__, "torch": torch.__version__},
        measured={
            "full guidance at steps": tuner.sampling.steps,
            "prompts": prompts,
            "evaluations": choice.evaluations,
            "L1": asdict(distance),
            "L1 by evaluations": _front(found),
            "time saved": asdict(saved),
            "device": pipe._execution_device.type,
            "batch size": tuner.batch_size,
        },
    )


def _front(found: Sequence[Found]) -> dict[str, float]:
    """Evaluations -> L1 on the prompts that were chosen by, of all that no other one beats in both."""
    front: dict[str, float] = {}
    for one in sorted(found, key=lambda f: (f.candidate.evaluations, f.distance.estimate)):
        if one.distance.estimate < min(front.values(), default=float("inf")):
            front.setdefault(str(one.candidate.evaluations), one.distance.estimate)
    return front
