"""From a list of timesteps to denoising steps.

A solver may call the denoiser more than once in a step, and its list has one entry a call. With N steps:

    DDIM, DPM-Solver++, Euler, UniPC   t0      t1      t2     ...     N entries,     one call a step
    Heun, KDPM2                        t0 t1 | t1 t2 | t2 ... t(N-1)  2N - 1,        two calls a step, the last step one
    PNDM (skip_prk_steps)              t0 t1 | t1 | t2 ...            N + 1,         two calls in step 0
    PNDM                               N + 9 entries, the first ten of them in step 0

Step i of Heun evaluates the denoiser at t_i and again at t_(i+1), to correct itself: both calls belong to step i. So
the timestep t_(i+1) stands twice in the list, for the end of step i and for the start of step i + 1, and its value
alone does not tell the step; its position does. Nor do equal values tell one step: Karras', Lu's and exponential
spacing round neighbours to the same timestep. PNDM's warm-up is one step, as diffusers' pipelines count it for their
progress bars.

Steps are those that run. A pipeline may start late in its scheduler's list (image to image) or stop early
(`denoising_end`): it loops over a part of it, and a solver's first call is the first of that part. PNDM warms up there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import torch

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families import family_of, name_of
from shapefirst.families.layout import scheduler_of
from shapefirst.families.noise import clean, levels
from shapefirst.guidance.follow import Call
from shapefirst.guidance.introspection import (
    Loop,
    Running,
    list_behind,
    made_of,
    place_in_memory,
    share_memory,
    sigmas_beside,
)
from shapefirst.policies.schedule import calls_in

__all__ = [
    "Generation",
    "Told",
    "by_step",
    "calls_of",
    "follow",
    "position_of",
    "steps_ahead",
    "steps_of",
    "taking_step",
    "told",
]

RUNS: Final = 4  # generations that may take turns on one denoiser


@dataclass(eq=False)
class Generation:
    """One generation as its denoiser sees it, from the first call on; see `follow`.

    Attributes:
        scheduler: The pipeline's scheduler.
        listed: The list of timesteps that was set for the generation, held so that its place in memory stays its own.
        timesteps: Those of them that it loops over.
        values: The same as numbers.
        first: Position of the first call in `timesteps`; a loop of one's own may start late.
        last: Position of the latest call.
        turn: Positions in `timesteps` at which it is this denoiser's turn, where several take turns.
    """

    scheduler: Any
    listed: torch.Tensor
    timesteps: torch.Tensor
    values: list[float]
    first: int
    last: int
    turn: range

    @cached_property
    def steps(self) -> list[int]:
        """The step of each call from the first on."""
        return steps_of(self.scheduler, len(self.values) - self.first)

    @cached_property
    def levels(self) -> list[float]:
        """u_t (see `families.noise`) of each of `values`."""
        return levels(self.scheduler, self.values)

    @cached_property
    def clean(self) -> Sequence[tuple[float, float] | None]:
        """p_t and q_t (see `families.noise`) of each of `values`."""
        return clean(self.scheduler, self.values) or [None] * len(self.values)

    @property
    def step(self) -> int:
        """The step of the latest call, counted from the first one that runs."""
        return self.steps[self.last - self.first]

    @property
    def num_steps(self) -> int:
        return self.steps[-1] + 1

    def in_turn(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Of each step in this denoiser's turn the number of its calls, and u_t at which it begins."""
        return self._by_step(range(max(self.turn.start, self.first), self.turn.stop))

    def in_turn_of_others(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The same of the steps that are others' turn."""
        return self._by_step(at for at in range(self.first, len(self.values)) if at not in self.turn)

    def _by_step(self, places: Iterable[int]) -> tuple[tuple[int, ...], tuple[float, ...]]:
        return by_step((self.steps[at - self.first], self.levels[at]) for at in places)

    @property
    def begins_step(self) -> bool:
        """Whether the latest call is the first one of its step."""
        return self.last == self.first or self.steps[self.last - self.first - 1] < self.step

    def call(self, guidance_scale: float, *, levelled: bool, in_turn: bool) -> Call:
        """The latest call; `levelled` if its noise level matters, `in_turn` if steps are this denoiser's alone."""
        u, scales = (self.levels[self.last], self.clean[self.last]) if levelled else (0.0, None)
        step, num_steps = self.step, self.num_steps
        if in_turn and len(self.turn) < len(self.values):
            before = self.steps[max(self.turn.start, self.first) - self.first]
            step, num_steps = step - before, self.steps[self.turn.stop - 1 - self.first] + 1 - before
        return Call(step, num_steps, self.begins_step, u, guidance_scale, scales)


def calls_of(scheduler: Any, guidance_scale: float) -> list[Call]:
    """All calls of a run over a scheduler's whole list."""
    steps, timesteps = steps_of(scheduler), scheduler.timesteps.tolist()
    begins = [True, *(a < b for a, b in pairwise(steps))]
    scales: Sequence[tuple[float, float] | None] = clean(scheduler, timesteps) or [None] * len(timesteps)
    return [
        Call(step, steps[-1] + 1, begin, u, guidance_scale, pair)
        for step, begin, u, pair in zip(steps, begins, levels(scheduler, timesteps), scales, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Told:
    """What a loop with a scheduler of its own says of a step: the generation, whatever stands for it, and the step."""

    generation: object
    step: int


_told: ContextVar[Told | None] = ContextVar("shapefirst.guidance.timeline", default=None)


@contextmanager
def taking_step(generation: object, step: int) -> Iterator[None]:
    """Within the block, the denoiser's calls are those of this step, whatever list their timesteps are from."""
    token = _told.set(Told(generation, step))
    try:
        yield
    finally:
        _told.reset(token)


def told() -> Told | None:
    """What the innermost `taking_step` block says, the same object throughout the step; None outside of one."""
    return _told.get()


def follow(runs: list[Generation], t: Any, pipe: Any, running: Running | None, denoiser: Any) -> Generation:
    """The run that a denoiser call at `t` belongs to, brought up to date: a new one with new timesteps or a step back.

    Args:
        runs: The runs of the denoiser's previous calls, the latest first, which is kept up to date: those of several
            may take turns.
        t: The timestep as the denoiser was given it.
        pipe: The pipeline.
        running: Its call in progress, or that of another pipeline that shares the denoiser. Where its loop is, the step
            is; in a loop of one's own, the run is the list that `t` is from.
        denoiser: The denoiser.

    Raises:
        UnsupportedPipelineError: There is no such loop, and `t` is not in the list.
    """
    loop = running.loop(t) if running else None
    if running and loop:
        return _follow_loop(runs, loop, running, denoiser)
    pipe = running.pipe if running else pipe
    scheduler = scheduler_of(pipe)
    # In a loop of one's own, the pipeline's scheduler may never have been set, and has no list.
    behind = list_behind(t, scheduler.timesteps)
    listed: torch.Tensor | None = scheduler.timesteps if behind is None else behind
    for run in runs:
        if run.scheduler is scheduler and _same_place(run.listed, listed):
            position = position_of(t, run.timesteps, scheduler, run.values, last=run.last)
            if position is not None and position >= run.last:
                return _latest(runs, run, position)

    looped = running.timesteps if running else None
    for timesteps in (looped, listed):
        if listed is None or not isinstance(timesteps, torch.Tensor) or timesteps.ndim != 1:
            continue
        values = timesteps.tolist()  # the one wait for the device in a generation
        position = position_of(t, timesteps, scheduler, values)
        if position is not None:
            first, turn = 0 if timesteps is looped else position, range(len(values))
            run = Generation(scheduler, listed, timesteps, values, first, position, turn)
            return _latest(runs, run, position)
    raise UnsupportedPipelineError(
        f"{name_of(pipe)} gave its denoiser the timestep {_shown(t)}, which is not in its scheduler's list, so the "
        "step cannot be told."
    )


def _shown(t: Any) -> str:
    return str(float(torch.as_tensor(t).flatten()[0])) if isinstance(t, (int, float, torch.Tensor)) else repr(t)


def _follow_loop(runs: list[Generation], loop: Loop, running: Running, denoiser: Any) -> Generation:
    for run in runs:
        if _same_place(run.timesteps, loop.timesteps) and loop.position >= run.last:
            return _latest(runs, run, loop.position)
    listed, values = loop.timesteps, loop.timesteps.tolist()
    turn = family_of(running.pipe).turn(running.names, running.pipe, denoiser, values)
    run = Generation(loop.scheduler, listed, listed, values, 0, loop.position, turn)
    return _latest(runs, run, loop.position)


def _latest(runs: list[Generation], run: Generation, position: int) -> Generation:
    run.last = position
    if run in runs:
        runs.remove(run)
    runs.insert(0, run)
    del runs[RUNS:]
    return run


def _same_place(a: torch.Tensor, b: torch.Tensor | None) -> bool:
    """Whether two lists are the same memory; set_timesteps() makes a new tensor for every generation."""
    return b is not None and a.data_ptr() == b.data_ptr() and a.shape == b.shape


def steps_of(scheduler: Any, calls: int | None = None) -> list[int]:
    """The denoising step, counted from 0, of each of a run's calls; by default one that takes the scheduler's list."""
    calls = len(scheduler.timesteps) if calls is None else calls
    return [max(0, call - _warmup(scheduler)) // getattr(scheduler, "order", 1) for call in range(calls)]


def by_step(calls: Iterable[tuple[int, float]]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """How many calls each step has, and u_t at its first one; from the step and the level of each call."""
    levels: dict[int, list[float]] = {}
    for step, level in calls:
        levels.setdefault(step, []).append(level)
    return tuple(len(those) for those in levels.values()), tuple(those[0] for those in levels.values())


def steps_ahead(scheduler: Any, num_steps: int) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """The same of a run that has not begun; None where the levels of a scheduler are up to more than N."""
    order = getattr(scheduler, "order", 1)
    calls = tuple(calls_in(step, num_steps, order) + (step == 0) * _warmup(scheduler) for step in range(num_steps))
    ahead = copy.deepcopy(scheduler)
    try:
        ahead.set_timesteps(num_steps)
    except Exception:  # whatever is missing (a shift by the picture's size) or wrong: the run itself says it
        return calls, None
    _, found = by_step(zip(steps_of(ahead), levels(ahead, ahead.timesteps.tolist()), strict=True))
    return calls, found if len(found) == num_steps else None


def _warmup(scheduler: Any) -> int:
    """Calls of step 0 that a solver makes beyond those of any other step: PNDM's, wherever in its list it begins."""
    if not hasattr(scheduler, "prk_timesteps"):
        return 0
    if scheduler.num_inference_steps is None:  # it was never set: a loop of one's own takes the steps of a copy
        return 1 if scheduler.config.skip_prk_steps else 9
    return len(scheduler.timesteps) - scheduler.num_inference_steps


def position_of(
    t: Any, timesteps: torch.Tensor, scheduler: Any, values: list[float], last: int | None = None
) -> int | None:
    """Where the timestep `t`, as the denoiser was given it, stands in a list.

    Pipelines hand the denoiser an element of that tensor (or an expanded view of it): its place in memory is its
    position, exact also where timesteps repeat, and read without waiting for the device. Otherwise `t` is looked up by
    value, then as what models are given of it: its sigma, a share of the training's timesteps, or 1 minus that. Where a
    value repeats, the solver's own `step_index` decides; if it has none, or one left over from an aborted run that does
    not fit `t`, the first occurrence after `last` is taken.

    Args:
        t: A number, or a tensor of shape () or (batch, ...) with one value, or with 0 in some places.
        timesteps: The list, the scheduler's own or a part of it.
        scheduler: The pipeline's scheduler.
        values: `timesteps.tolist()`, which the caller keeps for a whole generation.
        last: The position of the generation's previous call.

    Returns:
        A position in [0, len(values)), or None if `t` is not in the list, or is no time.

    Raises:
        UnsupportedPipelineError: It has several values of the list.
    """
    if not isinstance(t, (int, float, torch.Tensor)):
        return None
    if (at := place_in_memory(t, timesteps)) is not None:
        return at if 0 <= at < len(values) else None
    if isinstance(t, torch.Tensor):
        if t.dtype != timesteps.dtype and t.is_floating_point():  # some pipelines hand it over in the model's own
            values = timesteps.to(t.dtype).tolist()
        times = t.unique().tolist()
        t = times[-1]  # a picture that a video begins with has tokens of timestep 0, or of less noise than the others
        if sum(time > 0 and time in values for time in times) > 1:
            raise UnsupportedPipelineError(
                "The denoiser is given parts of a picture at several steps at once, of the timesteps "
                f"{', '.join(f'{time:g}' for time in times)}, and a policy says what is done in one: let all parts "
                "take the same step (ar_step=0)."
            )

    whole, sigmas = scheduler.timesteps, sigmas_beside(scheduler)
    part = timesteps.storage_offset() - whole.storage_offset() if share_memory(timesteps, whole) else None
    time = float(t)
    found = [position for position, value in enumerate(values) if value == time]
    if not found and part is not None and sigmas is not None:
        beside = sigmas[part : part + len(values)].tolist()
        found = [position for position, value in enumerate(beside) if math.isclose(value, time, rel_tol=1e-5)]
    if not found:
        return _made_of(time, values, scheduler)
    if len(found) > 1 and (index := getattr(scheduler, "step_index", None)) is not None:
        index -= part or 0
        if index in found:
            return index
    return next((position for position in found if last is not None and position > last), found[0])


def _made_of(t: float, values: list[float], scheduler: Any) -> int | None:
    """The position of the timestep that `t` is a share of the training's, or 1 minus such a one."""
    for made in made_of(t, scheduler):
        nearest = min(range(len(values)), key=lambda position: abs(values[position] - made))
        if math.isclose(values[nearest], made, rel_tol=1e-3, abs_tol=1e-3):
            return nearest
    return None
