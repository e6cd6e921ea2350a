"""Where the evaluated steps of a run along a flow lie best, by what leaving one out does to the picture.

Of a flow x = (1 - s) x0 + s eps with Euler's steps from s_i to s_{i+1}, a step that is not evaluated takes the line
through the last two that were, at s_a and s_b. It is off by half the second derivative of the velocity times
(s_i - s_a) (s_i - s_b), and leaves in the last latents that times the step's length, and times how much an error at s_i
grows on the way:

    e_i = K(s_i) (s_i - s_{i+1}) (s_i - s_a) (s_i - s_b) / 2

K was measured by leaving out single steps, of 28 with shifts of 1 and 3: it depends on s, and not on how steps lie. In
u = -log(1 - s), which is the u_t of `families.noise`, it is nearly even, which is to say that K falls as (1 - s)^-3
from the most to the least noise, and has a floor and a ceiling there. What is chosen is where the sum of squares of
e_i is least, which is what errors in many directions add up to, by dynamic programming over the last two evaluated.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

__all__ = ["MOST_STEPS", "by_noise"]

#: More of them take longer to place than is worth it.
MOST_STEPS: Final = 100
#: Of evaluated steps, the farthest apart; more where there are few.
MOST_GAP: Final = 9
SLOPE, FLOOR, CEILING = 1.5, 9.0, 2000.0  # of K


def noise_along(num_steps: int, shift: float) -> list[float]:
    """s of each step and after the last, with times shifted as Stable Diffusion 3's (Esser et al. 2024, arXiv
    2403.03206, eq. 23)."""
    even = [1 - step / num_steps for step in range(num_steps + 1)]
    return [shift * s / (1 + (shift - 1) * s) for s in even]


@lru_cache(maxsize=64)
def by_noise(num_steps: int, guided: int, shift: float) -> frozenset[int]:
    """Which ``guided`` of ``num_steps`` steps, 3 or more, are evaluated: the first two, the last, and others between,
    see above.
    """
    most_gap = max(MOST_GAP, 2 * math.ceil(num_steps / guided))
    s = noise_along(num_steps, shift)
    k = [min(max(SLOPE * (1 - one) ** -3 if one < 1 else math.inf, FLOOR), CEILING) for one in s]
    best: dict[tuple[int, int], float] = {(0, 1): 0.0}  # the last two evaluated -> the least cost to get there
    came_from: list[dict[tuple[int, int], tuple[int, int]]] = []
    for still in range(guided - 3, -1, -1):
        after: dict[tuple[int, int], float] = {}
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for (b, a), cost in best.items():
            for c in range(a + 1, min(a + most_gap, num_steps - 1 - still) + 1):
                if cost < after.get((a, c), math.inf):
                    after[a, c], found[a, c] = cost, (b, a)
                cost += (k[c] * (s[c] - s[c + 1]) * (s[c] - s[a]) * (s[c] - s[b]) / 2) ** 2
        best = after
        came_from.append(found)
    last = min((state for state in best if state[1] == num_steps - 1), key=best.__getitem__)
    steps = set(last)
    for found in reversed(came_from):
        last = found[last]
        steps |= set(last)
    return frozenset(steps)
