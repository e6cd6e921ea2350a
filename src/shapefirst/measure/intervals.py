"""Estimates with their uncertainty, and verdicts by rules that were fixed before the run.

The 95% intervals are percentile bootstrap intervals over prompts (Efron & Tibshirani 1993): prompts are drawn with
replacement, each with everything that was measured on it. For n prompts they are too narrow, the more so the fewer
(Hesterberg 2015, arXiv 1411.5279, section 3): their ends are moved away from the estimate by

    t(n - 1) / z sqrt(n / (n - 1))            t, z: the quantiles of Student's and of the normal distribution

which makes them the t interval where the measured values are normal. A mean of very many values has the normal
interval, to which the bootstrap's comes down. What the quantity cannot be is cut off: a correlation's interval ends at
1 (`Range`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from shapefirst.errors import ShapefirstError, imported, said
from shapefirst.measure.rgb import numbers_of
from shapefirst.signatures import From, guarded

__all__ = [
    "ANY",
    "FEWEST",
    "LEAST",
    "POSITIVE",
    "SHARE",
    "SIGNED",
    "Interval",
    "Range",
    "Rule",
    "Verdict",
    "bootstrap",
    "hardest",
    "jackknife",
    "measured",
    "of_prompts",
    "ratio_of_means",
    "settled",
]

RESAMPLES: Final = 2000
LARGEST: Final = 10**7  # number of a prompt
MANY: Final = 4096  # values whose mean needs no resampling
LEVEL: Final = 0.95
#: Prompts below which there is no verdict: what so few give is an accident, whatever their interval.
FEWEST: Final = 8
#: The smallest effect that a study's claim speaks of: a twentieth of what goes from 0 to 1, of a ratio of 1, or of a
#: prompt's alignment above chance.
LEAST: Final = 0.05

Level: TypeAlias = Annotated[float, From(0.001, 0.999999)]
Verdict: TypeAlias = Literal["replicates", "does not replicate", "inconclusive", "does not apply"]


class Range(NamedTuple):
    """What a quantity can be, from ``low`` to ``high``: where its interval ends."""

    low: float
    high: float

    @property
    def difference(self) -> Range:
        """Of two such quantities."""
        return Range(self.low - self.high, self.high - self.low)


SHARE: Final = Range(0.0, 1.0)  # and L1, IoU, F1, a probability
SIGNED: Final = Range(-1.0, 1.0)  # a correlation, a cosine, SSIM, the difference of two shares
POSITIVE: Final = Range(0.0, math.inf)  # a distance, a ratio of such
ANY: Final = Range(-math.inf, math.inf)


@dataclass(frozen=True)
class Interval:
    """An estimate from n prompts with its 95% interval from ``low`` to ``high``.

    ``f"{found:.2f}"`` is "0.72 (0.61 to 0.83)".
    """

    estimate: float
    low: float
    high: float
    n: int

    def inside(self, within: Range) -> Interval:
        """The interval without what the quantity cannot be; it holds its estimate, whatever was rounded."""
        low, high = max(self.low, within.low), min(self.high, within.high)
        return Interval(self.estimate, float(min(low, self.estimate)), float(max(high, self.estimate)), self.n)

    def __format__(self, form: str) -> str:
        return f"{self.estimate:{form}} ({self.low:{form}} to {self.high:{form}})"


@guarded
@dataclass(frozen=True)
class Rule:
    """When a claim replicates: the whole 95% interval lies on the claim's side of ``threshold``.

    If it lies on the other side the claim does not replicate. Neither does it if the interval covers the threshold and
    ends short of ``least`` beyond it: whatever effect there is, it is too small to speak of (an equivalence test,
    Lakens 2017, doi 10.1177/1948550617697177). Otherwise, or with fewer than `FEWEST` prompts, the run is inconclusive.
    A study states its rules as constants, so that they stand before any result.

    Attributes:
        side: Of the threshold, where the claim is true.
        threshold: In the quantity's unit.
        least: The smallest effect that deserves the name, in the same unit; 0 for none that is too small.
    """

    side: Literal["above", "below"]
    threshold: float
    least: Annotated[float, From(0)] = 0.0

    @property
    def other_side(self) -> Literal["above", "below"]:
        """Where it is not."""
        return "below" if self.side == "above" else "above"

    @property
    def edge(self) -> float:
        """Where effects that deserve the name begin."""
        return self.threshold + (self.least if self.side == "above" else -self.least)

    def excluded(self, found: Interval) -> float | None:
        """What the interval speaks against: the threshold or, where it covers that, the edge; None if neither."""
        if found.low > self.threshold or found.high < self.threshold:
            return self.threshold
        short = found.high < self.edge if self.side == "above" else found.low > self.edge
        return self.edge if short else None

    def verdict(self, found: Interval) -> Verdict:
        if self.why_not(found):
            return "inconclusive"
        beyond = found.low > self.threshold if self.side == "above" else found.high < self.threshold
        return "replicates" if beyond else "does not replicate"

    def why_not(self, found: Interval) -> str:
        """Why there is no verdict, in a sentence; "" where there is one."""
        if found.n < FEWEST:
            return f"n = {found.n}, and a verdict takes {FEWEST} or more."
        if self.excluded(found) is None:
            covers = f"The interval covers the threshold, {self.threshold:.3g}"
            if (n := self.enough(found)) is None:
                return f"{covers}, which the estimate is too near for any number of prompts to tell."
            return f"{covers}: about n = {n:,} would tell, were the estimate to stay."
        return ""

    def enough(self, found: Interval) -> int | None:
        """About how many prompts would decide, with two digits: an interval shrinks with the root of their number.

        None where no number would, as the estimate stands on what is to be excluded.
        """
        aims = [self.threshold]
        if self.least and (found.estimate < self.edge if self.side == "above" else found.estimate > self.edge):
            aims.append(self.edge)
        ends = [found.high if aim > found.estimate else found.low for aim in aims]
        away = [abs(found.estimate - aim) for aim in aims]
        roots = [abs(end - found.estimate) / gap for end, gap in zip(ends, away, strict=True) if gap > 0]
        nearest = min(roots, default=math.inf)
        fewest = found.n * nearest * nearest
        if not fewest < LARGEST:
            return None
        unit = 10 ** max(0, math.floor(math.log10(fewest)) - 1)
        return math.ceil(fewest / unit) * unit

    def __str__(self) -> str:
        small = f", and does not if it ends {self.other_side} {self.edge:.3g}" if self.least else ""
        return f"replicates if the 95% interval lies {self.side} {self.threshold:.3g}{small}"


def settled(values: np.ndarray, level: float) -> np.ndarray:
    """(B,): the first of T steps of (B, T) from which on ``values`` stay at or above ``level``; T if they never do."""
    below = ~(values >= level)
    steps = values.shape[1]
    return np.where(below.any(1), steps - np.argmax(below[:, ::-1], axis=1), 0)


@guarded
def measured(values: Any) -> np.ndarray:
    """The rows of (n, ...) values that have no nan, as float64."""
    x = np.atleast_1d(numbers_of(values, "What was measured", np.float64))
    return x[~np.isnan(x).reshape(len(x), -1).any(axis=1)] if x.size else x


@guarded
def bootstrap(
    values: Any,
    statistic: Callable[[np.ndarray], float] | None = None,
    level: Level = LEVEL,
    *,
    within: Range = ANY,
) -> Interval:
    """The statistic of ``values`` with its bootstrap interval; see the module.

    Args:
        values: (n, ...), one row for each prompt. Rows with a nan, which is a score that could not be read, do not
            count: they are missing from the interval's n.
        statistic: Of an array like ``values``, rows drawn with replacement; by default the mean of (n,) values.
        level: How often the interval shall hold the truth.
        within: What the statistic can be.

    Raises:
        ShapefirstError: There are fewer than two rows, or the estimate is not a finite number.
    """
    x = measured(values)
    n = len(x)
    if n < 2:
        raise ShapefirstError(f"An interval needs at least 2 measurements, and there is only {n}: give more prompts.")
    if statistic is None and n > MANY:
        reach = NormalDist().inv_cdf((1 + level) / 2) * x.std(ddof=1) / math.sqrt(n)
        return Interval(float(x.mean()), float(x.mean() - reach), float(x.mean() + reach), n).inside(within)
    index = np.random.default_rng(0).integers(n, size=(RESAMPLES, n))
    if statistic is None:
        estimate, draws = float(x.mean()), x[index].mean(axis=1)
    else:
        estimate, draws = float(statistic(x)), np.array([statistic(x[rows]) for rows in index])
    if not np.isfinite(estimate):
        raise ShapefirstError(f"The measured values give no finite estimate but {estimate}.")
    tail = (1 - level) / 2
    low, high = estimate + widening(n, level) * (np.nanquantile(draws, [tail, 1 - tail]) - estimate)
    return Interval(estimate, float(low), float(high), n).inside(within)


@guarded
def of_prompts(values: Any, prompts: Any) -> np.ndarray:
    """The mean of each prompt's images, for an interval over prompts: images of one prompt are no measurements apart.

    Args:
        values: (n,), one for each image; those that are not finite do not count.
        prompts: (n,), the number of each image's prompt, from 0.

    Returns:
        (m,), in the order of the prompts, of those that have a value.
    """
    x, which = numbers_of(values, "What was measured", np.float64), numbers_of(prompts, "A list of prompts", np.int64)
    if x.ndim != 1 or which.shape != x.shape or (which < 0).any() or (which > LARGEST).any():
        raise ShapefirstError(f"Each of {x.shape} measurements is of one prompt, numbered from 0; not {said(prompts)}.")
    known = np.isfinite(x)
    counts = np.bincount(which[known])
    return np.bincount(which[known], weights=x[known])[counts > 0] / counts[counts > 0]


@guarded
def jackknife(
    estimate: float, without: Sequence[float], n: int, level: Level = LEVEL, *, within: Range = ANY
) -> Interval:
    """An estimate of n measurements with its interval from what it is without each of g groups of them, of about equal
    size: the delete-a-group jackknife (Efron & Tibshirani 1993, section 11.5), for what takes too long to bootstrap.

        estimate +- t(g - 1) sqrt((g - 1) / g sum_i (without_i - mean of without)^2)

    The ends are nan for fewer than two groups.
    """
    g = len(without)
    if g < 2:
        return Interval(estimate, math.nan, math.nan, n)
    reach = student(g, level) * math.sqrt((g - 1) * np.var(without))
    return Interval(estimate, estimate - reach, estimate + reach, n).inside(within)


def widening(n: int, level: float) -> float:
    """By how much an interval of n measurements has to be wider than its percentiles."""
    return student(n, level) / NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(n / (n - 1))


@cache
def student(n: int, level: float) -> float:
    """Within how many standard errors Student's t of n measurements lies at this level. Needs scipy."""
    return float(imported("scipy.special", "Intervals are computed").stdtrit(n - 1, (1 + level) / 2))


