"""X5: when does a negative prompt act? All the time, in the first half of the steps, or in the second.

Ban et al. 2024 (arXiv 2406.02965): negative prompts act late, once there is something to take away; given early they
can bring the very thing in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from shapefirst.findings.finding import Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, crossed
from shapefirst.measure.distances import distances_of
from shapefirst.measure.intervals import LEAST, SHARE, Rule, bootstrap
from shapefirst.measure.scores import JUDGE_NOUN
from shapefirst.prompts import Pair
from shapefirst.studies import dropping
from shapefirst.studies.conditions import by_kind, picture
from shapefirst.studies.dropping import check_guidance, steps_at
from shapefirst.studies.settings import in_either_place, two_objects
from shapefirst.studies.subject import Fork, Subject

#: A negative prompt takes away what it names.
RULE_ACTS: Final = Rule("above", 0.0)
#: In the second half of the steps it takes away more than in the first.
RULE_LATE: Final = Rule("above", 0.0, LEAST)

NONE, ALL, EARLY, LATE = "no negative", "all steps", "first half", "second half"


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """Images of two things, with the second as negative prompt in windows of steps."""
    check_guidance(subject)
    (half,) = steps_at([0.5], subject.steps)
    cost = 2 * subject.cost() + 2 * subject.cost(subject.steps - half)
    subject.meter.expect(cost * len(pairs))
    asked, unwanted = [two_objects(pair) for pair in pairs], [pair.target for pair in pairs]
    plain, seeds = subject.encode(asked), subject.seeds(len(pairs))
    against = subject.encode(unwanted)
    negative = replace(plain, null=against.text, null_mask=against.text_mask, null_pooled=against.text_pooled)
    images = {}
    images[NONE], late = subject.fork(plain, seeds, [half], {LATE: lambda k: Fork(embeddings=negative)})
    images[ALL], early = subject.fork(negative, seeds, [half], {EARLY: lambda k: Fork(embeddings=plain)})
    images |= {LATE: late[LATE, half], EARLY: early[EARLY, half]}
    images = {which: images[which] for which in (NONE, ALL, EARLY, LATE)}
    name = subject.scored_by(JUDGE_NOUN)
    score, sought = subject.alignments[name], [in_either_place(subject, one) for one in unwanted]
    span = subject.range_of(name)
    left = {which: np.asarray(score.score(made, sought)) for which, made in images.items()}
    taken = {which: left[NONE] - left[which] for which in (ALL, EARLY, LATE)}
    similarity = dropping.similarity_of(subject)
    moved = {which: distances_of(images[which], images[NONE], similarity).l1 for which in taken}
    return Finding(
        claims=(
            claim(
                "A negative prompt takes away what it names.",
                paper="not asked",
                quantity=f"{score.title}: without a negative prompt minus with it in all steps",
                found=bootstrap(taken[ALL], within=span.difference),
                rule=RULE_ACTS,
                if_not="The prompt itself asks for the thing, and at this scale the positive branch wins.",
            ),
            claim(
                "It acts late: in the second half of the steps it takes away more than in the first.",
                paper="not asked; negative prompts act late (Ban et al. 2024)",
                quantity=f"{score.title} taken away: second half minus first half",
                found=bootstrap(taken[LATE] - taken[EARLY], within=span.difference),
                rule=RULE_LATE,
                if_not="A thing that is settled early (X4) can only be kept out early.",
            ),
        ),
        table=crossed(
            {"negative": list(images)},
            {"pair": [one.text for one in asked], **subject.about(unwanted)},
            alignment=np.stack(list(left.values())),
            l1=np.stack([moved.get(which, np.zeros(len(pairs))) for which in images]),
        ),
        summaries=(
            Summary(
                ("negative prompt in", score.title, "taken away", "L1 to the image without"),
                tuple(
                    (
                        which,
                        cell(left[which], within=span),
                        cell(taken[which], within=span.difference) if which in taken else "",
                        cell(moved[which], within=SHARE) if which in moved else "",
                    )
                    for which in images
                ),
            ),
            by_kind(
                {f"taken away, {which}": values for which, values in taken.items()}, unwanted, within=span.difference
            ),
        ),
        pictures=(
            picture(
                "negative",
                images,
                [f"{one.text}\nnegative: {no.text}" for one, no in zip(asked, unwanted, strict=True)],
                "By the steps with the negative prompt.",
            ),
        ),
        method=f"{len(pairs)} prompts of two things, one seed each. The negative prompt is the second thing, in place "
        f"of the empty one, in all {subject.steps} steps, in the first {half}, or in the others. What is left of it is "
        f"looked for anywhere in the picture, by {score.title}.",
        evaluations=cost,
    )


STUDY: Final = Study(
    name="x5",
    title="When a negative prompt acts",
    question="Does a negative prompt act in the first steps or in the last?",
    paper="Not asked.",
    needs="pairs",
    count=12,
    cost=38,
    judged=True,
    run=run,
)
