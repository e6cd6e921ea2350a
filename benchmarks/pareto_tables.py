"""The tables of `pareto.py`: what was measured of each method, at equal evaluations and row by row."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pareto_methods import BEST_STEPS, Method

from shapefirst.measure.intervals import POSITIVE, SHARE, Interval, bootstrap, ratio_of_means

SAVINGS: Final = (0.25, 0.4, 0.5)  # of the evaluations, to compare at
SLACK: Final = 0.02  # what counts as getting there
LEAST_L1: Final = 1e-6  # for logarithms of what is the same


@dataclass(frozen=True)
class Row:
    """What was measured of a method; ``l1s`` of each image."""

    method: Method
    evaluations: float
    l1s: list[float]
    psnr: Interval
    clip: Interval
    right: Interval
    changed: Interval
    frechet: float  # distance to renders of the same scenes, over the reference's
    times_saved: list[float]  # in each round; none where it was not measured

    @property
    def mean(self) -> Interval:
        return bootstrap(self.l1s, within=SHARE)

    @property
    def time_saved(self) -> float | None:
        return statistics.median(self.times_saved) if self.times_saved else None

    def percentile(self, at: float) -> float:
        return float(np.quantile(self.l1s, at))


def at_equal_savings(rows: Sequence[Row], of: str, saved: Callable[[Row], float | None]) -> list[str]:
    """Mean and 95th percentile of L1 at some savings, along each method's line (linear in the log between its rows)."""
    most = max(len(row.l1s) for row in rows)
    families: dict[str, list[Row]] = {}
    for row in rows:
        if saved(row) is not None:
            families.setdefault(row.method.family, []).append(row)
    lines = [
        f"Mean L1 / its 95th percentile by {of} saved, along each method's rows (a dash: none saves it):",
        "",
        f"| method | {' | '.join(f'{s:.0%}' for s in SAVINGS)} |",
        f"|{'---|' * (len(SAVINGS) + 1)}",
    ]
    for family, members in families.items():
        final = [row for row in members if len(row.l1s) == most]
        members, few = final or members, "" if final else f" (n = {len(members[0].l1s)})"
        cells = []
        for saving in SAVINGS:
            values = [at(members, saved, saving, value) for value in (lambda row: row.mean.estimate, high)]
            cells.append("—" if values[0] is None else " / ".join(f"{value:.4f}" for value in values))
        lines.append(f"| {family}{few} | {' | '.join(cells)} |")
    return lines


def high(row: Row) -> float:
    return row.percentile(0.95)


def at(
    members: Sequence[Row], saved: Callable[[Row], float | None], saving: float, value: Callable[[Row], float]
) -> float | None:
    """A figure of a method where it saves so much: of its best rows, those that no other one beats in both."""
    points = sorted((saves, max(value(row), LEAST_L1)) for row in members if (saves := saved(row)) is not None)
    front = [(x, y) for x, y in points if not any(a >= x and b < y for a, b in points)]
    if not front or front[-1][0] < saving - SLACK:
        return None
    return math.exp(np.interp(saving, [x for x, _ in front], [math.log(y) for _, y in front]))


def beside_the_best_rival(rows: Sequence[Row], slack: float) -> list[str]:
    """Each row of ours beside the closest rival for no more evaluations, or up to ``slack`` of them more.

    All have the same prompts and noise, so they are compared picture by picture: the ratio's interval resamples pairs.
    """
    lines = [
        "Ours over the closest rival that takes no more evaluations, by mean L1, pictures of the same prompt paired:",
        "",
        "| ours | evaluations | the closest rival | its evaluations | ours / it | geometric means |",
        "|---|---|---|---|---|---|",
    ]
    for ours in (row for row in rows if row.method.is_ours):
        rivals = [r for r in rows if not r.method.is_ours and r.evaluations <= ours.evaluations + slack]
        if rivals:
            rival = min(rivals, key=lambda row: statistics.fmean(row.l1s))
            pairs = np.stack([ours.l1s, rival.l1s], 1)
            ratios = [bootstrap(pairs, of, within=POSITIVE) for of in (ratio_of_means, ratio_of_geometric_means)]
            names = (f"{row.method.family}, {row.method.setting} | {row.evaluations:.1f}" for row in (ours, rival))
            lines.append(f"| {' | '.join(names)} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return lines


def ratio_of_geometric_means(pairs: np.ndarray) -> float:
    """Of the first of each pair over the second: what the typical picture gains, whatever few do."""
    logs = np.log(np.maximum(pairs, LEAST_L1))
    return math.exp(float((logs[:, 0] - logs[:, 1]).mean()))


def about(evaluations: float, steps: int) -> bool:
    """Whether they are as many as so many steps with both branches, or hardly fewer."""
    return 2 * steps - 5 < evaluations <= 2 * steps


def at_equal_steps(rows: Sequence[Row]) -> list[str]:
    """At each number of evaluations: ours, and the best five of the others."""
    lines = ["| evaluations | method | mean L1 | 95th percentile | changed |", "|---|---|---|---|---|"]
    for steps in BEST_STEPS:
        those = [row for row in rows if about(row.evaluations, steps)]
        others = sorted((row for row in those if not row.method.is_ours), key=lambda row: row.mean.estimate)[:5]
        for row in [*(row for row in those if row.method.is_ours), *others]:
            lines.append(
                f"| {row.evaluations:g} | {row.method.family} | {row.mean:.5f} | {high(row):.4f} | {row.changed:.1%} |"
            )
    return lines


def table(rows: Sequence[Row], full: int | None) -> list[str]:
    names = (
        "method",
        "setting",
        "evaluations",
        "time saved",
        "mean L1",
        "median",
        "95th percentile",
        "PSNR, dB",
        "CLIP similarity",
    )
    lines = [f"| {' | '.join((*names, 'judge: all right', 'changed', 'Frechet'))} |", f"|{'---|' * (len(names) + 3)}"]
    for row in rows:
        saved = "" if full is None else f" (-{1 - row.evaluations / full:.0%})"
        cells = [row.method.family, row.method.setting, f"{row.evaluations:.1f}{saved}"]
        times = row.times_saved
        spread = f"{row.time_saved:.0%} ({min(times):.0%} to {max(times):.0%})" if times else ""
        cells += [spread, f"{row.mean:.5f}"]
        cells += [f"{row.percentile(0.5):.5f}", f"{high(row):.5f}", f"{row.psnr:.1f}", f"{row.clip:.4f}"]
        cells += [f"{row.right:.1%}", f"{row.changed:.1%}", f"{row.frechet:.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
