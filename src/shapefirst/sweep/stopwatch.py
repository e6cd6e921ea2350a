"""Seconds, measured as they should be: warm, in turns with the stock pipeline, waited for, several times.

Each round calls every policy once, some of them between two calls of the stock pipeline; a saving is that of one call
against the mean of the two stock calls around it, so that a machine which slows down does so for both. Beside it:
seconds of the parts (text encoder, denoiser, decoder) and the denoiser's FLOPs, counted by torch.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch

from shapefirst.families.layout import denoiser_of, own_size
from shapefirst.guidance.blocks import guide
from shapefirst.models.faults import faults_of
from shapefirst.models.machine import hardware
from shapefirst.policies.auto import Policy
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import decode, encode, generators
from shapefirst.sweep.grid import Setting
from shapefirst.sweep.latency import Latency, Parts, Timing

__all__ = ["BATCHES", "calls", "parts_of", "seconds_of", "time_policies", "time_setting", "whole_call"]

BATCHES: Final = (1, 2, 4, 8)
BETWEEN: Final = 3  # policies between two calls of the stock pipeline


def time_setting(
    pipe: Any,
    setting: Setting,
    prompts: Sequence[str],
    policies: Mapping[str, Policy],
    batches: Sequence[int],
    rounds: int,
    on_images: Callable[[int], None],
) -> Latency:
    """All that is measured of a setting, on its ``pipe``: whole calls under each policy, and a call's parts.

    ``on_images`` is told after each whole call how many images it made.
    """
    timings = []
    for n in batches:
        sample = whole_call(pipe, prompts, steps=setting.steps, guidance_scale=setting.guidance_scale, batch=n)
        same = {"steps": setting.steps, "batch": n, "rounds": rounds}
        timings += time_policies(pipe, sample, policies, **same, on_call=partial(on_images, n))
    parts = [parts_of(pipe, prompts, batch=n) for n in batches]
    return Latency(setting, hardware(pipe.device), tuple(timings), tuple(parts))


def whole_call(
    pipe: Any, prompts: Sequence[str], *, steps: int, guidance_scale: float, batch: int
) -> Callable[[], object]:
    """A call of the pipeline for ``batch`` images, the prompts repeated as needed; the same images each time."""
    texts = [prompts[i % len(prompts)] for i in range(batch)]

    def call() -> object:
        with faults_of(pipe):
            return pipe(
                texts,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=generators(range(batch)),
                output_type="np",
                **own_size(pipe),
            )

    return call


def time_policies(
    pipe: Any,
    sample: Callable[[], object],
    policies: Mapping[str, Policy],
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
        policies: By their words.
        steps: N of those calls.
        batch: Images in each.
        rounds: How often.
        on_call: Told after each call.
    """

    saved: dict[Policy, float] = {}

    def call(policy: Policy | None) -> float:
        if policy is None:
            seconds = seconds_of(sample)
        else:
            with guide(pipe, policy) as spent:
                seconds = seconds_of(sample)
            saved[policy] = spent.saved
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
        Timing(batch, words, saved[policy], tuple(seconds[words]), tuple(around[words]))
        for words, policy in policies.items()
    ]


def calls(policies: int, rounds: int) -> int:
    """How many calls `time_policies` makes."""
    return 2 + rounds * (policies + 1 + -(-policies // BETWEEN))


@torch.no_grad()
def parts_of(pipe: Any, prompts: Sequence[str], *, batch: int, rounds: int = 5) -> Parts:
    """The parts of a call, each timed alone after a warm-up."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from shapefirst.guidance.timeline import calls_of
    from shapefirst.sampling.loop import begin, first_latents
    from shapefirst.sampling.step import Run, advance, follower_of, snapshot

    texts = [prompts[i % len(prompts)] for i in range(batch)]
    embeddings = encode(pipe, texts)
    solver = begin(pipe, 4, TextSchedule.always())
    x = first_latents(pipe, solver, embeddings, generators(range(batch)))
    denoiser, first = denoiser_of(pipe), (calls_of(solver, 7.5)[0], solver.timesteps[0])

    def evaluate(policy: TextSchedule) -> None:
        run = Run(x, snapshot(solver), [follower_of(policy, batch, 7.5)])
        advance(pipe, denoiser, embeddings, [run], [first], extra={})

    def median_of(do: Callable[[], object]) -> float:
        do()
        return statistics.median(seconds_of(do) for _ in range(rounds))

    both, one = TextSchedule.always(), TextSchedule.never()
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # torch counts matrix products everywhere, fused attention not on a CPU
        evaluate(one)
    return Parts(
        batch,
        encoder=median_of(lambda: encode(pipe, texts)),
        guided=median_of(lambda: evaluate(both)),
        single=median_of(lambda: evaluate(one)),
        decoder=median_of(lambda: decode(pipe, torch.zeros_like(x))),
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
