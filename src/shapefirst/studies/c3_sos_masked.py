"""C3: does the attention that [SOS] gets do anything? It is taken out of the prompt, and others take its attention.

F3 counts attention; it does not intervene. arXiv 2605.09313 masks such sinks in SD 3 and SDXL, and alignment stays. A
token that is not among the keys is one whose attention is masked: softmax is over what is left. The control takes a
token away that no prompt needs, the last one of the padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from shapefirst.families import family_of
from shapefirst.findings.finding import DoesNotApply, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, crossed
from shapefirst.measure.distances import distances_of
from shapefirst.measure.intervals import ANY, POSITIVE, SHARE, Rule, bootstrap, ratio_of_means
from shapefirst.prompts import Prompt
from shapefirst.sampling.loop import Embeddings
from shapefirst.studies import dropping
from shapefirst.studies.conditions import by_alignment, by_kind, chart, picture, score_conditions, scored
from shapefirst.studies.subject import Subject

#: Without [SOS] at least 0.95 of the alignment stays.
RULE_ALIGNED: Final = Rule("above", 0.95)
#: But the picture changes more than without a token of padding.
RULE_CHANGES: Final = Rule("above", 1.0)

WHOLE, NO_SOS, NO_PAD, PROMPT = "untouched", "[SOS] masked", "last token masked", "the prompt"


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Images of the prompts with all their tokens, without the first and without the last."""
    at = subject.positions(prompts, sos=True)
    if family_of(subject.pipe).masks_padding:
        raise DoesNotApply("Its padding is masked, so that a last token could not stand for one that is seen.")
    if not all(one.padding for one in at):
        raise DoesNotApply("Some prompts leave no padding, so that there is no token to mask in place of [SOS].")
    subject.meter.expect(3 * subject.cost() * len(prompts))
    whole, seeds = subject.encode(prompts), subject.seeds(len(prompts))
    length = whole.text.shape[1]
    kept = {WHOLE: range(length), NO_SOS: range(1, length), NO_PAD: range(length - 1)}
    images = {name: subject.sample(_only(whole, places), seeds) for name, places in kept.items()}
    scores = score_conditions(subject, images, {PROMPT: prompts})
    of = {name: scores.of(subject.primary, name, PROMPT) for name in images}
    similarity = dropping.similarity_of(subject)
    moved = {name: distances_of(images[name], images[WHOLE], similarity).l1 for name in (NO_SOS, NO_PAD)}
    title = subject.alignments[subject.primary].title
    return Finding(
        claims=(
            claim(
                "The attention that [SOS] gets does no work: without it the image is as true to its prompt.",
                paper="[SOS] carries no meaning (F3); masked, alignment stays (arXiv 2605.09313)",
                quantity=f"{title} with [SOS] masked, over that of the untouched prompt",
                found=bootstrap(np.stack([of[NO_SOS], of[WHOLE]], 1), ratio_of_means, within=ANY),
                rule=RULE_ALIGNED,
                if_not="What [SOS] had goes to the words and the padding, which a model may not have learned to bear: "
                "a model that was trained without [SOS] would tell.",
            ),
            claim(
                "Yet the picture is another one, more so than without a token of padding.",
                paper="not asked",
                quantity="L1 to the untouched image: [SOS] masked, over the last token masked",
                found=bootstrap(np.stack([moved[NO_SOS], moved[NO_PAD]], 1), ratio_of_means, within=POSITIVE),
                rule=RULE_CHANGES,
                if_not="[SOS] may be one token among many to this model, which gives it no more attention (F3).",
            ),
        ),
        table=crossed(
            {"condition": list(images)},
            subject.about(prompts),
            alignment=np.stack([of[name] for name in images]),
            l1=np.stack([moved.get(name, np.zeros(len(prompts))) for name in images]),
        ),
        summaries=(
            by_alignment(subject, scores),
            Summary(
                ("", "L1 to the untouched image"),
                tuple((name, cell(values, within=SHARE, digits=4)) for name, values in moved.items()),
            ),
            by_kind({f"L1, {name}": values for name, values in moved.items()}, prompts, within=SHARE),
        ),
        charts=(chart(subject, scores, "Alignment with the prompt, by what was masked."),),
        pictures=(picture("masked", images, [p.text for p in prompts], "By the token that was masked."),),
        method=f"{len(prompts)} prompts, one seed each. The token is left out of the embeddings of both branches, in "
        f"all steps: cross-attention is over the other {length - 1}. {scored(subject)}",
        evaluations=3 * subject.cost(),
    )


def _only(embeddings: Embeddings, places: range) -> Embeddings:
    """The same with these tokens alone, in both branches."""
    kept = slice(places.start, places.stop)
    text, null = (None if one is None else one[:, kept] for one in (embeddings.text, embeddings.null))
    assert torch.is_tensor(text)
    return replace(embeddings, text=text, null=null)


STUDY: Final = Study(
    name="c3",
    title="[SOS] masked",
    question="What changes if nothing may attend to [SOS]?",
    paper="Not asked; it says that [SOS] carries no meaning though it gets the attention.",
    needs="prompts",
    count=12,
    cost=38,
    judged=True,
    run=run,
)
