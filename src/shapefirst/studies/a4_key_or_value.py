"""A4: key or value? F4 with the target's [EOS] only in the keys, only in the values, or in both of cross-attention.

out = softmax(Q K^T / sqrt(d)) V        K says where to look, V what is seen there
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image

from shapefirst.attention.recording import substitute
from shapefirst.findings.finding import Finding, Study, claim
from shapefirst.measure.intervals import Rule, bootstrap
from shapefirst.prompts import Pair
from shapefirst.studies.conditions import by_alignment, chart, scored, tidy
from shapefirst.studies.subject import Subject, part
from shapefirst.studies.switching import Switched, encode_pairs, padded, seen_eos

#: The target's [EOS] in the values moves the image further to it than in the keys.
RULE: Final = Rule("above", 0.0)

#: Condition -> whether keys and values are the target's.
EDITS: Final = {"none": (False, False), "keys": (True, False), "values": (False, True), "keys and values": (True, True)}


def sample_edited(subject: Subject, sides: Switched, *, keys: bool, values: bool) -> list[Image.Image]:
    """Images of the sources with the targets' keys or values at the [EOS]."""
    seeds = sides.seeds
    if not (keys or values):
        return subject.sample(sides.source, seeds)
    # The n-th [EOS] of A takes the n-th of B, wherever that stands: the switched embeddings have it in A's place.
    other, places = sides.switched().text, seen_eos(sides.source, sides.at_source)
    images = []
    for here in subject.batches(len(seeds)):
        with substitute(subject.pipe, other[here], places[here], keys=keys, values=values):
            images += subject.sample(part(sides.source, here), seeds[here])
    return images


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """The pairs under the four edits, scored against source and target."""
    subject.meter.expect(len(EDITS) * subject.cost() * len(pairs))
    sides = encode_pairs(subject, pairs)
    images = {name: sample_edited(subject, sides, keys=keys, values=values) for name, (keys, values) in EDITS.items()}
    scores = sides.measure(images)
    leads = {name: scores.lead(subject.primary, name) for name in EDITS}
    effects = {f"effect of {name}": leads[name] - leads["none"] for name in EDITS if name != "none"}
    title = subject.alignments[subject.primary].title
    return Finding(
        claims=(
            claim(
                "The values carry the content: they move the image further to the target than the keys.",
                paper="the values carry the content",
                quantity=f"{title}: target minus source, values switched less keys switched",
                found=bootstrap(
                    leads["values"] - leads["keys"], within=subject.range_of(subject.primary).difference.difference
                ),
                rule=RULE,
                if_not="Where both together hardly move the image (F4), neither can; else keys may choose among words "
                "that compete, which F3's weights under the switched keys (A5) would show.",
            ),
        ),
        table=tidy(subject, scores),
        summaries=(
            by_alignment(subject, scores, "Images by what was taken from the target at the [EOS]."),
            sides.by_kind(
                effects,
                f"Effect: {title}, target minus source, less that of the plain source prompt.",
                within=subject.range_of(subject.primary).difference.difference,
            ),
        ),
        charts=(chart(subject, scores, "Alignment with both prompts, by what was taken from the target."),),
        pictures=(sides.picture("edited", images, "What of the [EOS] is the target's."),),
        method=f"{sides.described}, one image each, all conditions of a pair from one seed. In every cross-attention "
        "layer and step the keys, the values or both at the source's [EOS] and padding positions are those of the "
        f"target's, the n-th for the n-th; the unguided branch stays. {padded(subject)} {scored(subject)}",
        evaluations=len(EDITS) * subject.cost(),
    )


STUDY: Final = Study(
    name="a4",
    title="Key or value",
    question="Is it the keys or the values of the [EOS] in cross-attention that carry the content?",
    paper="The values carry the content.",
    needs="pairs",
    count=8,
    cost=32,
    judged=True,
    run=run,
)
