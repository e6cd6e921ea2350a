"""Some of the rows of a denoiser's batch: cut out of everything that one call is given, and put back among all."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from typing import Any, cast

import torch

from shapefirst.errors import UnsupportedPipelineError
from shapefirst.families.arguments import LISTED, SECOND
from shapefirst.families.family import Family

__all__ = ["Taking", "each_tensor", "rows_of", "spread_rows"]


@dataclass(frozen=True)
class Taking:
    """Some of the rows of a batch of `of`, cut out of a tensor where each may have several entries: a video's frames.

    A single entry is for all rows alike and stays as it is. With `exactly`, so does what has not one entry a row: what
    users hand to the attention processors may be anything. Neighbouring rows are not copied.
    """

    rows: Sequence[int]
    of: int
    name: str = "tensor"
    exactly: bool = False
    family: Family = Family()  # noqa: RUF009

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


def rows_of(name: str, value: Any, taking: Taking, *, known: bool = False) -> Any:
    """Some rows of one of the denoiser's arguments, with all in it; `known` to have rows if it is in such a one.

    Raises:
        UnsupportedPipelineError: It has tensors of which cannot be told what belongs to which row of the batch.
    """
    has_rows = taking.family.has_rows(name)
    if has_rows is False:
        return value
    if name.endswith("attention_kwargs"):
        taking, has_rows = replace(taking, exactly=True), True
    if not (has_rows or known):
        return each_tensor(value, partial(_check_single, name))
    if isinstance(value, dict):
        return {key: rows_of(key, part, taking, known=True) for key, part in value.items()}
    if isinstance(value, list) and name in LISTED:
        return [value[row] for row in taking.rows]
    taking = replace(taking, name=name)
    if name in SECOND:
        return each_tensor(value, lambda x: taking(x.transpose(0, 1)).transpose(0, 1))
    return each_tensor(value, taking)


def _check_single(name: str, x: torch.Tensor) -> torch.Tensor:
    if x.ndim and len(x) > 1:
        raise UnsupportedPipelineError(
            f"The denoiser is given {len(x)} entries of {name}, of which is not known whether they are the rows of its "
            "batch: take a policy that keeps neither branch, such as budget=0.6."
        )
    return x


def each_tensor(tree: Any, change: Callable[[torch.Tensor], torch.Tensor], *, stacked: int = 0) -> Any:
    """`tree` with every tensor in it changed: in tuples, lists, dicts and dataclasses, the output classes among them.

    With `stacked`, a list of so many equal tensors is changed as the one that it makes.
    """
    if isinstance(tree, torch.Tensor):
        return change(tree)
    if isinstance(tree, dict):
        changed = {name: each_tensor(value, change, stacked=stacked) for name, value in tree.items()}
        if is_dataclass(tree):  # a class of outputs: diffusers' or transformers'
            return type(tree)(**changed)
        whole = copy.copy(tree)
        whole.update(changed)
        return whole
    if is_dataclass(tree) and not isinstance(tree, type):
        made = copy.copy(cast(Any, tree))
        for one in fields(tree):
            object.__setattr__(made, one.name, each_tensor(getattr(tree, one.name), change, stacked=stacked))
        return made
    if isinstance(tree, list) and len(tree) == stacked and _are_tensors(tree):
        return list(change(torch.stack(tree)))
    if isinstance(tree, (tuple, list)):
        values = [each_tensor(value, change, stacked=stacked) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree


def _are_tensors(values: Sequence[Any]) -> bool:
    return all(isinstance(value, torch.Tensor) for value in values)


def spread_rows(x: torch.Tensor, rows: Sequence[int], of: int) -> torch.Tensor:
    """`x`, that has these rows of a batch of `of`, with zeros for the others; each row may have several entries."""
    whole = x.new_zeros(of, len(x) // len(rows), *x.shape[1:])
    whole[list(rows)] = x.unflatten(0, (len(rows), -1))
    return whole.flatten(0, 1)
