"""Many claims tested at once: which verdicts stand when their number is counted.

Of m tests at the level 95% about m / 20 go wrong by chance. Benjamini and Hochberg (1995) hold the expected share of
false ones among the verdicts at q: with the p-values in order, p_(1) <= ... <= p_(m), the first k stand, for the
largest k with

    p_(k) <= q k / m

The p-value is the one that belongs to the 95% interval, taken for that of a normal estimate: an end is 1.96 standard
errors away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

from shapefirst.findings.finding import Claim
from shapefirst.measure.intervals import FEWEST, LEVEL

__all__ = ["RATE", "p_value", "standing"]

RATE: Final = 0.05  # q
_Z: Final = NormalDist().inv_cdf((1 + LEVEL) / 2)


def p_value(claim: Claim) -> float:
    """Of the estimate, if the truth were what the verdict excludes; two-sided. 1 where nothing can be said."""
    found, excluded = claim.found, claim.rule.excluded(claim.found)
    away = found.estimate - (claim.rule.threshold if excluded is None else excluded)
    end = found.low if away > 0 else found.high  # the one on the threshold's side
    error = abs(found.estimate - end) / _Z
    if found.n < FEWEST or not math.isfinite(error):
        return 1.0
    return math.erfc(abs(away) / error / math.sqrt(2)) if error else float(away == 0)


def standing(claims: Sequence[Claim], rate: float = RATE) -> list[bool]:
    """Whether each claim differs from what its verdict excludes at this false discovery rate.

    It is over all that have enough prompts.
    """
    values = [p_value(one) for one in claims]
    tested = sorted(value for value, one in zip(values, claims, strict=True) if one.found.n >= FEWEST)
    passed = [p for k, p in enumerate(tested, start=1) if p <= rate * k / len(tested)]
    return [bool(passed) and value <= passed[-1] for value in values]