@guarded
def hardest(
    parts: Sequence[Any],
    rule: Rule,
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    within: Range = ANY,
) -> Interval:
    """Of several conditions that all have to satisfy the rule, the one that is furthest from it, with an interval
    to decide by: it replicates if each condition's 95% interval is on the claim's side (an intersection-union test),
    and does not if some condition's is on the other, at a level that allows for their number (Bonferroni).

    Bootstrapping the smallest of several means itself would find it smaller in each draw than it is.

    Args:
        parts: Of each condition, values as `bootstrap` takes them.
        rule: Which end matters.
        statistic: As for `bootstrap`.
        within: As for `bootstrap`.
    """
    if not parts:
        raise ShapefirstError("There is no condition to be the hardest of: give at least one.")
    found = [bootstrap(part, statistic, within=within) for part in parts]
    strict = [bootstrap(part, statistic, within=within, level=1 - (1 - LEVEL) / len(parts)) for part in parts]
    pick = min if rule.side == "above" else max
    near, far = (found, strict) if rule.side == "above" else (strict, found)
    return Interval(
        pick(f.estimate for f in found),
        pick(f.low for f in near),
        pick(f.high for f in far),
        min(f.n for f in found),
    )


def ratio_of_means(x: np.ndarray) -> float:
    """(n, 2) -> mean of the first column over the mean of the second, a statistic for :func:`bootstrap`."""
    below = x[:, 1].mean()
    return float(x[:, 0].mean() / below) if below else float("nan")
