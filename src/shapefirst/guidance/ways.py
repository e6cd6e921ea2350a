"""What the ways to meet a pipeline have in common: a call of its denoiser that it asks for, and who answers it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from shapefirst.guidance.follow import Call
from shapefirst.guidance.rows import Taking, rows_of

__all__ = ["Asked", "Course", "Evaluate"]

#: A call's arguments, by name, and its rows -> the denoiser's output.
Evaluate: TypeAlias = Callable[[dict[str, Any], int], Any]


@dataclass(frozen=True)
class Asked:
    """A call that a pipeline asks for.

    Attributes:
        arguments: The module's, by name.
        latents: The name of the latents among them.
        batch: The denoiser's latents, (rows, ...), or a list of one a row.
        scale: The guidance scale, as far as it is known.
        place: How many calls came before it at the same timestep.
        context: What the pipeline calls it ("cond", "uncond"), if anything.
    """

    arguments: dict[str, Any]
    latents: str
    batch: Any
    scale: float | None = None
    place: int = 0
    context: str | None = None

    @property
    def rows(self) -> int:
        sized = self.batch.ndim if isinstance(self.batch, torch.Tensor) else hasattr(self.batch, "__len__")
        return len(self.batch) if sized else 1

    def some(self, taking: Taking) -> dict[str, Any]:
        """The arguments for some of the rows only."""
        if len(taking.rows) == taking.of:
            return self.arguments
        return {
            name: rows_of(name, value, taking, known=name == self.latents) for name, value in self.arguments.items()
        }


class Course(Protocol):
    """Answers the calls of one generation under one policy."""

    def rows(self, call: Call, asked: Asked, asking: object) -> Sequence[int]:
        """The rows of its batch that the denoiser is about to run, for what feeds it."""
        ...

    def answer(self, call: Call, asked: Asked, evaluate: Evaluate) -> Any:
        """The denoiser's output for all rows."""
        ...
