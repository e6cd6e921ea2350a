"""Tiny pipelines of diffusers with random weights, one builder a row of the matrix of ``tests/test_pipelines.py``.

Nothing is downloaded and no prompt is encoded where a call takes embeddings: a generation takes milliseconds. A row is
a function in one of this folder's files, registered under the class's name (and what is special about it):

    @tiny("PixArtAlphaPipeline")
    def pixart() -> Tiny: ...

What each row says of branches and calls is read from the pipeline's own code, never from shapefirst's.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, wraps
from importlib import import_module
from typing import Any, Literal, TypeVar

import numpy as np
import torch

__all__ = ["PIPELINES", "STEPS", "Tiny", "normal", "shared", "tiny"]

Part = TypeVar("Part")

STEPS = 6


@dataclass(frozen=True)
class Tiny:
    """A tiny pipeline, how it is called, and how its class lays out its guidance.

    Attributes:
        pipe: The pipeline; its progress bar is off, and its networks are in eval mode.
        conditions: Numbers of images -> what the call is given of them: prompts or their embeddings, pictures, masks.
            What an image is given depends on its number alone, and images differ by far more than rounding.
        options: What else the call is given; what is None is not. Guidance is on, with a scale around 4, unless the row
            is one without.
        way: "one batch": all branches in one call; "two calls": one call a branch; "whole calls": neither is so, or
            there is only one branch.
        branches: In the order of the batch's rows or of the calls.
        denoisers: The names of the pipeline's parts that are called in every step, in the order of their turns.
        beside: The names of those that run in every step only to feed them (a ControlNet).
        calls: Calls of denoisers in a step of full guidance.
        runs: Loops, of `STEPS` steps each, that a generation has one after another.
        schedulers: The names of the denoisers' schedulers, where they are not `scheduler`.
        copies: Whether the loop samples with copies of its scheduler, which nobody else sees.
        varies: Whether some steps have more calls than that, or less.
        images: Those that a call is given: one alone where the class fails with more.
        refused: Where the class cannot be steered at all, a part of the sentence that says why.
    """

    pipe: Any
    conditions: Callable[[Sequence[int]], dict[str, Any]]
    options: Mapping[str, Any] = field(default_factory=dict)
    way: Literal["one batch", "two calls", "whole calls"] = "one batch"
    branches: tuple[str, ...] = ("null", "text")
    denoisers: tuple[str, ...] = ("transformer",)
    beside: tuple[str, ...] = ()
    calls: int = 1
    runs: int = 1
    schedulers: Mapping[str, str] = field(default_factory=dict)
    copies: bool = False
    varies: bool = False
    images: tuple[int, ...] = (0, 1)
    refused: str | None = None

    def __call__(self, numbers: Sequence[int] = (0, 1), **more: Any) -> list[torch.Tensor]:
        """All that a generation makes of these images, (images, ...) each: pictures, frames, sound."""
        generators = [torch.Generator().manual_seed(100 + number) for number in numbers]
        given = {"num_inference_steps": STEPS, "output_type": "latent", **self.options, **self.conditions(numbers)}
        given = {"generator": generators, **given, **more}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # some draw from torch's own too; torch.manual_seed looks for cards
            takes = inspect.signature(type(self.pipe).__call__).parameters
            out = self.pipe(**{key: value for key, value in given.items() if value is not None or key in takes})
        values = out.values() if isinstance(out, Mapping) else (out,)
        return [_tensor(value) for value in values if value is not None and not isinstance(value, (bool, list))]


def _tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(value)) if not isinstance(value, torch.Tensor) else value


def normal(number: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    """Normal numbers, (1, *shape), that a number alone tells: embeddings or pictures of an image."""
    return scale * torch.randn(1, *shape, generator=torch.Generator().manual_seed(number))


def shared(build: Callable[..., Part]) -> Callable[..., Part]:
    """A part of several rows: built once for each choice of arguments, from one seed whichever row comes first."""

    @cache
    @wraps(build)
    def built(*args: Any, **options: Any) -> Part:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = build(*args, **options)
            return made.eval() if isinstance(made, torch.nn.Module) else made

    return built


#: What a row is called (its class, and what is special about it) -> its builder.
PIPELINES: dict[str, Callable[[], Tiny]] = {}


def tiny(name: str) -> Callable[[Callable[[], Tiny]], Callable[[], Tiny]]:
    """Register a row; its first word is the class's name. Weights are drawn from one seed."""

    def register(build: Callable[[], Tiny]) -> Callable[[], Tiny]:
        def seeded() -> Tiny:
            torch.manual_seed(0)
            made = build()
            assert type(made.pipe).__name__ == name.split()[0]
            made.pipe.set_progress_bar_config(disable=True)
            for part in made.pipe.components.values():
                if isinstance(part, torch.nn.Module):
                    part.eval().requires_grad_(requires_grad=False)
            return made

        PIPELINES[name] = seeded
        return seeded

    return register


for _file in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")
