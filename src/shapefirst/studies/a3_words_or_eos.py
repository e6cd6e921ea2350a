"""A3: words or [EOS]? One of the two is replaced by zeros or by noise, and the other has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from shapefirst.findings.finding import Finding, Study, claim
from shapefirst.measure.intervals import Rule, bootstrap, hardest
from shapefirst.prompts import Prompt
from shapefirst.prompts.edits import blank, noise
from shapefirst.studies.conditions import by_alignment, by_kind, chart, picture, score_conditions, scored, tidy
from shapefirst.studies.subject import Subject
from shapefirst.studies.switching import padded, pooled_out, seen_eos

#: The untouched prompt is better than each of the four others.
RULE_BOTH: Final = Rule("above", 0.0)
#: Without its words a prompt is better than without its [EOS].
RULE_EOS: Final = Rule("above", 0.0)

WORDS_ZERO, WORDS_NOISE = "words zero", "words noise"
EOS_ZERO, EOS_NOISE = "[EOS] zero", "[EOS] noise"
UNTOUCHED, PROMPT = "untouched", "the prompt"
#: Added to an image's seed for its prompt's noise: with the same seed it would repeat the numbers of the first latents.
APART: Final = 1_000_003


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Images of the four damaged prompts and of the untouched one, scored against the prompt."""
    subject.meter.expect(5 * subject.cost() * len(prompts))
    whole, at, seeds = subject.encode(prompts), subject.positions(prompts), subject.seeds(len(prompts))
    words, eos = [p.sem for p in at], seen_eos(whole, at)
    other_seeds = [seed + APART for seed in seeds]
    texts = {
        UNTOUCHED: whole.text,
        WORDS_ZERO: blank(whole.text, words),
        WORDS_NOISE: noise(whole.text, words, other_seeds),
        EOS_ZERO: blank(whole.text, eos),
        EOS_NOISE: noise(whole.text, eos, other_seeds),
    }
    images = {}
    for name, text in texts.items():
        damaged = replace(whole, text=text)
        images[name] = subject.sample(pooled_out(damaged) if name in (EOS_ZERO, EOS_NOISE) else damaged, seeds)
    scores = score_conditions(subject, images, {PROMPT: prompts})

    title, own = subject.alignments[subject.primary].title, subject.range_of(subject.primary)
    of = {name: scores.of(subject.primary, name, PROMPT) for name in texts}
    lead = (of[WORDS_ZERO] + of[WORDS_NOISE] - of[EOS_ZERO] - of[EOS_NOISE]) / 2
    return Finding(
        claims=(
            claim(
                "Words and [EOS] together are best.",
                paper="both together are best",
                quantity=f"{title}: untouched minus the best of the four others",
                found=hardest(
                    [of[UNTOUCHED] - of[name] for name in texts if name != UNTOUCHED], RULE_BOTH, within=own.difference
                ),
                rule=RULE_BOTH,
                if_not="One of the two may say all that this model understands; longer prompts, whose words say more "
                "than an [EOS] can hold, would tell.",
            ),
            claim(
                "[EOS] alone beats the words alone.",
                paper="[EOS] alone beats words alone",
                quantity=f"{title}: words replaced minus [EOS] replaced, mean of zeros and noise",
                found=bootstrap(lead, within=own.difference),
                rule=RULE_EOS,
                if_not="There are many more [EOS] than words, so that replacing them disturbs more of what the "
                "denoiser sees; F4, which puts another prompt's [EOS] in their place, disturbs less.",
            ),
        ),
        table=tidy(subject, scores),
        summaries=(
            by_alignment(subject, scores),
            by_kind(
                of | {"[EOS] alone minus words alone": lead},
                prompts,
                f"{title} with the prompt.",
                within=dict.fromkeys(of, own) | {"[EOS] alone minus words alone": own.difference},
            ),
        ),
        charts=(chart(subject, scores, "Alignment with the prompt, by what was replaced in its embeddings."),),
        pictures=(picture("replaced", images, [p.text for p in prompts], "By what was replaced, and by what."),),
        method=f"{len(prompts)} prompts, one image each, all conditions of a prompt from one seed. The embeddings at "
        "the words or at the [EOS] (with all padding that the denoiser sees) are replaced by zeros, or by Gaussian "
        "noise of the mean and variance of what stood there, two numbers for each prompt. [SOS] stays. The untouched "
        f"prompt has to lead each of the four others. {padded(subject)} {scored(subject)}",
        evaluations=5 * subject.cost(),
    )


STUDY: Final = Study(
    name="a3",
    title="Words or [EOS]",
    question="How much of the prompt is left in the image without its words, and without its [EOS]?",
    paper="Both together are best; [EOS] alone beats the words alone.",
    needs="prompts",
    count=8,
    cost=40,
    judged=True,
    run=run,
)
