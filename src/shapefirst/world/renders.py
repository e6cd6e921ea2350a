"""The rendered training set on disk: images, captions, and what is where.

folder/images.npy      uint8 (n, 64, 64, 3)
folder/scenes.json     captions (n,) and, per image, the (attribute, noun) phrases in reading order
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from shapefirst.world.scenes import SIZE, Scene, render, sample_scene
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS

_SHARD = 1000


@dataclass(frozen=True)
class Renders:
    """n images with their captions and labels.

    ``labels`` (n, 4) int64: noun and attribute of the first object in reading order, then of the second; the second's
    are ``len(NOUNS)`` and ``len(ATTRIBUTES)`` where there is none.
    """

    images: NDArray[np.uint8]
    captions: list[str]
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, index: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """Images ``index`` as float (b, 3, 64, 64) in [-1, 1]."""
        return torch.from_numpy(self.images[index.numpy()]).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def labels_of(scene: Scene) -> list[int]:
    """[noun, attribute, second noun, second attribute] as class indices, see ``Renders.labels``."""
    objects = scene.in_reading_order()
    out = [NOUNS.index(objects[0].noun), ATTRIBUTES.index(objects[0].attribute)]
    if len(objects) == 1:
        return [*out, len(NOUNS), len(ATTRIBUTES)]
    return [*out, NOUNS.index(objects[1].noun), ATTRIBUTES.index(objects[1].attribute)]


def _shard(arguments: tuple[int, int, int, float]) -> tuple[NDArray[np.uint8], list[str], list[list[int]]]:
    seed, shard, count, pairs = arguments
    rng = np.random.default_rng([seed, shard])
    scenes = [sample_scene(rng, pair_probability=pairs) for _ in range(count)]
    return np.stack([render(s)[0] for s in scenes]), [s.caption for s in scenes], [labels_of(s) for s in scenes]


def make(count: int, seed: int, workers: int | None = None, pairs: float = 0.5) -> Renders:
    """Render ``count`` training images (none of a held-out combination); the same seed gives the same set.

    ``workers`` are processes, by default one a core; ``pairs`` is the share of scenes with two objects.
    """
    shards = [(seed, i, min(_SHARD, count - i * _SHARD), pairs) for i in range(-(-count // _SHARD))]
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    captions: list[str] = []
    labels: list[list[int]] = []
    alone = workers == 1 or len(shards) == 1
    # Torch may hold threads already: forked children could inherit a locked one.
    with nullcontext() if alone else ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = pool.map(_shard, shards) if pool else map(_shard, shards)
        for part in track(parts, "render", total=len(shards)):
            images[len(captions) : len(captions) + len(part[1])] = part[0]
            captions += part[1]
            labels += part[2]
    return Renders(images, captions, torch.tensor(labels))


def store(renders: Renders, folder: Path) -> None:
    """Write ``renders`` to ``folder``; the marker file comes last, so that an interrupted write does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", renders.images)
    part = folder / "scenes.part"
    part.write_text(json.dumps({"captions": renders.captions, "labels": renders.labels.tolist()}))
    part.replace(folder / "scenes.json")


def read(folder: Path) -> Renders:
    """The renders that ``store`` wrote."""
    scenes = json.loads((folder / "scenes.json").read_text())
    return Renders(np.load(folder / "images.npy"), scenes["captions"], torch.tensor(scenes["labels"]))
