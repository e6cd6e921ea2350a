"""Finding a policy for a model and a sampler: a short calibration, a search, and a check on prompts that had no say.

1. Every calibration prompt is sampled once, fully guided, at N steps; the predictions of both branches are kept for a
   moment. A policy's extrapolations can be replayed from them without running it: exactly until its first step that is
   not guided, and as an estimate after it,

       score = mean over images of sum_i |u_i - u_(i+1)| rms(extrapolated eps_hat_i - eps_hat_i),

   the error that its steps bring into the latents (`shapefirst.guidance.extrapolation` has u).
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
import torch

from shapefirst.guidance.blocks import guide
from shapefirst.guidance.extrapolation import noise_level, weights
from shapefirst.images.jobs import Job, Result, Sampling, generate, own_size
from shapefirst.measure import l1
from shapefirst.measure.intervals import Interval, bootstrap
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import Step, decode, denoise, encode, generators
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

    def record(self, batch: int, among: Sequence[Candidate], tick: Callable[[], None]) -> BatchRecord:
        """Sample a batch of the prompts fully guided. `tick` is called after every step."""
        replayed = [c for c in among if c.steps == self.sampling.steps and c.schedule.order is not None]
        leave = {min(set(range(c.steps)) - c.schedule.guided_steps(c.steps), default=0) for c in among}
        steps: list[Step] = []
        for step in self._denoise(batch, TextSchedule.always(), self.sampling.steps):
            steps.append(step)
            tick()
        self._forks[batch] = {step.index: step for step in steps if step.index in leave}
        images = np.stack([np.asarray(image) for image in decode(self.pipe, steps[-1].x_next)])
        return self.restore(batch, BatchRecord(images, _replay(steps, replayed, self.sampling.guidance_scale)))

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
        n = PROBE_STEPS
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
        guided = (median["guided"] - median["short"]) / (n - n // 2)
        rest = max(median["guided"] - n * guided, 0.0)
        one, none = (max(0.0, (median[name] - rest - 2 * guided) / (n - 2)) for name in ("one", "none"))
        return Costs(guided, one, none, rest)

    def _call(self, policy: TextSchedule, steps: int) -> None:
        prompts = (self.prompts * self.batch_size)[: self.batch_size]
        with guide(self.pipe, policy):
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
    solver = steps[0].solver
    u = [noise_level(solver, step.t) for step in steps] + [0.0]
    null = torch.stack([step.eps_null for step in steps if step.eps_null is not None]).float()
    text = torch.stack([step.eps_text for step in steps if step.eps_text is not None]).float()
    both = torch.stack([null, text - null])
    scores = {}
    for candidate in among:
        guided = sorted(candidate.schedule.guided_steps(candidate.steps))
        order, total = candidate.schedule.order or 0, 0.0
        for i in sorted(set(range(len(steps))) - set(guided)):
            places = {u[step]: step for step in guided if step < i}  # steps of equal timesteps are one place
            known = list(places.values())[-order - 1 :]
            shares = torch.tensor(weights(tuple(u[j] for j in known), u[i]), device=both.device)
            wrong_null, wrong_d = torch.einsum("j,pj...->p...", shares, both[:, known]) - both[:, i]
            wrong = {
                "neither": wrong_null + scale * wrong_d,
                "null": scale * wrong_d,
                "text": (scale - 1) * wrong_d,
            }[candidate.schedule.keep]
            total += abs(u[i] - u[i + 1]) * float(wrong.flatten(1).square().mean(1).sqrt().mean())
        scores[candidate.name] = total
    return scores
