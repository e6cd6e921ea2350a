"""Pocket's world: pictures, their captions and their masks, rendered procedurally and reproducibly.

    scene = sample_scene(rng)           what is in the picture: plain data
    scene.caption                       "a red car on the left of a wooden house"
    image, masks = render(scene)        uint8 (64, 64, 3) and, per object, its silhouette (64, 64) in [0, 255]

One object fills most of the frame; two objects share it after a relation. Combinations in ``HELD_OUT`` never occur
unless asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from shapefirst.errors import ShapefirstError, said
from shapefirst.signatures import From, guarded
from shapefirst.world.paint import BACKGROUNDS, SUPERSAMPLE, background, sprite
from shapefirst.world.vocabulary import ATTRIBUTES, HELD_OUT, NOUNS, RELATIONS

SIZE = 64
_SINGLE_SIZES, _PAIR_SIZES = (46, 49, 52), (28, 29, 30)
_JITTER = {1: 3, 2: 1}  # pixels, by the number of objects


@dataclass(frozen=True)
class Object:
    """One object: what it is, and its centre and extent in pixels."""

    attribute: str
    noun: str
    x: float
    y: float
    size: int


@dataclass(frozen=True)
class Scene:
    """A picture as plain data. ``objects`` stand in the order of the caption; ``relation`` is None for a single one."""

    objects: tuple[Object, ...]
    relation: str | None
    background: str
    floor: bool

    @property
    def caption(self) -> str:
        phrases = [f"a {o.attribute} {o.noun}" for o in self.objects]
        return phrases[0] if self.relation is None else f"{phrases[0]} {self.relation} {phrases[1]}"

    def in_reading_order(self) -> tuple[Object, ...]:
        """The objects from left to right, or from top to bottom where they stand above each other."""
        return tuple(sorted(self.objects, key=lambda o: o.x + o.y))


def _draw_pair(rng: np.random.Generator, allowed: Callable[[str, str], bool]) -> tuple[str, str]:
    while True:
        attribute, noun = ATTRIBUTES[rng.integers(len(ATTRIBUTES))], NOUNS[rng.integers(len(NOUNS))]
        if allowed(attribute, noun):
            return attribute, noun


@guarded
def place(phrases: list[tuple[str, str]], relation: str | None, rng: np.random.Generator, size: int = SIZE) -> Scene:
    """A scene with these (attribute, noun) phrases; position, extent and background are drawn from ``rng``."""
    if len(phrases) not in _JITTER or relation not in (None, *RELATIONS):
        raise ShapefirstError(
            f"A scene has one or two objects and a relation of {list(RELATIONS)}, not {said(relation)}."
        )
    jitter = _JITTER[len(phrases)]
    sizes = _SINGLE_SIZES if len(phrases) == 1 else _PAIR_SIZES
    objects = []
    for i, (attribute, noun) in enumerate(phrases):
        column, row = RELATIONS[relation] if relation is not None else (None, None)
        if i == 1:
            column, row = (None if c is None else 1 - c for c in (column, row))
        centre = [size / 2 if c is None else size * (0.26 + 0.48 * c) for c in (column, row)]
        x, y = (c + float(rng.integers(-2 * jitter, 2 * jitter + 1)) / 2 for c in centre)
        objects.append(Object(attribute, noun, x, y, int(rng.choice(sizes))))
    names = tuple(BACKGROUNDS)
    return Scene(tuple(objects), relation, names[rng.integers(len(names))], bool(rng.integers(2)))


@guarded
def sample_scene(
    rng: np.random.Generator, pair_probability: float = 0.5, held_out: bool = False, pair: bool | None = None
) -> Scene:
    """A random scene.

    ``held_out=True`` draws the (first) object from the held-out combinations, otherwise none occurs. ``pair`` forces
    one or two objects. The two nouns of a pair differ.
    """
    if pair is None:
        pair = bool(rng.random() < pair_probability)
    first = _draw_pair(rng, lambda a, n: ((a, n) in HELD_OUT) == held_out)
    if not pair:
        return place([first], None, rng)
    second = _draw_pair(rng, lambda a, n: (a, n) not in HELD_OUT and n != first[1])
    relations = tuple(RELATIONS)
    return place([first, second], relations[rng.integers(len(relations))], rng)


@guarded
def render(scene: Scene, size: Annotated[int, From(1, 1024)] = SIZE) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image (size, size, 3) and masks (objects, size, size), uint8, antialiased."""
    side = size * SUPERSAMPLE
    canvas = np.repeat(np.repeat(background(scene.background, scene.floor, size), SUPERSAMPLE, 0), SUPERSAMPLE, 1)
    masks = np.zeros((len(scene.objects), side, side), np.float32)
    for mask, o in zip(masks, scene.objects, strict=True):
        rgba, shape = sprite(o.attribute, o.noun, o.size)
        s = rgba.shape[0]
        top, left = round(o.y * SUPERSAMPLE - s / 2), round(o.x * SUPERSAMPLE - s / 2)
        y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + s, side), min(left + s, side)
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        target = (slice(y0, y1), slice(x0, x1))
        paint = rgba[part].astype(np.float32) / 255
        canvas[target] += (paint[..., :3] - canvas[target]) * paint[..., 3:]
        mask[target] = shape[part]
    down = canvas.reshape(size, SUPERSAMPLE, size, SUPERSAMPLE, 3).mean((1, 3))
    masks = masks.reshape(-1, size, SUPERSAMPLE, size, SUPERSAMPLE).mean((2, 4))
    return (np.clip(down, 0, 1) * 255 + 0.5).astype(np.uint8), (masks + 0.5).astype(np.uint8)
