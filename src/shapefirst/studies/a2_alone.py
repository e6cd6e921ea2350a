"""A2: what does one class of tokens say by itself? [SOS] alone, words alone, [EOS] alone; zeros everywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from shapefirst.findings.finding import Claim, Finding, Study, claim
from shapefirst.measure.intervals import Rule, bootstrap
from shapefirst.prompts import Prompt
from shapefirst.prompts.edits import Places, keep_only
from shapefirst.studies.conditions import (
    CHANCE,
    Scores,
    by_alignment,
    by_kind,
    chart,
    picture,
    score_conditions,
    scored,
    tidy,
    unrelated,
)
from shapefirst.studies.subject import Subject
from shapefirst.studies.switching import padded, pooled_out, seen_eos

#: [EOS] alone gives more of the prompt than [SOS] alone.
RULE_EOS: Final = Rule("above", 0.0)
#: [EOS] alone gives the prompt rather than another one of the set.
RULE_CHANCE: Final = Rule("above", 0.0)
#: [SOS] alone keeps less than a quarter of the untouched prompt's alignment above chance.
RULE_SOS: Final = Rule("below", 0.0)
SHARE: Final = 0.25

SOS, EOS, WORDS, UNTOUCHED = "[SOS] alone", "[EOS] alone", "words alone", "untouched"
PROMPT = "the prompt"


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Images of prompts of which one class of tokens is left, scored against the prompt and an unrelated one."""
    whole, at, seeds = subject.encode(prompts), subject.positions(prompts), subject.seeds(len(prompts))
    kept: dict[str, Places] = {SOS: [p.sos for p in at]} if all(p.sos for p in at) else {}
    kept |= {EOS: seen_eos(whole, at), WORDS: [p.sem for p in at]}
    subject.meter.expect(subject.cost() * (len(kept) + 1) * len(prompts))

    images = {}
    for name, places in kept.items():
        alone = replace(whole, text=keep_only(whole.text, places))
        images[name] = subject.sample(alone if name == EOS else pooled_out(alone), seeds)
    images[UNTOUCHED] = subject.sample(whole, seeds)
    scores = score_conditions(subject, images, {CHANCE: [prompts[i] for i in unrelated(prompts)], PROMPT: prompts})
    return Finding(
        claims=_claims(subject, scores, SOS in kept),
        table=tidy(subject, scores),
        summaries=(
            by_alignment(subject, scores, "Chance is an unrelated prompt of the set."),
            by_kind(
                {name: scores.lead(subject.primary, name) for name in scores.conditions},
                prompts,
                f"{subject.alignments[subject.primary].title} with the prompt, less that with an unrelated one.",
                within=subject.range_of(subject.primary).difference,
            ),
        ),
        charts=(
            chart(subject, scores, "Alignment with the prompt and, for chance, with an unrelated prompt of the set."),
        ),
        pictures=(picture("alone", images, [p.text for p in prompts], "One class of tokens kept, zeros elsewhere."),),
        method=f"{len(prompts)} prompts, one image each, all conditions of a prompt from one seed. Embeddings at all "
        "other positions are zeros, which a denoiser still attends to; [EOS] includes the padding where the denoiser "
        f"sees it. {padded(subject)} "
        "Chance is the same image's alignment with another prompt of the set that shares no word with its "
        "own, if there is one. Where the text encoder is causal, the state of [SOS] is the same for all prompts: that "
        f"it says nothing of them is then no finding but the model's design. {scored(subject)}"
        + (
            ""
            if SOS in kept
            else " This text encoder puts no [SOS] before the words: what is said about [SOS] alone does not apply. "
            "The mask of the padding stays the prompt's."
        ),
        evaluations=subject.cost() * len(images),
    )


def _claims(subject: Subject, scores: Scores, has_sos: bool) -> tuple[Claim, ...]:
    primary, title = subject.primary, subject.alignments[subject.primary].title
    own = subject.range_of(primary)
    gives = claim(
        "[EOS] alone gives the prompt.",
        paper="[EOS] alone gives the prompt",
        quantity=f"{title}, [EOS] alone: with the prompt minus with an unrelated one",
        found=bootstrap(scores.lead(primary, EOS), within=own.difference),
        rule=RULE_CHANCE,
        if_not="Zeros at the other positions may be further from anything the denoiser was trained on than its prompts "
        "are from each other; A3's noise in their place would tell.",
    )
    if not has_sos:
        return (gives,)
    more = claim(
        "[EOS] alone gives more of the prompt than [SOS] alone.",
        paper="[SOS] alone: unrelated images; [EOS] alone: the prompt",
        quantity=f"{title} with the prompt: [EOS] alone minus [SOS] alone",
        found=bootstrap(scores.of(primary, EOS, PROMPT) - scores.of(primary, SOS, PROMPT), within=own.difference),
        rule=RULE_EOS,
        if_not="If [EOS] alone does not give the prompt either, zeros elsewhere may have broken both; "
        "A3's noise in their place would tell.",
    )
    nothing = claim(
        f"[SOS] alone gives unrelated images: it keeps less than {SHARE:.0%} of the prompt's alignment above chance.",
        paper="[SOS] alone: unrelated images",
        quantity=f"{title} above chance: [SOS] alone minus {SHARE:g} of the untouched prompt",
        found=bootstrap(
            scores.lead(primary, SOS) - SHARE * scores.lead(primary, UNTOUCHED), within=own.difference.difference
        ),
        rule=RULE_SOS,
        if_not="[SOS] cannot know the prompt where the text encoder is causal; a wide interval comes from few "
        "prompts or from a model that hardly follows its prompts, which more prompts would tell apart.",
    )
    return more, gives, nothing


STUDY: Final = Study(
    name="a2",
    title="[SOS] alone, [EOS] alone",
    question="What does the model draw if only the [SOS], only the words or only the [EOS] carry anything?",
    paper="[SOS] alone gives unrelated images, [EOS] alone gives the prompt.",
    needs="prompts",
    count=8,
    cost=32,
    judged=True,
    run=run,
)
