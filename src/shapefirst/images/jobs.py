"""Images of prompts under one or several text schedules, with what each image cost.

Cost is counted in denoiser evaluations per image (a guided step takes two, any other step one) and measured in seconds;
both are always reported together. Several schedules run in alternation, batch by batch, so that none has the quieter
machine.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from shapefirst.checks import check_number, check_seed, check_side, check_steps
from shapefirst.errors import ShapefirstError
from shapefirst.families.layout import own_sides, own_size
from shapefirst.guidance.blocks import guide
from shapefirst.models.faults import faults_of
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts.tokens import overflow, preprocessed
from shapefirst.sampling.loop import as_images, generators
from shapefirst.signatures import Pipeline, Positive, guarded

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Job", "Result", "Sampling", "cut_text", "generate", "make_jobs"]


@guarded
@dataclass(frozen=True)
class Sampling:
    """What the pipeline is told besides prompt, seed and schedule; a schedule that has steps of its own takes those.

    Raises:
        ShapefirstError: A number of steps, a guidance scale or a side out of `checks.BOUNDS`.
    """

    guidance_scale: float
    steps: int = 50
    negative_prompt: str | None = None
    height: int | None = None  #: of the images, in pixels; by default the model's own, each for itself
    width: int | None = None

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if (side := getattr(self, name)) is not None:
                check_side(side, f"The {name} of an image")
        check_number(self.steps, "steps", "The number of steps")
        check_number(self.guidance_scale, "guidance scale", "The guidance scale")


@guarded
@dataclass(frozen=True)
class Job:
    """One image to make."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Result:
    """One image and its cost."""

    prompt: str
    seed: int
    image: Image.Image
    evaluations: float  #: denoiser evaluations spent on this image
    asked: float  #: those that full guidance takes with this sampler
    seconds: float  #: wall clock of its batch's whole pipeline call, divided by the batch size


@guarded
def make_jobs(prompts: Sequence[str], num_images: int, seed: int) -> list[Job]:
    """``num_images`` of each prompt. Every prompt gets the same seeds: ``seed``, ``seed + 1``, ...

    Raises:
        ShapefirstError: No image to make or more than `checks.BOUNDS` has, an empty prompt, or a seed that torch does
            not take.
    """
    if not prompts:
        raise ShapefirstError("There is no prompt: give at least one.")
    for n, prompt in enumerate(prompts, start=1):
        if not prompt.strip():
            raise ShapefirstError(f"Prompt {n} is empty: give it words.")
    check_number(num_images, "images", "The number of images")
    check_number(num_images * len(prompts), "images", "The number of images of all prompts")
    check_seed(seed, num_images)
    return [Job(prompt, seed + i) for prompt in prompts for i in range(num_images)]


@guarded
def generate(
    pipe: Pipeline,
    jobs: Sequence[Job],
    schedules: Mapping[str, Policy],
    sampling: Sampling,
    *,
    batch_size: Positive = 4,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, list[Result]]:
    """Makes every job's image under every schedule.

    Args:
        pipe: A text-to-image pipeline that :func:`shapefirst.guide` supports.
        jobs: What to make. The image of a job does not depend on the jobs around it, to rounding.
        schedules: Name -> policy.
        sampling: The rest of the settings.
        batch_size: Jobs in one call of the pipeline.
        on_progress: Called during sampling with the number of images done so far, fractions included; the last call is
            with ``len(jobs) * len(schedules)``.

    Returns:
        Name of the schedule -> results in the order of ``jobs``.

    Raises:
        UnsupportedPipelineError: The pipeline has no guidance of a known layout.
        ModelError: The pipeline cannot be run, whatever it is asked for.
        ShapefirstError: More steps than the model was trained for, or predictions that overflow.
    """
    check_steps(sampling.steps, pipe.scheduler)
    report = on_progress or (lambda done: None)
    results: dict[str, list[Result]] = {name: [] for name in schedules}
    if len(schedules) > 1:
        _warm_up(pipe, jobs[:batch_size], sampling)
    done = 0
    turns = list(schedules), list(reversed(list(schedules)))
    for n, batch in enumerate(_batches(jobs, batch_size)):
        for name in turns[n % 2]:
            on_part = partial(_report_part, report, done, len(batch))
            results[name] += _sample(pipe, batch, schedules[name], sampling, on_part)
            done += len(batch)
            report(done)
    return results


@guarded
def cut_text(pipe: Pipeline, prompt: str) -> str:
    """The end of ``prompt`` that does not fit into the text encoder's positions (77 for CLIP); "" where all does.

    It is spelled as the pipeline gives it to the tokenizer (see `preprocessed`).
    """
    own_limit = inspect.signature(pipe.__call__).parameters.get("max_sequence_length")
    return overflow(pipe.tokenizer, preprocessed(pipe, prompt), own_limit.default if own_limit else None).cut


def _batches(jobs: Sequence[Job], size: int) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), size):
        yield jobs[start : start + size]


def _sample(
    pipe: Any, batch: Sequence[Job], schedule: Policy, sampling: Sampling, report: Callable[[float], None]
) -> list[Result]:
    own = schedule.own_steps
    if isinstance(schedule, TextSchedule) and own is not None:
        schedule = replace(schedule, stands_for=sampling.steps)
    arguments: dict[str, Any] = {
        "prompt": [job.prompt for job in batch],
        "generator": generators([job.seed for job in batch]),
        "num_inference_steps": own or sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "output_type": "np",
        **_step_callback(pipe, report),
        **own_size(pipe),
    }
    sides = {name: side for name in ("height", "width") if (side := getattr(sampling, name)) is not None}
    for name in sides:
        if name not in inspect.signature(pipe.__call__).parameters:
            raise ShapefirstError(f"{type(pipe).__name__} makes images of its own {name} alone: leave it out.")
    if sides:
        arguments |= {**own_sides(pipe), **sides}
    if sampling.negative_prompt is not None:
        arguments["negative_prompt"] = [sampling.negative_prompt] * len(batch)
    start = time.perf_counter()
    with faults_of(pipe), guide(pipe, schedule) as spent:
        images = as_images(pipe, pipe(**arguments).images)
    seconds, n = time.perf_counter() - start, len(batch)
    return [
        Result(job.prompt, job.seed, image, spent.rows / n, spent.asked / n, seconds / n)
        for job, image in zip(batch, images, strict=True)
    ]


def _report_part(report: Callable[[float], None], done: int, size: int, part: float) -> None:
    report(done + part * size)


def _warm_up(pipe: Any, batch: Sequence[Job], sampling: Sampling) -> None:
    """One step with the text and one without, so that no timed call pays for what only the first one does."""
    short = replace(sampling, steps=2)
    _sample(pipe, batch, TextSchedule.until(1), short, lambda part: None)


def _step_callback(pipe: Any, report: Callable[[float], None]) -> dict[str, Any]:
    """The argument by which this pipeline tells about its steps, as a part of all of them in [0, 1]."""

    def part(step: int) -> float:
        return (step + 1) / len(pipe.scheduler.timesteps)

    def on_step_end(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        report(part(step))
        return tensors

    parameters = inspect.signature(pipe.__call__).parameters
    if "callback_on_step_end" in parameters:
        return {"callback_on_step_end": on_step_end}
    if "callback" in parameters:
        return {"callback": lambda step, timestep, latents: report(part(step))}
    return {}
