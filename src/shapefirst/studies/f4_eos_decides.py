"""F4: which token decides the image? A's [SOS] and words with B's [EOS], judged against both prompts."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

import numpy as np

from shapefirst.drawing import charts
from shapefirst.findings.finding import Chart, Finding, Study, claim
from shapefirst.measure.intervals import Rule, bootstrap
from shapefirst.measure.scores import JUDGE_ATTRIBUTE, JUDGE_NOUN
from shapefirst.prompts import Pair
from shapefirst.studies.conditions import Scores, by_alignment, scored, tidy
from shapefirst.studies.subject import Subject, part
from shapefirst.studies.switching import SOURCE, TARGET, encode_pairs, padded

#: The alignment with the [EOS] owner exceeds that with the owner of the words.
RULE: Final = Rule("above", 0.0)
#: How many pairs are also sampled plainly, for the eye.
SHOWN: Final = 6
MIXED: Final = "A with the [EOS] of B"


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """Images of the switched prompts, scored against source and target."""
    few = slice(0, min(SHOWN, len(pairs)))
    subject.meter.expect(subject.cost() * (len(pairs) + 2 * few.stop))
    sides = encode_pairs(subject, pairs)

    images = subject.sample(sides.switched(), sides.seeds)
    scores = sides.measure({MIXED: images})
    lead = scores.lead(subject.primary, MIXED)
    halves = (("noun", JUDGE_NOUN), ("attribute", JUDGE_ATTRIBUTE))
    plain = [subject.sample(part(side, few), sides.seeds[few]) for side in (sides.source, sides.target)]

    return Finding(
        claims=(
            claim(
                "The image follows the owner of the [EOS] rather than that of the words.",
                paper="the image follows B, with traces of A's words",
                quantity=f"{subject.alignments[subject.primary].title}: target minus source",
                found=bootstrap(lead, within=subject.range_of(subject.primary).difference),
                rule=RULE,
                if_not="The words may carry as much as the [EOS] where the text encoder is shallow; "
                "A3 (words or [EOS] blanked) on the same model tells the two apart.",
            ),
            *(
                claim(
                    f"The {half} that is drawn is that of the [EOS]'s owner.",
                    paper="the image follows B, with traces of A's words",
                    quantity=f"{subject.alignments[name].title}: target minus source",
                    found=bootstrap(scores.lead(name, MIXED), within=subject.range_of(name).difference),
                    rule=RULE,
                    if_not=f"The {half} may reach the image through the states of the words as well, which stay the "
                    "source's; A3 on the same model, by kind of attribute, would tell.",
                )
                for half, name in halves
                if name in scores.values
            ),
        ),
        table=tidy(subject, scores),
        summaries=(
            by_alignment(subject, scores),
            sides.by_kind(
                {
                    f"{subject.alignments[name].title}: {TARGET} minus {SOURCE}": scores.lead(name, MIXED)
                    for name in scores.values
                },
                within={
                    f"{subject.alignments[name].title}: {TARGET} minus {SOURCE}": subject.range_of(name).difference
                    for name in scores.values
                },
            ),
        ),
        charts=(_chart(subject, scores, pairs),),
        pictures=(
            sides.picture(
                "switched",
                {"Source A": plain[0], MIXED: images, "Target B": plain[1]},
                "The plain prompts on both sides of the switched one, all of one seed.",
                few=SHOWN,
            ),
        ),
        method=f"{sides.described}, one image each. The [EOS] and all padding positions of the source's embeddings are "
        f"replaced by the target's, the n-th by the n-th. {padded(subject)} Each image is scored against both prompts; "
        "intervals are bootstrapped over pairs. "
        + scored(subject)
        + (" Noun and attribute are claims of their own since that trial." if JUDGE_NOUN in scores.values else ""),
        evaluations=subject.cost(),
    )


def _chart(subject: Subject, scores: Scores, pairs: Sequence[Pair]) -> Chart:
    """Each image as a point: alignment with the target over that with the source, a marker for each kind."""
    kinds = np.array([pair.target.source for pair in pairs])
    panels = len(scores.values)
    with charts.figure(panels, width=max(7.2, 2.2 * panels), height=3.9) as (drawn, axes):
        for axis, alignment in zip(axes, scores.values, strict=True):
            source, target = (scores.of(alignment, MIXED, side) for side in (SOURCE, TARGET))
            for style, kind in enumerate(sorted(set(kinds))):
                colour, _, marker = charts.STYLES[style % len(charts.STYLES)]
                here = kinds == kind
                axis.scatter(source[here], target[here], color=colour, marker=marker, s=22, alpha=0.6, label=kind)
            axis.axline((source.mean(),) * 2, slope=1, color="#777777", linewidth=1, linestyle=":")
            axis.set_aspect("equal", adjustable="datalim")
            known = subject.alignments[alignment]
            axis.set_title(f"{textwrap.fill(known.title, 24)}\n({known.unit})")
            axis.set(xlabel=f"with {SOURCE}", ylabel=f"with {TARGET}")
        drawn.legend(
            *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=7, title="attribute of the target"
        )
        image = charts.svg(drawn)
    lead = scores.lead(subject.primary, MIXED)
    return Chart(
        "alignment",
        image,
        f"Each point is an image: its alignment with the owner of the [EOS] over that with the owner of the words, "
        f"n = {len(lead)} pairs. Above the dotted diagonal the [EOS] wins.",
        f"By {subject.alignments[subject.primary].title}, {(lead > 0).sum()} of {len(lead)} images lie above the "
        f"diagonal, nearer to the target, and {(lead < 0).sum()} below.",
    )


STUDY: Final = Study(
    name="f4",
    title="Which token decides the image",
    question="Does an image follow the words of its prompt or the [EOS] tokens behind them?",
    paper="With the [EOS] of another prompt, the image follows that prompt; traces of the words remain.",
    needs="pairs",
    count=24,
    cost=30,
    judged=True,
    run=run,
)
