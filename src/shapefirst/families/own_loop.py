"""A denoiser in a loop of the user's own, without a pipeline: what stands in the pipeline's place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shapefirst.families.family import Family

__all__ = ["OwnLoop", "name_of"]


@dataclass(frozen=True)
class OwnLoop:
    """See the module. Two are equal if they say the same of the same denoiser.

    Attributes:
        denoiser: The denoiser.
        scheduler: The scheduler whose list the loop is over.
        branches: Those of a call's rows, in their order, if a call holds several.
        calls: Those of the calls of each step, in their order, if each has one of its own.
        rowed: Arguments with rows of their own for each image and branch, beyond `families.arguments`.
        timestep: The argument that is the timestep, if it has none of the usual names.
        guidance_scale: w, if it is known.
    """

    denoiser: Any
    scheduler: Any
    branches: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    rowed: frozenset[str] = frozenset()
    timestep: str | None = None
    guidance_scale: float | None = None

    @property
    def family(self) -> Family:
        """What it says, as pipelines say it."""
        branches = self.branches or self.calls
        more = {"branches": branches, "without_text": tuple(b for b in branches if b != "text")} if branches else {}
        return Family(
            way="one batch" if self.branches else "two calls" if self.calls else "whole calls",
            denoisers=("denoiser",),
            rowed=self.rowed | {self.timestep or "timestep"},
            timestep=self.timestep,
            **more,
        )


def name_of(pipe: Any) -> str:
    """A pipeline in a sentence."""
    return "Your loop" if isinstance(pipe, OwnLoop) else type(pipe).__name__
