"""Pipelines of several runs, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shapefirst.families.family import Family

__all__ = ["UnCLIP", "Wuerstchen"]


class UnCLIP(Family):
    """A prior and a decoder, which are guided, and a network for larger pictures, which is not."""

    def guides(self, pipe: Any, denoiser: Any) -> bool | None:
        return None if denoiser in (pipe.prior, pipe.decoder) else False


class Wuerstchen(Family):
    """Its loop leaves out the last timestep of the list, and its batch has the text first."""

    branches = ("text", "null")

    def turn(self, names: Mapping[str, Any], pipe: Any, denoiser: Any, timesteps: Sequence[float]) -> range:
        return range(len(timesteps) - 1)
