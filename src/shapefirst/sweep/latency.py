"""Seconds, measured as they should be: warm, in turns with the stock pipeline, waited for, several times.

Each round calls every policy once, some of them between two calls of the stock pipeline; a saving is that of one call
against the mean of the two stock calls around it, so that a machine which slows down does so for both. Beside it:
seconds of the parts (text encoder, denoiser, decoder) and the denoiser's FLOPs, counted by torch.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch

from shapefirst.denoising import decode, encode, generators
from shapefirst.errors import ShapefirstError
from shapefirst.guidance import guide
from shapefirst.layout import denoiser_of
from shapefirst.schedule import TextSchedule
from shapefirst.sweep.grid import Setting

__all__ = [
    "BATCHES",
    "Latency",
    "Parts",
    "Timing",
    "calls",
    "parts_of",
    "read_latencies",
    "seconds_of",
    "time_policies",
]

BATCHES: Final = (1, 2, 4, 8)
BETWEEN: Final = 3  # policies between two calls of the stock pipeline


@dataclass(frozen=True)
class Timing:
    """Whole calls under one policy.

    Attributes:
        batch: Images in a call.
        policy: In words.
        evaluations_saved: Share of the evaluations of full guidance.
        seconds: Of a call, in each round.
        stock: The mean of the stock calls around it, in each round.
    """

    batch: int
    policy: str
    evaluations_saved: float
    seconds: tuple[float, ...]
    stock: tuple[float, ...]

    @property
    def saved(self) -> tuple[float, float, float]:
        """Share of the stock pipeline's seconds that is saved: lower quartile, median, upper quartile of the rounds."""
        shares = [1 - mine / stock for mine, stock in zip(self.seconds, self.stock, strict=True)]
        if len(shares) < 2:
            return (shares[0],) * 3
        low, middle, high = statistics.quantiles(shares, n=4)
        return low, middle, high


@dataclass(frozen=True)
class Parts:
    """Seconds of a call's parts, medians, for one batch size.

    Attributes:
        batch: Images.
        encoder: Text encoder, both prompts.
        guided: Denoiser, one guided step: 2 x batch rows.
        single: Denoiser, one branch: batch rows.
        decoder: Latents to images.
        flops: Of the denoiser for one evaluation of one image.
    """

    batch: int
    encoder: float
    guided: float
    single: float
    decoder: float
    flops: float


@dataclass(frozen=True)
class Latency:
    """All of one setting.

    Attributes:
        setting: How images were sampled.
        machine: In words.
        timings: Of whole calls.
        parts: Of their parts.
    """

    setting: Setting
    machine: str
    timings: tuple[Timing, ...]
    parts: tuple[Parts, ...]


def read_latencies(text: str) -> list[Latency]:
    """From the JSON of ``[asdict(latency), ...]``.

    Raises:
        ShapefirstError: It is none.
    """
    try:
        return [
            Latency(
                Setting(**one["setting"]),
                one["machine"],
                tuple(Timing(**{**t, **{k: tuple(t[k]) for k in ("seconds", "stock")}}) for t in one["timings"]),
                tuple(Parts(**p) for p in one["parts"]),
            )
            for one in json.loads(text)
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ShapefirstError(f"The stored latencies cannot be read ({error}): measure them again.") from error


def whole_call(
    pipe: Any, prompts: Sequence[str], *, steps: int, guidance_scale: float, batch: int
) -> Callable[[], object]:
    """A call of the pipeline for ``batch`` images, the prompts repeated as needed; the same images each time."""
    texts = [prompts[i % len(prompts)] for i in range(batch)]
    return lambda: pipe(
        texts,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        generator=generators(range(batch)),
        output_type="np",
    )


def time_policies(
    pipe: Any,
    sample: Callable[[], object],
    policies: Mapping[str, TextSchedule],
    *,
    steps: int,
    batch: int,
    rounds: int,
    on_call: Callable[[], None] = lambda: None,
) -> list[Timing]:
    """Whole calls under each policy, ``rounds`` times, in an order that changes.

    Args:
        pipe: A pipeline that `shapefirst.guide` supports.
        sample: Calls it (see `whole_call`).
        policies: Words -> schedule.
        steps: N of those calls.
        batch: Images in each.
        rounds: How often.
        on_call: Told after each call.
    """

    def call(schedule: TextSchedule | None) -> float:
        with guide(pipe, schedule) if schedule is not None else nullcontext():
            seconds = seconds_of(sample)
        on_call()
        return seconds

    call(None)  # warm-up, and compilation, of both batch sizes that the denoiser sees
    call(TextSchedule.until(steps // 2))
    seconds: dict[str, list[float]] = {words: [] for words in policies}
    around: dict[str, list[float]] = {words: [] for words in policies}
    for n in range(rounds):
        order = random.Random(n).sample(sorted(policies), len(policies))
        before = call(None)
        for start in range(0, len(order), BETWEEN):
            few = order[start : start + BETWEEN]
            taken = [call(policies[words]) for words in few]
            after = call(None)
            for words, mine in zip(few, taken, strict=True):
                seconds[words].append(mine)
                around[words].append((before + after) / 2)
            before = after
    return [
        Timing(batch, words, schedule.saved(steps), tuple(seconds[words]), tuple(around[words]))
        for words, schedule in policies.items()
    ]


def calls(policies: int, rounds: int) -> int:
    """How many calls `time_policies` makes."""
    return 2 + rounds * (policies + 1 + -(-policies // BETWEEN))


@torch.no_grad()
def parts_of(pipe: Any, prompts: Sequence[str], *, batch: int, rounds: int = 5) -> Parts:
    """The parts of a call, each timed alone after a warm-up."""
    from torch.utils.flop_counter import FlopCounterMode

    from shapefirst.acts import Act
    from shapefirst.denoising import begin, first_latents
    from shapefirst.solving import Run, advance

    texts = [prompts[i % len(prompts)] for i in range(batch)]
    embeddings = encode(pipe, texts)
    solver = begin(pipe, 4)
    run = Run(first_latents(pipe, solver, embeddings, generators(range(batch))), solver)
    denoiser = denoiser_of(pipe)

    def evaluate(act: Act) -> None:
        advance(pipe, denoiser, embeddings, [(run.fork(), act)], solver.timesteps[:1], 7.5, extra={})

    def median_of(do: Callable[[], object]) -> float:
        do()
        return statistics.median(seconds_of(do) for _ in range(rounds))

    both, one = Act(("null", "text")), Act(("null",))
    counter = FlopCounterMode(display=False)
    with counter:
        evaluate(one)
    return Parts(
        batch,
        encoder=median_of(lambda: encode(pipe, texts)),
        guided=median_of(lambda: evaluate(both)),
        single=median_of(lambda: evaluate(one)),
        decoder=median_of(lambda: decode(pipe, torch.zeros_like(run.x))),
        flops=counter.get_total_flops() / batch,
    )


def seconds_of(do: Callable[[], object]) -> float:
    """Seconds until it is done, on the device too: by CUDA's own events where there is CUDA."""
    if torch.cuda.is_available():
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        do()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000
    before = time.perf_counter()
    do()
    return time.perf_counter() - before
