"""A1: how many [EOS] does it take? F4 with only the first n [EOS] positions switched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shapefirst.errors import imported
from shapefirst.findings.finding import Chart, Claim, Finding, Study, claim
from shapefirst.measure.intervals import SIGNED, Rule, bootstrap
from shapefirst.prompts import Pair
from shapefirst.studies.conditions import Scores, by_alignment, scored, tidy
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.subject import Subject
from shapefirst.studies.switching import SOURCE, TARGET, Switched, encode_pairs, padded, seen_eos

#: With all [EOS] switched the image is nearer to the target than with the first alone.
RULE_ALL: Final = Rule("above", 0.0)
#: Over the grid of n, more switched [EOS] go with more target: the mean over pairs of Spearman's correlation.
RULE_RANK: Final = Rule("above", 0.0)

GRID: Final = (0, 1, 2, 4, 8, 16, 32)


def counts(sides: Switched) -> list[int | None]:
    """How many [EOS] to switch, None for all: the grid below the fewest that the denoiser sees in a prompt."""
    fewest = min(len(places) for places in seen_eos(sides.source, sides.at_source))
    return [*(n for n in GRID if n < fewest), None]


def named(n: int | None) -> str:
    """The condition in which the first n [EOS] are switched; None is all."""
    return "all" if n is None else str(n)


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """The correlation of the ranks of (n,) values, in [-1, 1]; 0 where one of the two is constant."""
    rankdata = imported("scipy.stats", "Ranks are computed").rankdata
    a, b = (ranks - ranks.mean() for ranks in (rankdata(x), rankdata(y)))
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm else 0.0


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """The pairs with 0, 1, 2, 4, ... and all [EOS] switched, scored against source and target."""
    sides = encode_pairs(subject, pairs)
    grid = counts(sides)
    subject.meter.expect(subject.cost() * len(grid) * len(pairs))
    images = {named(n): subject.sample(sides.switched(n), sides.seeds) for n in grid}
    scores = sides.measure(images)

    leads = np.stack([scores.lead(subject.primary, named(n)) for n in grid], axis=1)
    # A masked padding leaves one [EOS], so that "all" is the first: it is compared with none instead.
    base = 1 if 1 in grid else 0
    gain = leads[:, -1] - leads[:, grid.index(base)]
    slopes = np.array([spearman(np.arange(len(grid)), lead) for lead in leads])
    return Finding(
        claims=_claims(subject, base, gain, slopes),
        table=tidy(subject, scores, {"switched": [-1 if n is None else n for n in grid]}),
        summaries=(
            by_alignment(
                subject, scores, "Images by the number of [EOS] positions that were switched, from the first."
            ),
            sides.by_kind(
                {f"all minus {base}": gain, "rank correlation with n": slopes},
                f"{TARGET} minus {SOURCE}.",
                within={
                    f"all minus {base}": subject.range_of(subject.primary).difference.difference,
                    "rank correlation with n": SIGNED,
                },
            ),
        ),
        charts=(_chart(subject, scores),),
        pictures=(sides.picture("switched", images, "By the number of switched [EOS] positions."),),
        method=f"{sides.described}, one image each, all conditions of a pair from one seed. Of the source's [EOS] and "
        "padding positions the first n are replaced by the target's, the n-th by the n-th (-1 in the table: all). "
        f"{padded(subject)} {scored(subject)}"
        + (
            ""
            if base
            else " There is no more than one [EOS] to switch here (a T5 has one </s>, and its padding is masked), so "
            "that all is compared with none."
        ),
        evaluations=subject.cost() * len(grid),
    )


def _claims(subject: Subject, base: int, gain: np.ndarray, slopes: np.ndarray) -> tuple[Claim, ...]:
    title = subject.alignments[subject.primary].title
    compared = "the first alone" if base else "none"
    whole = claim(
        f"Switching all [EOS] moves the image further to their owner than switching {compared}.",
        paper="more switched [EOS]: more target, less source",
        quantity=f"{title}: target minus source, all switched less {compared}",
        found=bootstrap(gain, within=subject.range_of(subject.primary).difference.difference),
        rule=RULE_ALL,
        if_not="If one [EOS] does as much as all, attention may rest on the first: the weights of `record` "
        "(shapefirst.attention.recording), position by position, would show it.",
    )
    if not base:
        return (whole,)
    gradual = claim(
        "The more [EOS] are switched, the more the image follows their owner.",
        paper="more switched [EOS]: more target, less source",
        quantity=f"Spearman's correlation of n with target minus source ({title}), mean over pairs",
        found=bootstrap(slopes, within=SIGNED),
        rule=RULE_RANK,
        if_not="The change may come all at once, beyond some n: the chart shows where, and a finer grid "
        "there would tell.",
    )
    return whole, gradual


def _chart(subject: Subject, scores: Scores) -> Chart:
    alignment = subject.alignments[subject.primary]
    places = range(len(scores.conditions))
    drawn = {f"with {side}": scores.across(subject.primary, side) for side in (SOURCE, TARGET)}
    labels = {"xlabel": "switched [EOS] positions n", "ylabel": f"alignment ({alignment.unit})"}
    ticks = {"xticks": places, "xticklabels": scores.conditions}
    heard = ", ".join(f"{scores.lead(subject.primary, name).mean():.2f} at {name}" for name in scores.conditions)
    return curves(
        "number",
        [Panel(places, drawn, {**labels, **ticks})],
        f"{alignment.title} with both prompts against the number of switched [EOS]; mean and 95% band, "
        f"n = {len(scores.values[subject.primary])} pairs.",
        f"Target minus source is on average {heard} switched [EOS].",
    )


STUDY: Final = Study(
    name="a1",
    title="How many [EOS] it takes",
    question="Does the image follow the other prompt more, the more of its [EOS] positions are put in?",
    paper="The more [EOS] positions are switched, the more of the target and the less of the source is seen.",
    needs="pairs",
    count=8,
    cost=64,
    judged=True,
    run=run,
)
