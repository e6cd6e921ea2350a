"""Rows and cells: tidy tables as columns, intervals as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shapefirst.measure.intervals import ANY, Interval, Range, bootstrap, measured

__all__ = ["cell", "crossed", "shown", "stacked"]


def crossed(*axes: Mapping[str, Sequence[Any]], **values: Any) -> dict[str, list[Any]]:
    """A tidy table, column -> values: a row for each combination of places on the axes, the last axis running fastest.

    Args:
        axes: Columns of one length each, which say what stands at the places of an axis.
        values: Columns of what was measured: arrays of the axes' shape, or such as broadcast to it.
    """
    shape = [len(next(iter(axis.values()))) for axis in axes]
    places = np.indices(shape).reshape(len(axes), -1)
    axes_at = zip(axes, places, strict=True)
    told = {name: [column[i] for i in at] for axis, at in axes_at for name, column in axis.items()}
    return told | {name: np.broadcast_to(v, shape).flatten().tolist() for name, v in values.items()}


def stacked(tables: Sequence[Mapping[str, list[Any]]]) -> dict[str, list[Any]]:
    """Tables of the same columns, one below the other."""
    return {name: [value for table in tables for value in table[name]] for name in tables[0]}


def cell(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    within: Range = ANY,
    digits: int = 2,
) -> str:
    """The statistic with its interval as text; "too few" where one value could be measured, "–" where none."""
    known = len(measured(values))
    return shown(bootstrap(values, statistic, within=within), digits) if known > 1 else "too few" if known else "–"


def shown(found: Interval, digits: int = 2) -> str:
    """ "0.72 (0.61 to 0.83)"."""
    return f"{found:.{digits}f}"
