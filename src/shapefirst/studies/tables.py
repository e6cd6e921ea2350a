"""Rows and cells: tidy tables as columns, intervals as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shapefirst.errors import ShapefirstError
from shapefirst.studies.statistics import Interval

__all__ = ["columns", "shown"]


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


def shown(found: Interval, digits: int = 2) -> str:
    """ "0.72 (0.61 to 0.83)"."""
    return f"{found.estimate:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"
