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
4. The choice, by time or by L1, is measured on prompts that it was not chosen by: whole calls, in turn with the stock
   pipeline's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from shapefirst.families.layout import own_size
from shapefirst.guidance.blocks import guide
from shapefirst.guidance.follow import guided_prediction, rms
from shapefirst.guidance.stochastic import is_stochastic
from shapefirst.images.jobs import Job, Result, Sampling, generate
from shapefirst.measure import l1
from shapefirst.measure.intervals import Interval, bootstrap
from shapefirst.models.faults import faults_of
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import Step, decode, denoise, encode, generators
from shapefirst.sampling.step import follower_of
from shapefirst.tuning.candidates import Candidate, Costs

__all__ = ["BatchRecord", "Tuner", "held_out"]

PROBE_STEPS: Final = 10
PROBE_ROUNDS: Final = 3
SEED: Final = 1_000_000  # of the first image
HELD_OUT_SEED: Final = 2_000_000
HELD_OUT_BATCHES: Final = 4


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
    """

    def __init__(self, pipe: Any, sampling: Sampling, prompts: Sequence[str], batch_size: int = 8) -> None:
        self.pipe, self.sampling, self.batch_size = pipe, sampling, batch_size
        self.prompts = list(prompts)
        self._recordings: dict[int, BatchRecord] = {}
        self._forks: dict[int, dict[int, Step]] = {}

    @property
    def batches(self) -> int:
        return -(-len(self.prompts) // self.batch_size)

    @property
    def solver_order(self) -> int:
        """Calls of the denoiser in a step."""
        return int(getattr(self.pipe.scheduler, "order", 1))

    def record(self, batch: int, among: Sequence[Candidate], tick: Callable[[], None]) -> BatchRecord:
        """Sample a batch of the prompts fully guided. `tick` is called after every step."""
        replayed = self._replayed(among)
        leave = {min(set(range(c.steps)) - c.schedule.guided_steps(c.steps), default=0) for c in among}
        steps: list[Step] = []
        for step in self._denoise(batch, TextSchedule.always(), self.sampling.steps):
            steps.append(step)
            tick()
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
        return [c for c in among if c.steps == self.sampling.steps and c.schedule.order is not None]

    def restore(self, batch: int, recording: BatchRecord) -> BatchRecord:
        """Take a batch's recording from an earlier run; what would go on from its trajectories runs from the noise."""
        self._recordings[batch] = recording
        return recording

    def scores(self) -> dict[str, float]:
        """Of each candidate of N steps, by name: the mean over the recorded batches."""
        found = list(self._recordings.values())
        return {name: statistics.fmean(one.scores[name] for one in found) for name in found[0].scores}

    def run(self, candidate: Candidate, tick: Callable[[], None]) -> list[float]:
        """L1 of every image under a candidate; `tick` is called after every batch."""
        distances: list[float] = []
        guided = candidate.schedule.guided_steps(candidate.steps)
        leaves = min(set(range(candidate.steps)) - guided, default=0)
        for batch in range(self.batches):
            start = self._forks.get(batch, {}).get(leaves) if candidate.steps == self.sampling.steps else None
            (last,) = list(self._denoise(batch, candidate.schedule, candidate.steps, start))[-1:]
            images = decode(self.pipe, last.x_next)
            references = self._recordings[batch].references
            distances += [l1(np.asarray(a), b) for a, b in zip(images, references, strict=True)]
            tick()
        return distances

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


def held_out(
    pipe: Any, candidate: Candidate, sampling: Sampling, prompts: Sequence[str], report: Callable[[float], None]
) -> tuple[Interval, Interval]:
    """L1, and the share of the time saved, on prompts that had no say: whole calls, in turn with full guidance.

    Time is compared batch by batch, and its interval is over the batches. `report` is called with the share done.

    Args:
        pipe: The pipeline.
        candidate: The choice.
        sampling: As in the calibration.
        prompts: At least `HELD_OUT_BATCHES` of them.
        report: Takes the share that is done.
    """
    size = -(-len(prompts) // HELD_OUT_BATCHES)
    jobs = [Job(prompt, HELD_OUT_SEED + i) for i, prompt in enumerate(prompts)]
    fully = Candidate(sampling.steps, TextSchedule.always(), "")
    batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
    for one in (fully, candidate):  # neither pays for what only the first call does
        generate(pipe, batches[0], {"": one.schedule}, replace(sampling, steps=one.steps), batch_size=size)
    distances: list[float] = []
    saved: list[float] = []
    for n, batch in enumerate(batches):
        results: dict[str, list[Result]] = {}
        for one in (fully, candidate) if n % 2 else (candidate, fully):
            made = generate(pipe, batch, {"": one.schedule}, replace(sampling, steps=one.steps), batch_size=size)[""]
            results["full" if one is fully else "mine"] = made
        pairs = list(zip(results["mine"], results["full"], strict=True))
        distances += [l1(mine.image, full.image) for mine, full in pairs]
        saved.append(1 - sum(mine.seconds for mine, _ in pairs) / sum(full.seconds for _, full in pairs))
        report((n + 1) / len(batches))
    return bootstrap(distances), bootstrap(saved)


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
