"""Whether a generation is still the one that its latest predictions were made in.

Predictions change smoothly along a trajectory, and can be extrapolated, while what they are made of stays: the prompt's
embeddings and whatever else the denoiser is given, the size of the latents, and the guidance scale. A callback may
change each half-way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["Conditions", "are_same"]

#: Arguments that change with every call by nature: the time, and what another network makes of the latents (a
#: ControlNet, an adapter); how much of that is taken, which has a schedule of its own; and what it remembers itself.
_CHANGING = ("timestep", "sigma", "residual", "control", "conditioning", "cache")


class Conditions:
    """What the latest call was made under.

    Tensors are compared by what they hold only where they are other objects, so that a pipeline that hands on the same
    ones, as all of Stable Diffusion's do, never waits for the device.
    """

    def __init__(self) -> None:
        self._leaves: list[Any] | None = None
        self._versions: list[int] = []
        self._size: list[torch.Size] = []
        self._scale: float | None = None
        self._scale_moves = False
        self._calls = 0

    def change(self, arguments: Mapping[str, Any], latents: str, scale: float | None) -> bool:
        """Take in a call's conditions; whether they are others than the call's before. Nothing changes at the first.

        A guidance scale that moves in every call is a schedule of its own, as smooth as the predictions, and no change.

        Args:
            arguments: The denoiser's.
            latents: The name of the latents among them.
            scale: The guidance scale, as far as it is known.
        """
        leaves = [
            leaf
            for name, value in arguments.items()
            if name != latents and not any(word in name for word in _CHANGING)
            for leaf in _leaves_of(value)
        ]
        versions = [_version(leaf) for leaf in leaves]
        size = [leaf.shape for leaf in _leaves_of(arguments[latents])]
        moves = self._leaves is not None and scale != self._scale
        self._scale_moves |= moves and self._calls == 1  # from the start on
        changed = self._leaves is not None and (
            size != self._size
            or (moves and not self._scale_moves)
            or len(leaves) != len(self._leaves)
            or not all(map(_are_unchanged, leaves, versions, self._leaves, self._versions))
        )
        self._leaves, self._versions, self._size, self._scale, self._scale_moves = leaves, versions, size, scale, moves
        self._calls += 1
        return changed


def _leaves_of(tree: Any) -> list[Any]:
    if isinstance(tree, Mapping):
        tree = tuple(tree.values())
    if isinstance(tree, (tuple, list)):
        return [leaf for value in tree for leaf in _leaves_of(value)]
    return [tree]


def _version(leaf: Any) -> int:
    """How often a tensor was written to, as far as it counts that."""
    return leaf._version if isinstance(leaf, torch.Tensor) and not leaf.is_inference() else 0


def are_same(tree: Any, other: Any) -> bool:
    """Whether two of a call's arguments are the same, or hold the same."""
    leaves, others = _leaves_of(tree), _leaves_of(other)
    return len(leaves) == len(others) and all(map(_hold_the_same, leaves, others))


def _are_unchanged(leaf: Any, version: int, old: Any, old_version: int) -> bool:
    return version == old_version if leaf is old else _hold_the_same(leaf, old)


def _hold_the_same(leaf: Any, other: Any) -> bool:
    if leaf is other:
        return True
    if isinstance(leaf, torch.Tensor) and isinstance(other, torch.Tensor):
        alike = (leaf.shape, leaf.dtype, leaf.device) == (other.shape, other.dtype, other.device)
        return alike and torch.equal(leaf, other)
    return type(leaf) is type(other) and bool(leaf == other)
