"""Estimates with their uncertainty, and verdicts by rules that were fixed before the run.

The 95% intervals are percentile bootstrap intervals over prompts (Efron & Tibshirani 1993): prompts are drawn with
replacement, each with everything that was measured on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from shapefirst.errors import ShapefirstError

__all__ = ["Interval", "Rule", "Verdict", "bootstrap", "ratio_of_means", "settled"]

RESAMPLES: Final = 2000
LEVEL: Final = 0.95

Verdict: TypeAlias = Literal["replicates", "does not replicate", "inconclusive", "does not apply"]


@dataclass(frozen=True)
class Interval:
    """An estimate from n prompts with its 95% interval from ``low`` to ``high``."""

    estimate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Rule:
    """When a claim replicates: the whole 95% interval lies on the claim's side of ``threshold``.

    If it lies on the other side the claim does not replicate; if it covers the threshold the run is inconclusive. A
    study states its rules as constants, so that they stand before any result.
    """

    side: Literal["above", "below"]
    threshold: float

    def verdict(self, found: Interval) -> Verdict:
        above, below = found.low > self.threshold, found.high < self.threshold
        if above or below:
            return "replicates" if above == (self.side == "above") else "does not replicate"
        return "inconclusive"

    def __str__(self) -> str:
        return f"replicates if the 95% interval lies {self.side} {self.threshold:g}"


def settled(values: np.ndarray, level: float) -> np.ndarray:
    """(B,): the first of T steps of (B, T) from which on ``values`` stay at or above ``level``; T if they never do."""
    below = ~(values >= level)
    steps = values.shape[1]
    return np.where(below.any(1), steps - np.argmax(below[:, ::-1], axis=1), 0)


def bootstrap(values: ArrayLike, statistic: Callable[[np.ndarray], float] | None = None, seed: int = 0) -> Interval:
    """The statistic of ``values`` with its 95% percentile bootstrap interval.

    Args:
        values: (n, ...), one row for each prompt. Rows with a nan, which is a score that could not be read, do not
            count: they are missing from the interval's n.
        statistic: Of an array like ``values``, rows drawn with replacement; by default the mean of (n,) values.
        seed: Of the draws.

    Raises:
        ShapefirstError: There are fewer than two rows, or the estimate is not a finite number.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x).reshape(len(x), -1).any(axis=1)] if x.size else x
    n = len(x)
    if n < 2:
        raise ShapefirstError(f"An interval needs at least 2 measurements, and there is only {n}: give more prompts.")
    index = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    if statistic is None:
        estimate, draws = float(x.mean()), x[index].mean(axis=1)
    else:
        estimate, draws = float(statistic(x)), np.array([statistic(x[rows]) for rows in index])
    if not np.isfinite(estimate):
        raise ShapefirstError(f"The measured values give no finite estimate but {estimate}.")
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), n)


def ratio_of_means(x: np.ndarray) -> float:
    """(n, 2) -> mean of the first column over the mean of the second, a statistic for :func:`bootstrap`."""
    below = x[:, 1].mean()
    return float(x[:, 0].mean() / below) if below else float("nan")
