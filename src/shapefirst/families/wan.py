"""Wan: the text's call and the null one, and since 2.2 a transformer for noisy steps and another one for the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shapefirst.families.family import Family

__all__ = ["Wan"]


class Wan(Family):
    """See the module."""

    name = "Wan"
    way = "two calls"
    branches = ("text", "null")

    def turn(self, names: Mapping[str, Any], pipe: Any, denoiser: Any, timesteps: Sequence[float]) -> range:
        boundary = names.get("boundary_timestep")
        if boundary is None:
            return range(len(timesteps))
        noisy = sum(t >= boundary for t in timesteps)
        return range(noisy) if denoiser is pipe.transformer else range(noisy, len(timesteps))
