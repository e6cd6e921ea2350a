"""A5: do keys change the maps? A's maps against those with B's [EOS] keys, and against uniform attention.

KL(plain || substituted)   and   KL(plain || uniform),   both on the same x_t, at each step
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import torch

from shapefirst.attention.recording import kl_divergence, record, substitute
from shapefirst.findings.finding import Chart, Finding, Study, Summary, claim
from shapefirst.findings.tables import crossed, shown
from shapefirst.measure.intervals import POSITIVE, Rule, bootstrap, measured, ratio_of_means
from shapefirst.prompts import Pair
from shapefirst.prompts.tokens import Positions
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.maps import SIZE
from shapefirst.studies.subject import Subject, part
from shapefirst.studies.switching import Switched, encode_pairs, padded

#: The substituted keys move the maps less than making them uniform would.
RULE: Final = Rule("below", 1.0)
#: What a map is a distribution over: tokens, as its softmax makes it, or pixels, for each token by itself.
OVER: Final[Mapping[str, str]] = {
    "tokens": "over tokens",
    "words": "over pixels, words' maps",
    "eos": "over pixels, [EOS] maps",
}
#: Weights below this count as this much: one that underflowed to 0 would make a divergence infinite.
LEAST = 1e-12


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """Runs of the sources; at each step the text branch once more, on the same latents, with the targets' keys."""
    sides = encode_pairs(subject, pairs)
    subject.meter.expect(3 * subject.cost() // 2 * len(pairs))
    seeds, other = sides.seeds, sides.switched().text
    alone = replace(subject, guidance_scale=1.0)  # a fork of it evaluates the text branch by itself
    kl = {name: np.zeros((2, len(pairs), subject.steps)) for name in OVER}
    with record(subject.pipe, size=SIZE) as recorded:
        for here in subject.batches(len(pairs)):
            mine, at = part(sides.source, here), sides.at_source[here]
            for step in subject.steps_of(mine, seeds[here]):
                plain = recorded.text.pop(step.index)
                with substitute(subject.pipe, other[here], [p.paper_eos for p in at], keys=True, values=False):
                    next(alone.steps_of(mine, seeds[here], start=step))
                changed = recorded.text.pop(step.index)
                for name, value in divergences(plain, changed, at, mine.text_mask).items():
                    kl[name][:, here, step.index] = value
    return key_finding(sides, kl)


def divergences(
    plain: torch.Tensor, changed: torch.Tensor, at: Sequence[Positions], mask: torch.Tensor | None = None
) -> dict[str, np.ndarray]:
    """KL of the plain maps to the changed ones and to uniform ones, in nats.

    Args:
        plain: (B, L, h, w).
        changed: The same shape.
        at: Where the tokens of B prompts stand.
        mask: (B, L), the tokens that can be attended to (T5); by default all. The uniform map is uniform over these.

    Returns:
        One of ``OVER`` -> (2, B): to the changed maps, to the uniform map. nan for a prompt without such tokens.
    """
    visible = torch.ones(plain.shape[:2]) if mask is None else mask.cpu().float()
    plain, changed, uniform = (
        x.clamp_min(LEAST) * visible[..., None, None] for x in (plain, changed, torch.ones_like(plain))
    )
    pixels = [kl_divergence(plain, q, over="pixels").numpy() for q in (changed, uniform)]
    found = {"tokens": np.stack([kl_divergence(plain, q).numpy() for q in (changed, uniform)])}
    for name, places in (("words", [p.sem for p in at]), ("eos", [p.paper_eos for p in at])):
        seen = [[i for i in row if visible[b, i]] for b, row in enumerate(places)]
        means = [[x[b, row].mean() if row else np.nan for b, row in enumerate(seen)] for x in pixels]
        found[name] = np.array(means)
    return found


def key_finding(sides: Switched, kl: Mapping[str, np.ndarray]) -> Finding:
    """What the divergences say.

    Args:
        sides: The n pairs.
        kl: One of ``OVER`` -> (2, n, N): to the maps with substituted keys, to the uniform map.
    """
    subject, per_pair = sides.subject, {name: values.mean(2).T for name, values in kl.items()}
    substituted, uniform = np.stack(list(kl.values()), axis=2)
    return Finding(
        claims=(
            claim(
                "With the keys of B's [EOS], A's attention maps stay closer to what they were than to uniform ones, on "
                "average over the steps.",
                paper="consistently lower than the divergence to a uniform map",
                quantity="KL to the maps with substituted keys over KL to the uniform map, over tokens",
                found=bootstrap(per_pair["tokens"], ratio_of_means, within=POSITIVE),
                rule=RULE,
                if_not="Maps that are nearly uniform to begin with (see F3) have little room below that measure; A4 on "
                "the same model tells whether the keys also change the image.",
            ),
        ),
        table=crossed(
            sides.about(),
            {"over": list(OVER.values())},
            {"step": range(subject.steps)},
            kl_substituted=substituted,
            kl_uniform=uniform,
        ),
        summaries=(
            _by_measure(kl, per_pair),
            sides.by_kind(
                {"KL to substituted keys, in % of that to uniform": 100 * np.divide(*per_pair["tokens"].T)},
                within=POSITIVE,
            ),
        ),
        charts=(_chart(subject, kl),),
        method=f"{sides.described}; the source's run of {subject.steps} steps. "
        "At each step the text branch is evaluated once more on the same latents, with the keys of the [EOS] and all "
        "padding positions from the target (the n-th for the n-th), the values left as they are. Two separate runs "
        "would drift apart, and the maps would differ for that reason too. Maps are averaged over heads and layers "
        "first; the divergence is taken from the plain map to the other one and averaged over pixels (each pixel's "
        "weights over tokens, as the softmax makes them: the claim) or over tokens (each token's weights over pixels). "
        "Which of them the paper means its public text does not say. Where padding is masked, uniform means uniform "
        f"over what is not. {padded(subject)} Intervals are bootstrapped over pairs.",
        evaluations=3 * subject.cost() // 2,
    )


def _by_measure(kl: Mapping[str, np.ndarray], per_pair: Mapping[str, np.ndarray]) -> Summary:
    rows = []
    for name, title in OVER.items():
        known = measured(per_pair[name])
        if len(known) < 2:
            continue
        lower = kl[name].mean(1) if len(known) == len(per_pair[name]) else np.nanmean(kl[name], 1)
        rows.append(
            (
                title,
                shown(bootstrap(known[:, 0], within=POSITIVE), 3),
                shown(bootstrap(known[:, 1], within=POSITIVE), 3),
                shown(bootstrap(known, ratio_of_means, within=POSITIVE), 3),
                f"{int((lower[0] < lower[1]).sum())} of {lower.shape[1]}",
            )
        )
    return Summary(
        ("distribution", "KL to substituted keys (nats)", "KL to uniform (nats)", "ratio", "steps where lower"),
        tuple(rows),
    )


def _chart(subject: Subject, kl: Mapping[str, np.ndarray]) -> Chart:
    known = {name: values for name, values in kl.items() if not np.isnan(values).any()}
    labels = {"xlabel": "steps done (%)", "ylabel": "KL divergence (nats)", "ylim": (0, None)}
    n = kl["tokens"].shape[1]
    return curves(
        "divergence",
        [
            Panel(subject.percent(), {"substituted keys": changed, "uniform": uniform}, {"title": OVER[name], **labels})
            for name, (changed, uniform) in known.items()
        ],
        f"Divergence from A's plain maps to those with the keys of B's [EOS], and to uniform ones, on the same "
        f"latents; mean and 95% band, n = {n} pairs.",
        " ".join(
            f"{OVER[name][0].upper()}{OVER[name][1:]}: the mean divergence is {changed.mean():.3f} nats for "
            f"substituted keys and {uniform.mean():.3f} for the uniform map."
            for name, (changed, uniform) in known.items()
        ),
        width=2.8 * len(known) + 0.6,
        height=3.0,
    )


STUDY: Final = Study(
    name="a5",
    title="Do keys change the maps",
    question="How far do the keys of another prompt's [EOS] move the attention maps?",
    paper="Less than making the maps uniform would, in all steps.",
    needs="pairs",
    count=12,
    cost=30,
    run=run,
)
