"""What templates write: estimates with just the digits that their interval supports, durations, counts, interval
strips, and code within text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from markupsafe import Markup, escape

from shapefirst.measure.intervals import Interval, Rule

__all__ = [
    "duration",
    "label",
    "number",
    "one_of",
    "plural",
    "reach",
    "rule_in_short",
    "strip",
    "threshold",
    "with_code",
]


def number(value: float, digits: int | None = None) -> str:
    """With a true minus sign; with ``digits`` after the point, or as many as it needs."""
    if not math.isfinite(value):
        return "undefined" if math.isnan(value) else ("−∞" if value < 0 else "∞")
    text = f"{value:,.{digits}f}" if digits is not None else f"{value:,.6g}"
    text = text.lstrip("-") if not any(c in "123456789" for c in text) else text  # no "-0.00"
    return text.replace("-", "−")


def reach(found: Interval) -> tuple[str, str]:
    """The estimate, and "low to high", with digits enough to show two of the interval's width."""
    spread = found.high - found.low
    if not math.isfinite(spread):
        return number(float(f"{found.estimate:.3g}")), "interval undefined"
    scale = abs(spread) or abs(found.estimate) or 1.0  # of a file, low and high may have changed places
    digits = min(6, max(0, 1 - math.floor(math.log10(scale))))
    return number(found.estimate, digits), f"{number(found.low, digits)} to {number(found.high, digits)}"


def threshold(rule: Rule) -> str:
    """The rule's, with three digits: a third is 0.333."""
    return _short(rule.threshold)


def _short(value: float) -> str:
    return number(float(f"{value:.3g}"))


def rule_in_short(rule: Rule) -> str:
    """ "interval lies above 0", the last two words unparted; and where no effect to speak of begins."""
    small = f"; {rule.other_side}\N{NO-BREAK SPACE}{_short(rule.edge)} no effect to speak of" if rule.least else ""
    return f"interval lies {rule.side}\N{NO-BREAK SPACE}{threshold(rule)}{small}"


def duration(seconds: float) -> str:
    """As people say it: "4.2 s", "75 s", "3.1 min", "2.0 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plural(count: int, singular: str) -> str:
    """The count with its noun: "1 image", "2,000 images"."""
    return f"{count:,} {singular}" + ("" if count == 1 else "s")


def label(name: str) -> str:
    """A study's name as the paper's digest writes it: "F4"."""
    return name.upper()


def one_of(values: Iterable[object]) -> str:
    """What all values have in common; where they differ, each of them once, in their order."""
    return ", ".join(dict.fromkeys(f"{value:g}" if isinstance(value, float) else str(value) for value in values))


def with_code(text: str) -> Markup:
    """The text, escaped; what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def strip(found: Interval, rule: Rule, width: int) -> tuple[float, float, float, float] | None:
    """Where low end, estimate, high end and the rule's threshold stand on a line of ``width`` pixels.

    None where the interval is undefined.
    """
    values = (found.low, found.estimate, found.high, rule.threshold)
    if not all(math.isfinite(v) for v in values):
        return None
    low, high = min(values), max(values)
    margin = 0.15 * (high - low) or 1.0
    a, b, c, d = (round(width * (value - low + margin) / (high - low + 2 * margin), 1) for value in values)
    return a, b, c, d
