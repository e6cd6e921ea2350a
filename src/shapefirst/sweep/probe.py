"""Seconds of one evaluation and of one image, from a short trial: what a plan's time is projected from."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Final

from shapefirst.measure.distances import distances_of
from shapefirst.models import with_sampler
from shapefirst.policies.schedule import TextSchedule
from shapefirst.sampling.loop import decode, encode, generators
from shapefirst.sampling.together import denoise_together
from shapefirst.sweep.cost import Pace
from shapefirst.sweep.grid import Setting, Shards
from shapefirst.sweep.work import Worker

__all__ = ["probe"]

IMAGES: Final = 8
STEPS: Final = 3
ROUNDS: Final = 4  # the first of which warms up


def probe(worker: Worker, shards: Shards, setting: Setting) -> Pace:
    """The pace of a setting, on the sweep's first prompts: seconds on pocket, more on larger models.

    Raises:
        ShapefirstError: A model that is not to be had.
    """
    model = worker.model(setting.model)
    pipe = with_sampler(model.pipe, setting.sampler)
    texts = [shards.prompts[i % len(shards.prompts)] for i in range(min(IMAGES, shards.grid.shard_size))]
    n = len(texts)
    schedules = [TextSchedule.until(k) for k in range(STEPS + 1)]
    evaluations = n * replace(setting, steps=STEPS).evaluations_together(schedules)
    of_evaluation, of_image = [], []
    for _ in range(ROUNDS):
        prompts = encode(pipe, [prompt.text for prompt in texts])
        start = time.perf_counter()
        ended = denoise_together(
            pipe,
            prompts,
            schedules,
            num_inference_steps=STEPS,
            guidance_scale=setting.guidance_scale,
            generator=generators(range(n)),
            batch_size=worker.rows(setting.model),
        )
        ended[0].latents.sum().item()  # waits for the device
        middle = time.perf_counter()
        full, fewer = decode(pipe, ended[-1].latents), decode(pipe, ended[0].latents)
        distances_of(fewer, full, model.similarity)
        for alignment in model.alignments.values():
            alignment.score(full, texts)
            alignment.score(fewer, texts)
        model.features(full)
        model.features(fewer)
        of_evaluation.append((middle - start) / evaluations)
        of_image.append((time.perf_counter() - middle) / (2 * n))
    return Pace(statistics.median(of_evaluation[1:]), statistics.median(of_image[1:]))
