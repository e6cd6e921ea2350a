"""Parts of crosses of parameters, where the whole would mostly repeat itself."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

__all__ = ["all_pairs"]


def all_pairs(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Few rows of the product of the axes, in which any two values of different axes meet: what fails in the product
    alone is what only three values do together."""
    values = [list(axis) for axis in axes]
    whole = {row: set(combinations(enumerate(row), 2)) for row in product(*(range(len(axis)) for axis in values))}
    missing, chosen = set().union(*whole.values()), []
    while missing:
        chosen.append(max(whole, key=lambda row: len(whole[row] & missing)))
        missing -= whole[chosen[-1]]
    return [tuple(axis[i] for axis, i in zip(values, row, strict=True)) for row in sorted(chosen)]
