"""Some of the rows of a denoiser's batch: cut out of everything that one call is given, and put back among all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.utils import BaseOutput

from shapefirst.errors import UnsupportedPipelineError

__all__ = ["Taking", "each_tensor", "rows_of", "spread_rows"]

#: Arguments that are the same for all rows, however many entries they have.
_SHARED = frozenset({"image_rotary_emb", "img_ids", "ip_adapter_masks", "rotary_embedding", "txt_ids"})


def rows_of(name: str, value: Any, taking: Taking) -> Any:
    """Some rows of one of the denoiser's arguments, with all that is in it.

    Raises:
        UnsupportedPipelineError: It has tensors of which cannot be told what belongs to which row of the batch.
    """
    if name in _SHARED:
        return value
    if name.endswith("attention_kwargs"):
        taking = replace(taking, exactly=True)
    if isinstance(value, dict):
        return {key: rows_of(key, part, taking) for key, part in value.items()}
    return each_tensor(value, replace(taking, name=name))


@dataclass(frozen=True)
class Taking:
    """Some of the rows of a batch of `of`, where each may have several entries: a video's frames have one each.

    A single entry is for all rows alike and stays as it is. With `exactly`, so does what has not one entry a row: what
    users hand to the attention processors may be anything. Neighbouring rows are not copied.
    """

    rows: Sequence[int]
    of: int
    name: str = "tensor"
    exactly: bool = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 0 or len(x) == 1 or (self.exactly and len(x) != self.of):
            return x
        each, rest = divmod(len(x), self.of)
        if rest or not each:
            raise UnsupportedPipelineError(
                f"The denoiser is given {self.of} rows of latents but {len(x)} of {self.name}, so it cannot be told "
                "which of them belong to the branch to drop: give as many of them as there are images."
            )
        first, last = self.rows[0], self.rows[-1]
        if last - first + 1 == len(self.rows):
            return x[first * each : (last + 1) * each]
        return x.unflatten(0, (self.of, each))[list(self.rows)].flatten(0, 1)


@torch.compiler.disable
def each_tensor(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """`tree` with every tensor in it changed: in tuples, lists, dicts and diffusers' output classes."""
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, dict):
        changed = {name: each_tensor(value, change) for name, value in tree.items()}
        return type(tree)(**changed) if isinstance(tree, BaseOutput) else changed
    if isinstance(tree, (tuple, list)):
        return type(tree)(each_tensor(value, change) for value in tree)
    return tree


def spread_rows(x: torch.Tensor, rows: Sequence[int], of: int) -> torch.Tensor:
    """`x`, that has these rows of a batch of `of`, with zeros for the others; each row may have several entries."""
    whole = x.new_zeros(of, len(x) // len(rows), *x.shape[1:])
    whole[list(rows)] = x.unflatten(0, (len(rows), -1))
    return whole.flatten(0, 1)
