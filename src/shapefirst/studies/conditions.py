"""The alignment of images made under several conditions: what the studies that edit a prompt share.

    images = {condition: n images},   sides = {side: n prompts}   ->   scores.of(alignment, condition, side): (n,)

A side is what the images are scored against: the source and the target of each pair, say, or the prompt itself.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from shapefirst.drawing import charts
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.findings.finding import Chart, Picture, Summary
from shapefirst.findings.tables import cell, crossed
from shapefirst.measure.intervals import ANY, Interval, Range, bootstrap, measured
from shapefirst.prompts import Prompt
from shapefirst.studies.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "CHANCE",
    "Scores",
    "by_alignment",
    "by_kind",
    "chart",
    "dots",
    "estimates",
    "picture",
    "score_conditions",
    "scored",
    "tidy",
    "unrelated",
]

CHANCE: Final = "an unrelated prompt"


@dataclass(frozen=True)
class Scores:
    """Scores of n images under each of C conditions, against each of S sides.

    Attributes:
        conditions: C names, in the order of tables and charts.
        sides: Side's name -> the n prompts that images are scored against.
        values: Alignment's name -> (n, C, S) float64.
    """

    conditions: tuple[str, ...]
    sides: Mapping[str, Sequence[Prompt]]
    values: Mapping[str, np.ndarray]

    def of(self, alignment: str, condition: str, side: str) -> np.ndarray:
        """(n,) scores."""
        scores: np.ndarray = self.values[alignment][:, self.conditions.index(condition), list(self.sides).index(side)]
        return scores

    def across(self, alignment: str, side: str, conditions: Sequence[str] | None = None) -> np.ndarray:
        """(n, conditions) scores, by default of all conditions."""
        return np.stack([self.of(alignment, name, side) for name in conditions or self.conditions], axis=1)

    def lead(self, alignment: str, condition: str) -> np.ndarray:
        """(n,), by how much each image's score with the last side exceeds that with the first."""
        first, *_, last = self.sides
        return self.of(alignment, condition, last) - self.of(alignment, condition, first)


def score_conditions(
    subject: Subject, images: Mapping[str, Sequence[Image.Image]], sides: Mapping[str, Sequence[Prompt]]
) -> Scores:
    """Scores each condition's images against each side's prompts, by all of the subject's alignments."""
    found = [[subject.scores(made, prompts) for prompts in sides.values()] for made in images.values()]
    values = {
        name: np.stack([np.stack([scores[name] for scores in row], axis=-1) for row in found], axis=1)
        for name in subject.alignments
    }
    return Scores(tuple(images), dict(sides), values)


def unrelated(prompts: Sequence[Prompt]) -> list[int]:
    """For each prompt the place of the next one of the set that shares no word of content with it; of the very next if
    none does."""
    others = []
    for i, prompt in enumerate(prompts):
        ahead = [*range(i + 1, len(prompts)), *range(i)]
        free = (k for k in ahead if prompt.content.isdisjoint(prompts[k].content))
        others.append(next(free, (ahead or [i])[0]))
    return others


def scored(subject: Subject) -> str:
    """What verdicts go by, for a study's method, and what a reader has to know of it."""
    words = f"Verdicts go by {subject.alignments[subject.primary].title}."
    if not subject.is_pocket or subject.clip is not None:
        return words
    return words + (
        " Its text encoder is the one that pocket's denoiser reads: what an [EOS] fails to say is neither drawn nor "
        "missed. The judge has seen pictures only, and stands beside it where it knows all words. Verdicts had gone by "
        "the judge's product of noun and attribute in a trial of 4 to 6 pairs, which is 0 on both sides for an image "
        "of the one prompt's noun in the other's colour."
    )


def tidy(subject: Subject, scores: Scores, details: Mapping[str, Sequence[Any]] | None = None) -> dict[str, list[Any]]:
    """One row for each image, alignment and side. ``details``: further columns, a value for each condition."""
    told = [subject.about(prompts) for prompts in scores.sides.values()]
    n = len(told[0]["seed"])
    return crossed(
        {"alignment": list(scores.values)},
        {"condition": scores.conditions, **(details or {})},
        {"side": list(scores.sides)},
        {"number": range(n), "seed": subject.seeds(n)},
        **{name: [one[name] for one in told] for name in ("prompt", "kind")},
        score=np.stack(list(scores.values.values())).transpose(0, 2, 3, 1),
    )


def by_alignment(subject: Subject, scores: Scores, caption: str = "") -> Summary:
    """Means with intervals: a row for each alignment and condition, a column for each side and for the last's lead."""
    sides = list(scores.sides)
    lead = [f"{sides[-1]} minus {sides[0]}"] if len(sides) > 1 else []
    rows = []
    for alignment, condition in product(scores.values, scores.conditions):
        own = subject.range_of(alignment)
        cells = [cell(scores.of(alignment, condition, side), within=own) for side in sides]
        cells += [cell(scores.lead(alignment, condition), within=own.difference)] if lead else []
        rows.append((subject.alignments[alignment].title, condition, *cells))
    return Summary(("alignment", "images", *sides, *lead), tuple(rows), caption)


