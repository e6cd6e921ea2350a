"""F3: who gets the attention? The share of [SOS], of the words and of [EOS] at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from shapefirst.attention.recording import class_weights, record
from shapefirst.findings.finding import Chart, Finding, Study, Summary, claim
from shapefirst.findings.tables import crossed, shown
from shapefirst.measure.intervals import SHARE, Rule, bootstrap
from shapefirst.prompts import Prompt
from shapefirst.studies.conditions import by_kind
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.maps import EARLY, SIZE, step_at
from shapefirst.studies.subject import Subject, part
from shapefirst.studies.switching import padded

#: [SOS] gets more than nine tenths of the attention, on average over pixels and steps.
RULE: Final = Rule("above", 0.9)
#: The classes of tokens, as `class_weights` names them, and as people do.
CLASSES: Final[Mapping[str, str]] = {"sos": "[SOS]", "sem": "words", "eos": "[EOS] and padding"}


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Runs with the weight of each class of tokens recorded; what they draw is not needed."""
    at = subject.positions(prompts, sos=True)
    subject.meter.expect(subject.cost() * len(prompts))
    embeddings, seeds = subject.encode(prompts), subject.seeds(len(prompts))
    weights = {name: np.zeros((len(prompts), subject.steps)) for name in CLASSES}
    with record(subject.pipe, size=SIZE) as recorded:
        for here in subject.batches(len(prompts)):
            for step in subject.steps_of(part(embeddings, here), seeds[here]):
                for name, share in class_weights(recorded.text.pop(step.index), at[here]).items():
                    weights[name][here, step.index] = share.numpy()
    numbers = np.array([(len(p.sos), len(p.sem), len(p.paper_eos)) for p in at])
    tokens = dict(zip(CLASSES, numbers.T, strict=True))
    return attention_finding(subject, prompts, weights, tokens)


def attention_finding(
    subject: Subject, prompts: Sequence[Prompt], weights: Mapping[str, np.ndarray], tokens: Mapping[str, np.ndarray]
) -> Finding:
    """What the weights say.

    Args:
        subject: What was sampled.
        prompts: n.
        weights: Class -> (n, N), its share of the attention in each step; the three add up to 1.
        tokens: Class -> (n,), how many tokens it has.
    """
    shares = np.stack([weights[name] for name in CLASSES], axis=1)
    numbers = np.stack([tokens[name] for name in CLASSES], axis=1)[..., None]
    return Finding(
        claims=(
            claim(
                "Over the steps, [SOS] gets more than 0.9 of the attention on average, although it carries no meaning.",
                paper="above 0.9 throughout",
                quantity="share of the cross-attention, mean over pixels and steps",
                found=bootstrap(weights["sos"].mean(1), within=SHARE),
                rule=RULE,
                if_not="That [SOS] takes what attention is left over need not come with every text encoder: one "
                "trained on short captions alone may leave it to [EOS]. `shapefirst study f3 --model sd15` measures "
                "the paper's own model in the same way.",
            ),
        ),
        table=crossed(
            subject.about(prompts),
            {"tokens_of": list(CLASSES.values())},
            {"step": range(subject.steps)},
            tokens=numbers,
            weight=shares,
            weight_per_token=shares / np.maximum(numbers, 1),
        ),
        summaries=(
            _by_class(subject, weights, tokens),
            by_kind(
                {f"share of {title}": weights[name].mean(1) for name, title in CLASSES.items()}, prompts, within=SHARE
            ),
        ),
        charts=(_chart(subject, weights),),
        method=f"One run for each of {len(prompts)} prompts, {subject.steps} steps. The text branch's cross-attention "
        "weights are averaged over heads, layers and pixels in each step, and summed over the tokens of a class: "
        f"[SOS], the words, and [EOS] with its padding, as the paper counts it. {padded(subject)} "
        "The three shares add up to 1. As [SOS] is one token and [EOS] are many, that of one token is given too. "
        "Intervals are bootstrapped over prompts.",
        evaluations=subject.cost(),
    )


def _by_class(subject: Subject, weights: Mapping[str, np.ndarray], tokens: Mapping[str, np.ndarray]) -> Summary:
    early = step_at(subject.steps, EARLY)
    rows = []
    for name, title in CLASSES.items():
        w = weights[name]
        rows.append(
            (
                title,
                f"{tokens[name].mean():.1f}",
                shown(bootstrap(w.mean(1), within=SHARE), 3),
                shown(bootstrap(w.mean(1) / np.maximum(tokens[name], 1), within=SHARE), 4),
                *(f"{w[:, step].mean():.3f}" for step in (0, early, -1)),
            )
        )
    heads = ("how many", "share of the attention", "share per token", "first step", f"at {EARLY:.0%}", "last step")
    return Summary(("tokens", *heads), tuple(rows))


def _chart(subject: Subject, weights: Mapping[str, np.ndarray]) -> Chart:
    drawn = {title: weights[name] for name, title in CLASSES.items()}
    labels = {"xlabel": "steps done (%)", "ylabel": "share of the attention (0 to 1)", "ylim": (0, 1.02)}
    first, last = ({name: w[:, step].mean() for name, w in weights.items()} for step in (0, -1))
    return curves(
        "weights",
        [Panel(subject.percent(), drawn, labels, level=RULE.threshold)],
        f"Share of the attention by class of tokens; mean and 95% band, n = {len(weights['sos'])} prompts. Dotted: the "
        "paper's 0.9.",
        "From the first to the last step the share goes "
        + ", ".join(f"from {first[name]:.2f} to {last[name]:.2f} for {title}" for name, title in CLASSES.items())
        + ".",
        height=3.2,
    )


STUDY: Final = Study(
    name="f3",
    title="Who gets the attention",
    question="How is the cross-attention shared between [SOS], the words and [EOS]?",
    paper="[SOS] gets above 0.9 in all steps, although it carries no meaning.",
    needs="prompts",
    count=16,
    cost=26,
    run=run,
)
