"""One shard: the images of all its policies, which share what they have in common, their metrics, one table.

A row is one image under one policy. Its metrics compare it with the fully guided image of the same seed, and with its
prompt. Its features are kept rather than their sums: a shard has fewer images than the features have numbers, so they
take less room than the sums of products would, and the sums over any part of the sweep are had from them exactly.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shapefirst.files import png_of
from shapefirst.measure.distances import distances_of
from shapefirst.measure.scores import alignments_for, features_for, similarity_for
from shapefirst.models import is_pocket, load, with_sampler
from shapefirst.models.machine import hardware
from shapefirst.sampling.loop import decode, encode, generators
from shapefirst.sampling.together import Ended, denoise_together
from shapefirst.sweep.cost import SAMPLES
from shapefirst.sweep.grid import FULL, Shard
from shapefirst.sweep.rows import picture_name, table_of

if TYPE_CHECKING:
    import pyarrow
    from PIL import Image

    from shapefirst.measure.alignment import Alignment
    from shapefirst.measure.distances import Similarity

__all__ = ["Scorers", "Work", "Worker", "frechet_features", "worker_for"]

ROWS: Final = 64  # in one call of pocket's denoiser
ROWS_ELSEWHERE: Final = 8


@dataclass(frozen=True)
class Scorers:
    """Which models score images; each an id or folder, or None for the usual one or none (see `studies.scores`)."""

    clip: str | None = None
    vqa: str | None = None
    vlm: str | None = None
    inception: str | None = None  # file of its weights; then the Frechet distance is the FID
    judge: bool = True  # pocket's, which knows pocket's words only


@dataclass(frozen=True)
class Work:
    """What a shard's run leaves.

    Attributes:
        table: See `rows`; seconds in its metadata.
        images: File name -> PNG.
        evaluations: Of the denoiser, over all images.
    """

    table: pyarrow.Table
    images: Mapping[str, bytes]
    evaluations: int


@dataclass
class Worker:
    """Runs shards; keeps the models that it has loaded.

    Attributes:
        device: Of all models; None for the best there is.
        scores: What scores the images.
        keep_images: "none", "sample" or "all".
        batch_size: Rows in one call of the denoiser; None for what suits the model.
        dtype: The number format of the models that make images; None for what suits the device.
        on_load: Called with each pipeline once it is loaded.
    """

    device: str | None = None
    scores: Scorers = Scorers()
    keep_images: str = "none"
    batch_size: int | None = None
    dtype: str | None = None
    on_load: Callable[[Any], None] = field(default=lambda pipe: None, repr=False)
    _models: dict[str, Scored] = field(default_factory=dict, repr=False)

    def run(self, shard: Shard, on_evaluations: Callable[[int], None] = lambda count: None) -> Work:
        """Samples and scores a shard; ``on_evaluations`` is told as the denoiser goes, in evaluations of images.

        Raises:
            ShapefirstError: A model that is not to be had, or predictions that overflow.
        """
        setting, n = shard.setting, len(shard.prompts)
        model = self.model(setting.model)
        clock = _Clock()
        counted = 0

        def count(evaluations: float) -> None:
            nonlocal counted
            counted += round(evaluations * n)
            on_evaluations(round(evaluations * n))

        pipe = with_sampler(model.pipe, setting.sampler)
        prompts = encode(pipe, [prompt.text for prompt in shard.prompts])
        clock.lap("encoding")
        ended = denoise_together(
            pipe,
            prompts,
            list(shard.policies.values()),
            num_inference_steps=setting.steps,
            guidance_scale=setting.guidance_scale,
            generator=generators(shard.seeds),
            batch_size=self.rows(setting.model),
            on_step=count,
        )
        clock.lap("denoising")
        each = max(1, self.rows(setting.model) // 2)
        images = {
            words: [image for part in end.latents.split(each) for image in decode(pipe, part)]
            for words, end in zip(shard.policies, ended, strict=True)
        }
        clock.lap("decoding")
        columns: dict[str, list[Any]] = {}
        for end, (words, mine) in zip(ended, images.items(), strict=True):
            for name, values in self._columns(shard, words, end, mine, images[FULL], model).items():
                columns.setdefault(name, []).extend(values)
        clock.lap("scoring")
        about = {
            "evaluations": counted,
            "seconds": clock.laps,
            "features": model.features_title,
            "machine": hardware(self.device),
        }
        files = self._files(shard, ended, images)
        return Work(table_of(columns, about), files, counted)

    def model(self, name: str) -> Scored:
        """A model with what scores its images, loaded once."""
        if name not in self._models:
            self._models.clear()  # one at a time: two large ones may not fit
            self._models[name] = Scored.loaded(name, self.device, self.dtype, self.scores)
            self.on_load(self._models[name].pipe)
        return self._models[name]

    def rows(self, name: str) -> int:
        """Rows in one call of the model's denoiser."""
        return self.batch_size or (ROWS if is_pocket(name) else ROWS_ELSEWHERE)

    def _columns(
        self,
        shard: Shard,
        words: str,
        end: Ended,
        images: Sequence[Image.Image],
        full: Sequence[Image.Image],
        model: Scored,
    ) -> dict[str, list[Any]]:
        setting, n = shard.setting, len(images)
        distances = distances_of(images, full, model.similarity)
        same = {
            **asdict(setting),
            "policy": words,
            "keep": shard.policies[words].keep,
        }
        scored = {name: list(map(float, a.score(images, shard.prompts))) for name, a in model.alignments.items()}
        rows = [distances.row(i) for i in range(n)]
        return {
            **{name: [value] * n for name, value in same.items()},
            "prompt": [prompt.text for prompt in shard.prompts],
            "image": list(range(shard.first, shard.first + n)),
            "seed": shard.seeds,
            "text_steps": list(end.guided_steps),
            "evaluations": list(end.evaluations),
            **{name: [row[name] for row in rows] for name in rows[0]},
            **scored,
            "sha256": [hashlib.sha256(image.tobytes()).hexdigest() for image in images],
            "features": list(np.asarray(model.features(images), dtype=np.float32)),
        }

    def _files(
        self, shard: Shard, ended: Sequence[Ended], images: Mapping[str, Sequence[Image.Image]]
    ) -> dict[str, bytes]:
        if self.keep_images == "none":
            return {}
        found, setting = {}, shard.setting
        for end, (words, those) in zip(ended, images.items(), strict=True):
            same = {"Software": "shapefirst sweep", **asdict(setting), "policy": words}
            for i, image in enumerate(those[: SAMPLES if self.keep_images == "sample" else None]):
                own = {"prompt": shard.prompts[i].text, "seed": shard.seeds[i]}
                own["denoiser_evaluations"] = end.evaluations[i]
                found[picture_name(shard.first + i, words)] = png_of(image, {**same, **own})
        return found


