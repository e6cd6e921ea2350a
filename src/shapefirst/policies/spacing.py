"""Which steps of a run are guided, as many as there are to be: by their numbers, or by the noise at each."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

__all__ = ["by_error", "early", "evenly", "leaves_none_together", "spread"]

#: The longest gap, in steps; longer ones only where so few are guided that the average gap is half of it.
LONGEST_GAP: Final = 9
#: How many last steps `evenly` takes.
LAST_EVENLY: Final = 3
#: The least of K in `by_error`, and along a flow, whose late steps are long.
LEAST_BEND: Final = 9.0
LEAST_BEND_OF_FLOWS: Final = 15.0
MOST_BEND: Final = 1000.0


def early(num_steps: int, guided: int, first: float, last: int = 1) -> frozenset[int]:
    """`guided` of `num_steps` steps: the first ones, others after gaps that grow, and the last."""
    together = max(min(round(first * guided), guided - last), _alone(num_steps, guided, last))
    return spread(num_steps, guided, together, last, 1.2)


def evenly(num_steps: int, guided: int) -> frozenset[int]:
    """`guided` of `num_steps` steps: two first ones, others after even gaps, and the last three."""
    last = min(LAST_EVENLY, guided - 2)
    return spread(num_steps, guided, max(2, _alone(num_steps, guided, last)), last, 1.0)


def leaves_none_together(num_steps: int, guided: int) -> bool:
    """Whether `evenly` leaves no two steps in a row that are not guided."""
    return _alone(num_steps, guided, LAST_EVENLY) >= 2


def _alone(num_steps: int, guided: int, last: int) -> int:
    """How many steps come first where those that are not guided lie one by one, up to the last ones."""
    return 2 * guided - num_steps - (last - 1)


def spread(num_steps: int, guided: int, first: int, last: int, power: float) -> frozenset[int]:
    """`guided` of `num_steps` steps: the first and the last ones, and between them at x^power of the way."""
    found = set(range(min(first, num_steps))) | set(range(max(num_steps - last, 0), num_steps))
    free = sorted(set(range(num_steps)) - found)
    start, end, between = first - 1, num_steps - last, guided - len(found)
    for j in range(1, between + 1):
        place = start + (end - start) * (j / (between + 1)) ** power
        right = bisect_left(free, place)
        near = min(range(max(right - 1, 0), min(right + 1, len(free))), key=lambda i: (abs(free[i] - place), free[i]))
        found.add(free.pop(near))
    return frozenset(found)


def by_error(levels: Sequence[float], guided: int, *, flow: bool = False) -> frozenset[int]:
    """The `guided` of the steps without which the error is least, by a model of it.

    In s = sigma / (alpha + sigma), a step of first order that takes the line through the two guided ones before it, at
    a and at b > a, leaves in the last latents an error of about

        K (s - s_next) (a - s) (b - s) / 2          K = 1.5 / (1 - s)^3, at least `LEAST_BEND` and at most `MOST_BEND`

    with K as it was measured by leaving out single steps (pocket, and flows of it, whatever the shift): errors count
    alike in -log(1 - s), but where there is hardly any noise or hardly any signal. The sum of squares is least, by
    dynamic programming over the guided steps, where b - a is taken to be the length of the gap that follows. The first
    two and the last are always guided.

    Args:
        levels: u_t (see `families.noise`) at each of N steps, infinite where there is no signal; the run ends at 0.
        guided: How many, from 3 to N.
        flow: They are those of a flow, s itself; of others s = 1 - exp(-u).
    """
    count, s = len(levels), [u if flow else -math.expm1(-u) for u in (*levels, 0.0)]
    least_bend = LEAST_BEND_OF_FLOWS if flow else LEAST_BEND
    bends = [
        min(max(1.5 / max(1 - one, 1e-3) ** 3, least_bend), MOST_BEND) * (one - after) / 2 for one, after in pairwise(s)
    ]
    longest = max(LONGEST_GAP, 2 * math.ceil(count / (guided - 2)))

    def error(start: int, stop: int) -> float:
        """Squared, of the steps between two guided ones."""
        gap = s[start] - s[stop]
        ways = ((bends[i], s[start] - s[i]) for i in range(start + 1, stop))
        return sum((bend * far * (far + gap)) ** 2 for bend, far in ways)

    errors = {(a, b): error(a, b) for a in range(1, count) for b in range(a + 1, min(a + longest + 1, count))}
    best = {1: (0.0, frozenset({0, 1}))}  # the last guided step -> the least error up to it, and all guided ones
    for to_come in range(guided - 3, -1, -1):
        after: dict[int, tuple[float, frozenset[int]]] = {}
        for a, (least, steps) in best.items():
            for b in range(a + 1, min(a + longest + 1, count - to_come)):
                if b not in after or least + errors[a, b] < after[b][0]:
                    after[b] = least + errors[a, b], steps | {b}
        best = after
    return best[count - 1][1]