def by_kind(
    quantities: Mapping[str, np.ndarray],
    prompts: Sequence[Prompt],
    caption: str = "",
    statistic: Callable[[np.ndarray], float] | None = None,
    *,
    within: Range | Mapping[str, Range] = ANY,
) -> Summary:
    """Quantities with their intervals, a column for each kind of attribute that the n prompts have.

    Args:
        quantities: Name -> (n, ...), as `bootstrap` takes them.
        prompts: n.
        caption: Of the table.
        statistic: As for `bootstrap`; by default the mean.
        within: What they can be, all or each by its name.
    """
    kinds = np.array([prompt.source for prompt in prompts])
    names = sorted(set(kinds))
    rows = []
    for name, x in quantities.items():
        own = within if isinstance(within, Range) else within[name]
        rows.append((name, *(cell(x[kinds == kind], statistic, within=own) for kind in names)))
    heads = (f"{kind}, n = {(kinds == kind).sum()}" for kind in names)
    return Summary(("by kind of attribute", *heads), tuple(rows), caption)


def dots(axis: Axes, found: Sequence[Interval], places: ArrayLike, *, style: int, label: str = "") -> None:
    """Estimates along x as dots with their intervals, at the heights ``places``."""
    colour, _, marker = charts.STYLES[style % len(charts.STYLES)]
    middle = np.array([f.estimate for f in found])
    # A percentile interval need not hold its estimate; a bar cannot have a negative length.
    reach = np.maximum([middle - [f.low for f in found], [f.high for f in found] - middle], 0)
    axis.errorbar(
        middle, places, xerr=reach, color=colour, marker=marker, linestyle="none", capsize=3, label=label or None
    )


def estimates(
    name: str, found: Mapping[str, Interval], caption: str, alt: str, *, at: float | None = None, **labels: Any
) -> Chart:
    """A line for each name, the first on top, with its estimate; ``at`` is what to compare with, ``labels`` as of
    ``Axes.set``."""
    with charts.figure(height=1.2 + 0.3 * len(found)) as (drawn, (axis,)):
        for place, one in enumerate(found.values()):
            dots(axis, [one], [place], style=place)
        if at is not None:
            axis.axvline(at, color="#777777", linewidth=1, linestyle=":")
        axis.set(yticks=range(len(found)), yticklabels=list(found), ylim=(len(found) - 0.5, -0.5), **labels)
        return Chart(name, charts.svg(drawn), caption, alt)


def chart(subject: Subject, scores: Scores, caption: str) -> Chart:
    """A panel for each alignment: a line for each condition, the first on top, with a dot for each side."""
    lines = np.arange(len(scores.conditions))[::-1]
    apart = 0.16 * (np.arange(len(scores.sides)) - (len(scores.sides) - 1) / 2)
    panels = len(scores.values)
    with charts.figure(panels, width=max(7.2, 1.2 + 1.9 * panels), height=1.5 + 0.42 * len(lines)) as (drawn, axes):
        for axis, alignment in zip(axes, scores.values, strict=True):
            for s, side in enumerate(scores.sides):
                values = [scores.of(alignment, condition, side) for condition in scores.conditions]
                # A score that could not be read for nearly any image has no interval to draw.
                known = [c for c, mine in enumerate(values) if len(measured(mine)) > 1]
                dots(
                    axis,
                    [bootstrap(values[c], within=subject.range_of(alignment)) for c in known],
                    lines[known] - apart[s],
                    style=s,
                    label=side,
                )
            axis.set_yticks(lines, scores.conditions if axis is axes[0] else [""] * len(lines))
            axis.set_ylim(-0.6, len(lines) - 0.4)
            axis.set_xlabel(
                f"{textwrap.fill(subject.alignments[alignment].title, 24)}\n({subject.alignments[alignment].unit})"
            )
        if len(scores.sides) > 1:
            drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(scores.sides))
        image = charts.svg(drawn)
    alignment, n = subject.primary, len(scores.values[subject.primary])
    heard = "; ".join(
        f"{condition}: "
        + ", ".join(f"{scores.of(alignment, condition, side).mean():.2f} {side}" for side in scores.sides)
        for condition in scores.conditions
    )
    return Chart(
        "alignment",
        image,
        f"{caption} Mean over prompts and 95% interval, n = {n}.",
        f"By {subject.alignments[alignment].title}, on average: {heard}.",
    )


def picture(
    name: str, images: Mapping[str, Sequence[Image.Image]], labels: Sequence[str], caption: str, few: int = 4
) -> Picture:
    """The first few images of each condition: a row for each label, a column for each condition.

    Args:
        name: Of the picture.
        images: Condition -> images, of the first few labels or of all.
        labels: Of the rows.
        caption: What is shown.
        few: So many rows at most.
    """
    few = min(few, len(labels))
    sheet = contact_sheet(
        [[Cell(made[i]) for made in images.values()] for i in range(few)],
        column_titles=list(images),
        row_titles=list(labels[:few]),
        picture_width=192 if len(images) <= 5 else 128,
    )
    first_lines = ", ".join(label.splitlines()[0] for label in labels[:few])
    return Picture(
        name,
        sheet,
        f"{caption} The first {few} of {len(labels)}, one seed each, none selected.",
        f"{few} rows of pictures ({first_lines}) in {len(images)} columns: {', '.join(images)}.",
    )
