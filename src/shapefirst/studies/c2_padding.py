"""C2: what makes [EOS] decide? The model beside one whose padding was never trained to carry the prompt.

The paper's [EOS] are mostly padding (F4). Toker et al. 2025 (arXiv 2501.06751): padding carries meaning where the text
encoder was trained with the model, and none where it was frozen. Their control is clean padding: the empty prompt's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from PIL import Image

from shapefirst.findings.finding import Claim, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, crossed, stacked
from shapefirst.measure.intervals import ANY, Rule, bootstrap, ratio_of_means
from shapefirst.prompts import Pair
from shapefirst.prompts.edits import mask_of
from shapefirst.studies.conditions import Scores, chart, score_conditions
from shapefirst.studies.subject import Subject
from shapefirst.studies.switching import SOURCE, TARGET, Switched, encode_pairs, padded

#: The switched [EOS] pull the model's images further to their owner than the control's.
RULE_CAUSE: Final = Rule("above", 0.0)
#: Clean padding leaves the control's images their prompt: at least 0.9 of its alignment.
RULE_EMPTY: Final = Rule("above", 0.9)
#: And takes it from the model's.
RULE_CARRIES: Final = Rule("below", 0.9)

UNTOUCHED, CLEAN_PADS, CLEAN_WORDS, SWITCHED = "untouched", "clean padding", "clean words", "[EOS] of B"


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """Four conditions with both models, scored against both prompts."""
    control = subject.needed_control
    subject.meter.expect(2 * 4 * subject.cost() * len(pairs))
    name = subject.scored_by("judge")
    sides = {which: encode_pairs(one, pairs) for which, one in (("model", subject), ("control", control))}
    images = {which: _draw(of) for which, of in sides.items()}
    prompts = {SOURCE: [pair.source for pair in pairs], TARGET: [pair.target for pair in pairs]}
    found = {which: score_conditions(subject, made, prompts) for which, made in images.items()}
    leads = {which: of.lead(name, SWITCHED) for which, of in found.items()}
    title = subject.alignments[name].title
    together = _together(found, name)
    return Finding(
        claims=(
            claim(
                "That the [EOS] decide comes from training padding to carry the prompt.",
                paper="not asked; padding of a frozen encoder carries nothing (Toker et al. 2025)",
                quantity=f"{title} of A with the [EOS] of B, target minus source: the model's minus the control's",
                found=bootstrap(leads["model"] - leads["control"], within=subject.range_of(name).difference.difference),
                rule=RULE_CAUSE,
                if_not="The first [EOS] alone may say the prompt, as it does in every CLIP: A1, on both, would tell.",
            ),
            _ratio(found["control"], name, title, "control", RULE_EMPTY),
            _ratio(found["model"], name, title, "model", RULE_CARRIES),
        ),
        table=stacked(
            [
                crossed(
                    {"model": [which]},
                    {"condition": of.conditions},
                    {"side": list(of.sides)},
                    sides[which].about(),
                    score=of.values[name].transpose(1, 2, 0)[None],
                )
                for which, of in found.items()
            ]
        ),
        summaries=(
            Summary(
                ("", "with source A", "with target B", "target minus source"),
                tuple(
                    (
                        f"{which}: {condition}",
                        *(cell(of.of(name, condition, side), within=subject.range_of(name)) for side in of.sides),
                        cell(of.lead(name, condition), within=subject.range_of(name).difference),
                    )
                    for which, of in found.items()
                    for condition in of.conditions
                ),
                f"{title}. Model: {subject.name}. Control: {control.name}.",
            ),
            sides["model"].by_kind(
                {f"target minus source, {which}": lead for which, lead in leads.items()},
                within=subject.range_of(name).difference,
            ),
        ),
        charts=(
            chart(replace(subject, alignments={name: subject.alignments[name]}), together, "By what was changed."),
        ),
        pictures=tuple(
            sides[which].picture(which, made, f"The {which}, by what was changed.") for which, made in images.items()
        ),
        method=f"{len(pairs)} pairs, one seed each, both models alike. Clean padding: what stands behind the first "
        "[EOS] is the empty prompt's at the same places; clean words: so are the words and the first [EOS]; [EOS] of "
        "B: the end token and all padding are the target's, as in F4. Scored by what has seen pictures only where it "
        "knows the words, as the two models read different text encoders. The control was trained by `shapefirst "
        "train-pocket --model pocket-plain-padding`: no loss of its text encoder's reaches a position after the first "
        f"[EOS]. {padded(subject)}",
        evaluations=8 * subject.cost(),
    )


def _draw(sides: Switched) -> dict[str, list[Image.Image]]:
    """Condition -> images of the sources."""
    subject, source, length = sides.subject, sides.source, sides.source.text.shape[1]
    empty = subject.encode([""]).text

    def clean(places: Sequence[Sequence[int]]) -> list[Image.Image]:
        mask = mask_of(places, length).to(source.text.device)
        return subject.sample(replace(source, text=torch.where(mask, empty, source.text)), sides.seeds)

    return {
        UNTOUCHED: subject.sample(source, sides.seeds),
        CLEAN_PADS: clean([at.padding for at in sides.at_source]),
        CLEAN_WORDS: clean([at.sem + at.eos for at in sides.at_source]),
        SWITCHED: subject.sample(sides.switched(), sides.seeds),
    }


def _ratio(found: Scores, name: str, title: str, which: str, rule: Rule) -> Claim:
    kept = np.stack([found.of(name, condition, SOURCE) for condition in (CLEAN_PADS, UNTOUCHED)], 1)
    carries = rule is RULE_CARRIES
    return claim(
        "Padding that was trained to carry the prompt does: clean padding takes it from the image."
        if carries
        else "Padding that was not trained to carry the prompt carries nothing: clean padding leaves the image.",
        paper="not asked",
        quantity=f"the {which}'s {title} with clean padding, over that of the untouched prompt",
        found=bootstrap(kept, ratio_of_means, within=ANY),
        rule=rule,
        if_not="The words may say enough by themselves."
        if carries
        else "Padding reads the prompt in every encoder, and a denoiser may learn to read it there untaught.",
    )


def _together(found: dict[str, Scores], alignment: str) -> Scores:
    """Both models' conditions as one set, for a chart of one score."""
    first = next(iter(found.values()))
    names = tuple(f"{which}: {condition}" for which, of in found.items() for condition in of.conditions)
    values = np.concatenate([of.values[alignment] for of in found.values()], axis=1)
    return Scores(names, first.sides, {alignment: values})


STUDY: Final = Study(
    name="c2",
    title="The cause of the deciding [EOS]",
    question="Do [EOS] and padding still decide where padding was never trained to carry the prompt?",
    paper="Not asked. By Toker et al. (2025) padding carries meaning only where the text encoder was trained with it.",
    needs="pairs",
    count=64,
    cost=520,
    judged=True,
    controlled=True,
    run=run,
)
