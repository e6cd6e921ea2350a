"""One look for all plots: readable in print, for colour-blind readers, and at the width of a phone.

Colours are Okabe and Ito's (2008); series also differ in line style and marker, so that none is told by colour alone.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shapefirst.errors import ShapefirstError, installing
from shapefirst.measure.intervals import LEVEL, widening

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "STYLES", "band", "figure", "svg"]

_RESAMPLES: Final = 500
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES: Final = tuple(zip(COLOURS, cycle(("-", "--", "-.", ":")), ("o", "s", "^", "D", "v", "P", "x"), strict=False))

_LOOK = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "svg.fonttype": "path",  # the same in every browser, whatever its fonts
    "svg.hashsalt": "shapefirst",
}


@contextmanager
def figure(panels: int = 1, *, width: float = 7.2, height: float = 3.4) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure with ``panels`` axes side by side, in inches; closed when the block ends.

    Raises:
        ShapefirstError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ShapefirstError(f"The studies draw with matplotlib: {installing('studies')}.") from error
    with matplotlib.rc_context(_LOOK):
        drawn = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(drawn)
        axes = drawn.subplots(1, panels, squeeze=False)[0]
        yield drawn, list(axes)


def svg(drawn: Figure) -> str:
    """The figure as an ``<svg>`` element to put into a page: it scales with its column, the same run gives the same."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return re.sub(r'(<svg[^>]*?) width="[^"]*"| height="[^"]*pt"', r"\1", text[text.index("<svg") :], count=2)


def band(axis: Axes, x: Sequence[float], values: Any, *, style: int, label: str, every: int = 5) -> None:
    """The mean over prompts of ``values`` (n, len(x)) with its 95% band, as ``bootstrap`` makes intervals."""
    v = np.asarray(values, dtype=np.float64)
    colour, line, marker = STYLES[style % len(STYLES)]
    mean, tail = v.mean(0), (1 - LEVEL) / 2
    index = np.random.default_rng(0).integers(len(v), size=(_RESAMPLES, len(v)))
    means = np.stack([v[rows].mean(0) for rows in index])
    low, high = mean + widening(len(v), LEVEL) * (np.quantile(means, [tail, 1 - tail], axis=0) - mean)
    axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axis.plot(x, mean, color=colour, linestyle=line, marker=marker, markevery=every, label=label)