@dataclass(frozen=True)
class Scored:
    """A pipeline with what scores its images."""

    name: str
    pipe: Any
    similarity: Similarity
    features: Callable[[Sequence[Image.Image]], np.ndarray]
    features_title: str
    alignments: Mapping[str, Alignment]

    @classmethod
    def loaded(cls, name: str, device: str | None, dtype: str | None, scores: Scorers) -> Scored:
        pipe = load(name, device=device, dtype=dtype)
        pipe.set_progress_bar_config(disable=True)
        title, features = frechet_features(name, scores, device)
        alignments = alignments_for(
            name, clip=scores.clip, vqa=scores.vqa, vlm=scores.vlm, device=device, judge=scores.judge
        )
        return cls(name, pipe, similarity_for(name, scores.clip, device), features, title, alignments)


def frechet_features(
    model: str, scores: Scorers, device: str | None
) -> tuple[str, Callable[[Sequence[Image.Image]], np.ndarray]]:
    """What the Frechet distance is taken of: (its name for tables, images -> (n, d) float32 features).

    Raises:
        ModelError: What makes them is not to be had.
    """
    if scores.inception is None:
        return features_for(model, scores.clip, device)
    from shapefirst.measure.inception import load_inception

    inception = load_inception(scores.inception, device=device)
    return inception.title, inception.features


class _Clock:
    """Seconds of parts that follow each other; waits for the device."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.laps[name], self._since = now - self._since, now


@lru_cache(maxsize=1)
def worker_for(
    device: str | None, scores: Scorers, keep_images: str, batch_size: int | None, dtype: str | None = None
) -> Worker:
    """The worker of this process."""
    return Worker(device, scores, keep_images, batch_size, dtype)
