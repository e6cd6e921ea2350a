"""Finding a policy for a model and a sampler: a short calibration, a search, and a check on prompts that had no say.

1. Every calibration prompt is sampled once, fully guided, at N steps; the predictions of both branches are kept for a
   moment. A policy can be replayed from them without running it, by what carries it out in earnest
   (`shapefirst.guidance.follow`): exactly until its first step that is not guided, and as an estimate after it,

       score = mean over images of sum_i |u_i - u_(i+1)| rms(eps_hat_i as followed - eps_hat_i as recorded),

   in the model's own terms (noise, v or a flow). Where a step i has several calls (Heun), each counts for its share;

   it is the error that its steps bring into the latents (`shapefirst.guidance.extrapolation` has u).
2. Of every kind of policy that saves about as much, the best by that score really runs: N steps go on from the recorded
   trajectory where it leaves it, fewer steps run from the noise. L1 in [0, 1] is taken to the fully guided image of N
   steps of the same seed.
3. What a step costs in seconds is measured on short runs of the pipeline, all kinds of steps in turn; a policy's time
   is put together from that.
4. The choice, by time or by L1, is measured on prompts that it was not chosen by (`tuning.held_out`).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from shapefirst.families.layout import own_size
from shapefirst.families.noise import adds_noise
from shapefirst.guidance.blocks import guide
from shapefirst.guidance.fitted import FittedScheduler
from shapefirst.guidance.follow import guided_prediction, rms
from shapefirst.guidance.solving import scheduler_for
from shapefirst.guidance.stochastic import is_stochastic
from shapefirst.images.jobs import Sampling
from shapefirst.measure import l1
from shapefirst.models.faults import faults_of
from shapefirst.policies.correction import first_departure
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.solver import Solver
from shapefirst.sampling.loop import Step, decode, denoise, encode, generators
from shapefirst.sampling.step import follower_of
from shapefirst.tuning.candidates import Candidate, Costs
from shapefirst.tuning.fitting import FollowedRuns, fitted_solver, followed_runs
from shapefirst.tuning.goals import reference
from shapefirst.tuning.refining import FEWEST_IMAGES, MOST_STEPS, refined_solver
from shapefirst.tuning.times import MOST_TRIES, times_to_try

__all__ = ["BatchRecord", "Tuner"]

PROBE_STEPS: Final = 10
PROBE_ROUNDS: Final = 3
SEED: Final = 1_000_000  # of the first image


@dataclass(frozen=True)
class BatchRecord:
    """What stays of a batch's fully guided trajectories.

    Attributes:
        references: (B, H, W, 3) uint8, the fully guided images.
        scores: Of each candidate of N steps, by name.
    """

    references: np.ndarray
    scores: Mapping[str, float]


class Tuner:
    """The parts of the search on one pipeline; the command puts them together and keeps what is done.

    Args:
        pipe: The pipeline.
        sampling: w, N and the negative prompt.
        prompts: Calibration prompts.
        batch_size: Images at a time.
        goal: What the pictures are held against.
        evaluations: Of an image, at most, if that is what the choice will be by.

    Attributes:
        reference: The policy of the pictures that all others are held against.
        reference_steps: And their number of steps.
    """

    def __init__(
        self,
        pipe: Any,
        sampling: Sampling,
        prompts: Sequence[str],
        batch_size: int = 8,
        goal: str = "keep",
        evaluations: int | None = None,
    ) -> None:
        self.pipe, self.sampling, self.batch_size, self.goal = pipe, sampling, batch_size, goal
        self.prompts, self.evaluations = list(prompts), evaluations
        self.reference, self.reference_steps = reference(goal, sampling.steps, pipe.scheduler.config)
        self._trajectories: dict[int, FollowedRuns] = {}
        self._recordings: dict[int, BatchRecord] = {}
        self._forks: dict[int, dict[int, Step]] = {}

    @property
    def batches(self) -> int:
        return -(-len(self.prompts) // self.batch_size)

    @property
    def solver_order(self) -> int:
        """Calls of the denoiser in a step."""
        return int(getattr(self.pipe.scheduler, "order", 1))

    @property
    def can_fit(self) -> bool:
        """Whether a solver can be fitted: where what is followed has one call a step, and adds no noise."""
        return self.goal == "best" or (self.solver_order == 1 and not adds_noise(self.pipe.scheduler, 0.0))

    def record(self, batch: int, among: Sequence[Candidate], tick: Callable[[], None]) -> BatchRecord:
        """Sample a batch of the prompts fully guided. `tick` is called after every step."""
        replayed = self._replayed(among)
        leave = {first_departure(c.schedule, c.steps, self.pipe.scheduler) for c in among}
        steps: list[Step] = []
        for step in self._denoise(batch, self.reference, self.reference_steps):
            steps.append(step)
            tick()
        if self.can_fit:
            self._trajectories[batch] = followed_runs(steps, self.sampling.guidance_scale)
        self._forks[batch] = {step.index: step for step in steps if step.index in leave}
        images = np.stack([np.asarray(image) for image in decode(self.pipe, steps[-1].x_next)])
        return self.restore(batch, BatchRecord(images, _replay(steps, replayed, self.sampling.guidance_scale)))

    def fits(self, batch: int, recording: BatchRecord, among: Sequence[Candidate]) -> bool:
        """Whether a recording has what `record` would make of the batch: its images, and the candidates' scores."""
        images = len(self.prompts[batch * self.batch_size :][: self.batch_size])
        return len(recording.references) == images and recording.scores.keys() == {
            c.name for c in self._replayed(among)
        }

    def _replayed(self, among: Sequence[Candidate]) -> list[Candidate]:
        if self.goal == "best":
            return []
        return [c for c in among if c.steps == self.sampling.steps and c.schedule.order is not None]

    def restore(self, batch: int, recording: BatchRecord) -> BatchRecord:
        """Take a batch's recording from an earlier run; what would go on from its trajectories runs from the noise."""
        self._recordings[batch] = recording
        return recording

    def scores(self) -> dict[str, float]:
        """Of each candidate of N steps, by name: the mean over the recorded batches."""
        found = [one for one in self._recordings.values() if one.scores]
        return (
            {} if not found else {name: statistics.fmean(one.scores[name] for one in found) for name in found[0].scores}
        )

    def run(self, candidate: Candidate, tick: Callable[[], None]) -> list[float]:
        """L1 of every image under a candidate; `tick` is called after every batch."""
        distances: list[float] = []
        leaves = first_departure(candidate.schedule, candidate.steps, self.pipe.scheduler)
        for batch in range(self.batches):
            goes_on = self.goal == "keep" and candidate.steps == self.sampling.steps
            start = self._forks.get(batch, {}).get(leaves) if goes_on and not candidate.schedule.solver else None
            (last,) = list(self._denoise(batch, candidate.schedule, candidate.steps, start))[-1:]
            distances += self._distances(batch, last.x_next)
            tick()
        return distances

    def fit(self, steps: int, tick: Callable[[], None]) -> tuple[Candidate, list[float]]:
        """A solver of so many steps, fitted to the recorded trajectories, and the L1 of every image under it.

        Of the times that are tried those with the least L1 are taken. `tick` is called `MOST_TRIES` times as often
        as there are steps.
        """
        recorded = self._followed()
        best: tuple[float, list[float], Any] | None = None
        keep = self.goal == "keep"
        tries = times_to_try(recorded, steps, keep=keep)
        for times in tries:
            scheduler, x = fitted_solver(
                self.pipe, recorded, times, by_signal=not keep, batch_size=self.batch_size, tick=tick
            )
            distances = self._distances_of_all(x)
            if best is None or statistics.fmean(distances) < best[0]:
                best = statistics.fmean(distances), distances, scheduler
        for _ in range((MOST_TRIES - len(tries)) * steps):
            tick()
        assert best is not None, "dynamic programming always finds a path"
        return _solved_by(best[2]), best[1]

    def can_refine(self, steps: int) -> bool:
        """Whether it pays to move the weights of a fitted solver of so many steps once more."""
        return steps <= MOST_STEPS and len(self.prompts) >= FEWEST_IMAGES

    def refine(
        self, fit: Candidate, distances: list[float], tick: Callable[[int], None] = lambda evaluations: None
    ) -> tuple[Candidate, list[float]]:
        """A fitted solver with its weights moved together, and its L1, if it comes closer: else what was given.

        `tick` is told how many denoiser evaluations were made, over all images.
        """
        assert fit.schedule.solver is not None
        scheduler, x = refined_solver(
            self.pipe,
            self._followed(),
            scheduler_for(fit.schedule.solver),
            batch_size=self.batch_size,
            tick=tick,
        )
        refined = self._distances_of_all(x)
        if statistics.fmean(refined) < statistics.fmean(distances):
            return _solved_by(scheduler), refined
        return fit, distances

    def _followed(self) -> FollowedRuns:
        for batch in range(self.batches):
            if batch not in self._trajectories:  # its recording is an earlier run's
                followed = list(self._denoise(batch, self.reference, self.reference_steps))
                self._trajectories[batch] = followed_runs(followed, self.sampling.guidance_scale)
        return FollowedRuns.joined([self._trajectories[batch] for batch in range(self.batches)])

    def _distances_of_all(self, x: torch.Tensor) -> list[float]:
        batches = x.to(self.pipe._execution_device, self._trajectories[0].prompts.text.dtype).split(self.batch_size)
        return [one for batch, latents in enumerate(batches) for one in self._distances(batch, latents)]

    def _distances(self, batch: int, latents: torch.Tensor) -> list[float]:
        references = self._recordings[batch].references
        return [l1(np.asarray(a), b) for a, b in zip(decode(self.pipe, latents), references, strict=True)]

    def costs(self, tick: Callable[[], None]) -> Costs:
        """Seconds of each kind of step, medians over short runs in turn."""
        n, solver_order = PROBE_STEPS, self.solver_order
        policies = {
            "guided": TextSchedule.always(),
            "one": TextSchedule.until(2),
            "none": TextSchedule.at([0, 1]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in (*policies, "short")}
        for turn in range(PROBE_ROUNDS + 1):
            for name in seconds:
                policy, steps = policies.get(name, TextSchedule.always()), n if name in policies else n // 2
                start = time.perf_counter()
                self._call(policy, steps)
                if turn:  # the first warms up
                    seconds[name].append(time.perf_counter() - start)
                tick()
        median = {name: statistics.median(values) for name, values in seconds.items()}
        calls = {name: policy.calls(n, solver_order) for name, policy in policies.items()}
        (full, _), (half, _) = calls["guided"], policies["guided"].calls(n // 2, solver_order)
        guided = (median["guided"] - median["short"]) / (full - half)
        if guided <= 0:  # what else ran on the machine took more than the steps do
            guided = median["guided"] / full
        rest = max(median["guided"] - full * guided, 0.0)
        one, none = (
            max(0.0, (median[name] - rest - calls[name][0] * guided) / calls[name][1]) for name in ("one", "none")
        )
        return Costs(guided, one, none, rest)

    def _call(self, policy: TextSchedule, steps: int) -> None:
        prompts = (self.prompts * self.batch_size)[: self.batch_size]
        with faults_of(self.pipe), guide(self.pipe, policy):
            self.pipe(
                prompts,
                num_inference_steps=steps,
                guidance_scale=self.sampling.guidance_scale,
                generator=generators(range(len(prompts))),
                output_type="np",
                **own_size(self.pipe),
            )

    def _denoise(self, batch: int, schedule: TextSchedule, steps: int, start: Step | None = None) -> Iterator[Step]:
        first = batch * self.batch_size
        prompts = self.prompts[first : first + self.batch_size]
        return denoise(
            self.pipe,
            encode(self.pipe, prompts, self.sampling.negative_prompt),
            schedule=schedule,
            num_inference_steps=steps,
            guidance_scale=self.sampling.guidance_scale,
            generator=generators(range(SEED + first, SEED + first + len(prompts))),
            start=start,
        )


def _solved_by(scheduler: FittedScheduler) -> Candidate:
    steps = len(scheduler.config.timesteps)
    return Candidate(steps, TextSchedule.solved(Solver.like(scheduler), steps), "fitted")


def _replay(steps: Sequence[Step], among: Sequence[Candidate], scale: float) -> dict[str, float]:
    """The score of each candidate on one batch's trajectory."""
    begins = [*(step.calls[0].call.u for step in steps), 0.0]
    return {
        candidate.name: sum(
            (before - after) / len(step.calls) * float(sum(errors))
            for step, before, after, errors in zip(
                steps, begins, begins[1:], _errors(steps, candidate.schedule, scale), strict=False
            )
        )
        for candidate in among
    }


def _errors(steps: Sequence[Step], schedule: TextSchedule, scale: float) -> Iterator[list[float]]:
    """Of each step's calls, how far eps_hat as the policy has it is from what was recorded: rms, mean over images."""
    stochastic = is_stochastic(steps[0].solver, schedule, 0.0)
    follower = follower_of(schedule, len(steps[0].x_t), scale, stochastic=stochastic)
    for step in steps:
        errors = []
        for one in step.calls:
            seen = {b: one.out[b] for b, images in follower.wanted(one.call).items() if images}
            followed = guided_prediction(follower.complete(one.call, seen, one.x_in), scale)
            is_guided = len(seen) == len(one.out)
            errors.append(0.0 if is_guided else float(rms(followed.float() - one.guided.float()).mean()))
        yield errors
