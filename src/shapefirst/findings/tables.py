"""Rows and cells: tidy tables as columns, intervals as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shapefirst.errors import ShapefirstError
from shapefirst.measure.intervals import Interval, bootstrap, measured

__all__ = ["cell", "columns", "shown"]


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> values, from rows that all have the same keys.

    Raises:
        ShapefirstError: There is no row, or one has other keys than the first.
    """
    if not rows:
        raise ShapefirstError("The study measured nothing: its table has no rows.")
    names = list(rows[0])
    if any(list(row) != names for row in rows):
        raise ShapefirstError("The rows of a tidy table must have the same columns in the same order.")
    return {name: [row[name] for row in rows] for name in names}


def cell(values: np.ndarray, statistic: Callable[[np.ndarray], float] | None = None) -> str:
    """The statistic with its interval as text; "too few" where fewer than two of the values could be measured."""
    return shown(bootstrap(values, statistic)) if len(measured(values)) > 1 else "too few"


def shown(found: Interval, digits: int = 2) -> str:
    """ "0.72 (0.61 to 0.83)"."""
    return f"{found:.{digits}f}"
