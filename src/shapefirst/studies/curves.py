"""Charts of curves: what n prompts do over the steps or along a grid, a mean with its 95% band each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shapefirst.drawing import charts
from shapefirst.findings.finding import Chart

__all__ = ["Panel", "curves"]


@dataclass(frozen=True)
class Panel:
    """One plot of a chart.

    Attributes:
        x: Where all curves were measured, or label -> where that one was.
        curves: Label -> (n, len(x)).
        labels: What ``Axes.set`` takes: title, names of the axes with their units, limits.
        dotted: Label -> (len(x),) or (len(x), lines): lines to compare with, in black.
        level: Where a rule stands, across.
        at: Likewise, upright.
        style: That of the first curve.
    """

    x: Sequence[float] | Mapping[str, Sequence[float]]
    curves: Mapping[str, np.ndarray]
    labels: Mapping[str, Any]
    dotted: Mapping[str, np.ndarray] = field(default_factory=dict)
    level: float | None = None
    at: float | None = None
    style: int = 0


def curves(
    name: str,
    panels: Sequence[Panel],
    caption: str,
    alt: str,
    *,
    width: float = 7.2,
    height: float = 3.4,
    share_y: bool = False,
) -> Chart:
    """The panels side by side; one legend above those that the last one's curves explain, else one in each of several.

    ``width`` and ``height`` are in inches; ``share_y`` gives all panels one scale; the rest as of ``Chart``.
    """
    with charts.figure(len(panels), width=width, height=height) as (drawn, axes):
        for axis, panel in zip(axes, panels, strict=True):
            for style, (label, values) in enumerate(panel.curves.items(), panel.style):
                x = panel.x[label] if isinstance(panel.x, Mapping) else panel.x
                charts.band(axis, x, values, style=style, label=label, every=5 if len(x) > 12 else 1)
            for label, line in panel.dotted.items():
                lines: Any = axis.plot(np.asarray(panel.x), line, color="black", linestyle=":")
                lines[0].set_label(label)  # one name for all
            rule: dict[str, Any] = {"color": "#777777", "linewidth": 0.9, "linestyle": ":"}
            if panel.level is not None:
                axis.axhline(panel.level, **rule)
            if panel.at is not None:
                axis.axvline(panel.at, **rule)
            axis.set(**panel.labels)
        for axis in axes[1:] if share_y else ():
            axis.sharey(axes[0])
        told = [{*panel.curves, *panel.dotted} for panel in panels]
        if all(labels <= told[-1] for labels in told):
            drawn.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        else:
            for axis, labels in zip(axes, told, strict=True):
                if len(labels) > 1:
                    axis.legend()
        return Chart(name, charts.svg(drawn), caption, alt)
