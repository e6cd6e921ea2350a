"""Whether a generation is still the one that its latest predictions were made in.

Predictions change smoothly along a trajectory, and can be extrapolated, while what they are made of stays: the prompt's
embeddings and whatever else the denoiser is given, the size of the latents, and the guidance scale. A callback may
change each half-way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from shapefirst.families.arguments import LATENTS, ROWED, SHARED

__all__ = ["Conditions", "are_same"]

#: Arguments that change with every call by nature: the time, the latents of sound beside those of a video, what another
#: network makes of the latents (a ControlNet, an adapter); how much of that is taken, which has a schedule of its own;
#: and what the denoiser itself remembers.
_CHANGING = re.compile("timestep|sigma|residual|control|conditioning|cache|audio_hidden_states|^[tr]$")


class Conditions:
    """What the latest call was made under.

    Tensors are compared by what they hold only where they are other objects, so that a pipeline that hands on the same
    ones, as all of Stable Diffusion's do, never waits for the device. What is another one in each of the first calls
    moves by nature, whatever it is called, and is no change from then on; nor is it before, if nothing is known of an
    argument of that name.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._given: dict[str, tuple[list[Any], list[int]]] = {}
        self._moving: set[str] | None = None  # what has moved in every call so far
        self._size: list[torch.Size] = []
        self._scale: float | None = None
        self._scale_moves = False

    def change(self, arguments: Mapping[str, Any], latents: str, scale: float | None) -> bool:
        """Take in a call's conditions; whether they are others than the call's before. Nothing changes at the first.

        A guidance scale that moves in every call is a schedule of its own, as smooth as the predictions, and no change.

        Args:
            arguments: The denoiser's.
            latents: The name of the latents among them.
            scale: The guidance scale, as far as it is known.
        """
        names = [name for name in arguments if name != latents or name not in LATENTS]  # whatever comes first may be it
        names = [name for name in names if not _CHANGING.search(name)]
        leaves = {name: _leaves_of(arguments[name]) for name in names}
        given = {name: (found, [_version(leaf) for leaf in found]) for name, found in leaves.items()}
        size = [leaf.shape for leaf in _leaves_of(arguments[latents])]
        moves = self._calls > 0 and scale != self._scale
        moved = {name for name in given if self._calls and _moved(given[name], self._given.get(name))}
        unknown = {name for name in given if name not in ROWED and name not in SHARED}
        before = self._moving or set()
        by_nature = before if self._calls > 2 else (moved if self._calls == 1 else before) & unknown
        changed = self._calls > 0 and (
            size != self._size
            or given.keys() != self._given.keys()
            or (moves and not (self._scale_moves or self._calls == 1))  # a schedule moves from the start on
            or bool(moved - by_nature)
            or (self._calls == 2 and bool(by_nature - moved))  # it was a change, and not the first of many
        )
        if self._calls:
            self._moving = moved if self._moving is None else self._moving & moved
        self._given, self._size, self._scale, self._scale_moves = given, size, scale, moves
        self._calls += 1
        return changed


def _moved(now: tuple[list[Any], list[int]], before: tuple[list[Any], list[int]] | None) -> bool:
    if before is None:
        return True
    return len(now[0]) != len(before[0]) or not all(map(_are_unchanged, *now, *before))


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
