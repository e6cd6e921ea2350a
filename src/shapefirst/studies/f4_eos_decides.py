"""F4: which token decides the image? A's [SOS] and words with B's [EOS], judged against both prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shapefirst.prompts import Pair
from shapefirst.studies import charts
from shapefirst.studies.finding import Chart, Finding, Picture, Study, Summary, claim
from shapefirst.studies.statistics import Interval, Rule, bootstrap
from shapefirst.studies.subject import Subject, part
from shapefirst.studies.switching import encode_pairs, score_both, tidy_scores
from shapefirst.studies.tables import columns, shown
from shapefirst.sheets import Cell, contact_sheet

#: The alignment with the [EOS] owner exceeds that with the owner of the words.
RULE: Final = Rule("above", 0.0)
SHOWN = 6


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """Images of the switched prompts, scored against source and target."""
    sides = encode_pairs(subject, pairs)
    seeds = subject.seeds(len(pairs))
    few = slice(0, min(SHOWN, len(pairs)))
    subject.meter.expect(2 * subject.steps * (len(pairs) + 2 * few.stop))

    images = subject.sample(sides.switched(), seeds)
    scores = score_both(subject, images, pairs)
    of_source, of_target = scores[subject.primary]
    found = bootstrap(of_target - of_source)
    title = subject.alignments[subject.primary].title

    plain = [subject.sample(part(side, few), seeds[few]) for side in (sides.source, sides.target)]
    sheet = contact_sheet(
        [
            [
                Cell(a, pair.source.text),
                Cell(mixed, f"{pair.source.text}\n[EOS] of: {pair.target.text}"),
                Cell(b, pair.target.text),
            ]
            for a, mixed, b, pair in zip(plain[0], images, plain[1], pairs, strict=False)
        ],
        column_titles=["Source A", "A with the [EOS] of B", "Target B"],
    )
    return Finding(
        claims=(
            claim(
                "The image follows the owner of the [EOS] rather than that of the words.",
                paper="the image follows B, with traces of A's words",
                quantity=f"{title}: target minus source",
                found=found,
                rule=RULE,
                if_not="The words may carry as much as the [EOS] where the text encoder is shallow; "
                "A3 (words or [EOS] blanked) on the same model tells the two apart.",
            ),
        ),
        table=columns(tidy_scores(subject, pairs, scores)),
        summaries=(_by_alignment(subject, scores), _by_kind(subject, pairs, scores)),
        charts=(_chart(subject, scores),),
        pictures=(
            Picture(
                "switched",
                sheet,
                f"The first {few.stop} pairs, one seed each, none selected.",
                "Rows of three pictures: the source prompt's, the one with exchanged [EOS], the target prompt's.",
            ),
        ),
        method=f"{len(pairs)} pairs that share neither noun nor attribute, one image each. The [EOS] and all padding "
        "positions of the source's embeddings are replaced by the target's, the n-th by the n-th. Each image is scored "
        "against both prompts; intervals are bootstrapped over pairs.",
        evaluations=2 * subject.steps,
    )


def _by_alignment(subject: Subject, scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> Summary:
    rows = []
    for name, (source, target) in scores.items():
        rows.append(
            (
                subject.alignments[name].title,
                shown(bootstrap(source)),
                shown(bootstrap(target)),
                shown(bootstrap(target - source)),
            )
        )
    return Summary(("alignment", "with the source A", "with the target B", "difference"), tuple(rows))


def _by_kind(subject: Subject, pairs: Sequence[Pair], scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> Summary:
    """Is it the same for colours and textures?"""
    kinds = np.array([pair.target.source for pair in pairs])
    rows = []
    for name, (source, target) in scores.items():
        for kind in sorted(set(kinds)):
            mine = (target - source)[kinds == kind]
            rows.append(
                (
                    subject.alignments[name].title,
                    kind,
                    str(len(mine)),
                    shown(bootstrap(mine)) if len(mine) > 1 else "too few",
                )
            )
    return Summary(
        ("alignment", "kind of the target", "n", "target minus source"), tuple(rows), "By kind of attribute."
    )


def _chart(subject: Subject, scores: dict[str, tuple[np.ndarray, np.ndarray]]) -> Chart:
    n = len(scores[subject.primary][0])
    with charts.figure(len(scores), width=2.4 * len(scores) + 0.6, height=3.0) as (drawn, axes):
        for axis, (name, sides) in zip(axes, scores.items(), strict=True):
            for place, (side, values) in enumerate(zip(("source A", "target B"), sides, strict=True)):
                _point(axis, place, bootstrap(values), place)
            axis.set(
                title=subject.alignments[name].title,
                xticks=[0, 1],
                xlim=(-0.6, 1.6),
                ylabel=subject.alignments[name].unit,
            )
            axis.set_xticklabels(["source A", "target B"])
        image = charts.svg(drawn)
    source, target = (bootstrap(side) for side in scores[subject.primary])
    return Chart(
        "alignment",
        image,
        f"Alignment of the images with the owner of the words and with the owner of the [EOS]; mean and 95% interval, n = {n} pairs.",
        f"By {subject.alignments[subject.primary].title} the images score {source.estimate:.2f} with the source "
        f"and {target.estimate:.2f} with the target.",
    )


def _point(axis, x: float, found: Interval, style: int) -> None:
    colour, _, marker = charts.STYLES[style]
    reach = [[found.estimate - found.low], [found.high - found.estimate]]
    axis.errorbar([x], [found.estimate], yerr=reach, color=colour, marker=marker, capsize=4)


STUDY: Final = Study(
    name="f4",
    title="Which token decides the image",
    question="Does an image follow the words of its prompt or the [EOS] tokens behind them?",
    paper="With the [EOS] of another prompt, the image follows that prompt; traces of the words remain.",
    needs="pairs",
    count=64,
    quick=6,
    run=run,
)
