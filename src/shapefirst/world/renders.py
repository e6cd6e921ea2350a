"""The rendered training set on disk: images, captions, and what is where.

folder/images.npy      uint8 (n, 64, 64, 3)
folder/where.npy       uint8 (n, 16, 16): which object covers a cell
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
#: A picture is divided into this many by this many cells to say where its objects are: one a place of its latents.
CELLS = 16


@dataclass(frozen=True)
class Renders:
    """n images with their captions and labels.

    ``labels`` (n, 4) int64: noun and attribute of the first object in reading order, then of the second; the second's
    are ``len(NOUNS)`` and ``len(ATTRIBUTES)`` where there is none. ``where`` (n, CELLS, CELLS) uint8: 1 where the first
    covers more than half of a cell, 2 where the second does, 0 elsewhere.
    """

    images: NDArray[np.uint8]
    captions: list[str]
    labels: torch.Tensor
    where: torch.Tensor

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


def where_of(scene: Scene, masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Which object covers each cell, see ``Renders.where``; ``masks`` are those of ``render``, 255 within an object."""
    order = [scene.objects.index(o) for o in scene.in_reading_order()]
    covered = masks[order].reshape(len(order), CELLS, SIZE // CELLS, CELLS, SIZE // CELLS).mean((2, 4)) / 255
    return np.where(covered.max(0) > 0.5, covered.argmax(0) + 1, 0).astype(np.uint8)


#: Of one process: images, captions, labels, where.
_Part = tuple[NDArray[np.uint8], list[str], list[list[int]], NDArray[np.uint8]]


def _shard(arguments: tuple[int, int, int, float]) -> _Part:
    seed, shard, count, pairs = arguments
    rng = np.random.default_rng([seed, shard])
    scenes = [sample_scene(rng, pair_probability=pairs) for _ in range(count)]
    images, masks = zip(*map(render, scenes), strict=True)
    where = [where_of(*both) for both in zip(scenes, masks, strict=True)]
    return np.stack(images), [s.caption for s in scenes], [labels_of(s) for s in scenes], np.stack(where)


def make(count: int, seed: int, workers: int | None = None, pairs: float = 0.5) -> Renders:
    """Render ``count`` training images (none of a held-out combination); the same seed gives the same set.

    ``workers`` are processes, by default one a core; ``pairs`` is the share of scenes with two objects.
    """
    shards = [(seed, i, min(_SHARD, count - i * _SHARD), pairs) for i in range(-(-count // _SHARD))]
    images = np.empty((count, SIZE, SIZE, 3), np.uint8)
    captions: list[str] = []
    labels: list[list[int]] = []
    where: list[NDArray[np.uint8]] = []
    alone = workers == 1 or len(shards) == 1
    # Torch may hold threads already: forked children could inherit a locked one.
    with nullcontext() if alone else ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        parts = pool.map(_shard, shards) if pool else map(_shard, shards)
        for part in track(parts, "render", total=len(shards)):
            images[len(captions) : len(captions) + len(part[1])] = part[0]
            captions += part[1]
            labels += part[2]
            where.append(part[3])
    return Renders(images, captions, torch.tensor(labels), torch.from_numpy(np.concatenate(where)))


def store(renders: Renders, folder: Path) -> None:
    """Write ``renders`` to ``folder``; the marker file comes last, so that an interrupted write does not count."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", renders.images)
    np.save(folder / "where.npy", renders.where.numpy())
    part = folder / "scenes.part"
    part.write_text(json.dumps({"captions": renders.captions, "labels": renders.labels.tolist()}))
    part.replace(folder / "scenes.json")


def read(folder: Path) -> Renders:
    """The renders that ``store`` wrote."""
    scenes = json.loads((folder / "scenes.json").read_text())
    images, where = (np.load(folder / f"{name}.npy") for name in ("images", "where"))
    return Renders(images, scenes["captions"], torch.tensor(scenes["labels"]), torch.from_numpy(where))
