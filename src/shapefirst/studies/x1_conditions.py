"""X1: does it hold elsewhere? What the paper does not ask.

F4 and F6 again for other guidance scales and numbers of steps, for colours against textures, and for the first against
the second object of a prompt.

    F6 = L1(text in [0, N/2), text in all steps) / L1(text in no step, text in all steps)
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from shapefirst.drawing import charts
from shapefirst.findings.finding import Chart, Claim, DoesNotApply, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, crossed, shown, stacked
from shapefirst.measure.intervals import ANY, LEAST, POSITIVE, Range, Rule, bootstrap, hardest, ratio_of_means
from shapefirst.prompts import Pair, Prompt
from shapefirst.studies.conditions import CHANCE, Scores, dots, picture, scored, tidy
from shapefirst.studies.dropping import check_guidance
from shapefirst.studies.settings import (
    DROPPED,
    FIRST,
    FULL,
    SECOND,
    GuidanceSetting,
    distances,
    evaluations_of_settings,
    settings,
    two_objects,
    under,
    with_two_objects,
)
from shapefirst.studies.subject import Subject
from shapefirst.studies.switching import Switched, encode_pairs, padded

#: F4 in every setting: target minus source, in each of them.
RULE_SWITCH: Final = Rule("above", 0.0)
#: F6 in every setting: text in the first half of the steps takes the image more than half of the way, so that even
#: the largest remaining distance is below half of that without text.
RULE_DROP: Final = Rule("below", 0.5)
#: F4 for every kind of attribute: target minus source, for each of them.
RULE_KINDS: Final = Rule("above", 0.0)
#: Dropping the text half-way costs the second object more than the first, of what the prompt gives above chance.
RULE_ORDER: Final = Rule("above", 0.0, LEAST)

PAPER: Final = "not asked"


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """All settings with single prompts, then the prompts of two objects in the subject's own setting."""
    if subject.steps < 2:
        raise DoesNotApply("A run of 1 step has no first half: take 2 steps or more.")
    check_guidance(subject)
    done, apart = evaluations_of_settings(subject)
    subject.meter.expect(done * len(pairs))
    sides, every = encode_pairs(subject, pairs), settings(subject)

    switched = {str(s): under(subject, s).sample(sides.switched(), sides.seeds) for s in every}
    scores = sides.measure(switched)
    leads = np.stack([scores.lead(subject.primary, str(s)) for s in every], axis=1)
    l1s = distances(subject, every, sides.source, sides.seeds)
    both, objects = with_two_objects(subject, pairs)
    return Finding(
        claims=_claims(subject, leads, l1s, sides.targets, objects),
        table=_table(sides, every, scores, l1s, objects),
        summaries=(
            _by_setting(every, leads, l1s, subject.range_of(subject.primary).difference),
            sides.by_kind(
                {f"target minus source, {s}": leads[:, i] for i, s in enumerate(every)}
                | {"mean of all settings": leads.mean(axis=1)},
                f"{subject.alignments[subject.primary].title}.",
                within=subject.range_of(subject.primary).difference,
            ),
            _by_object(subject, objects),
        ),
        charts=(_chart(subject, every, leads, l1s),),
        pictures=(
            sides.picture("settings", switched, "The switched prompts in every setting."),
            picture("two-objects", both, [two_objects(pair).text for pair in pairs], "Prompts of two objects."),
        ),
        method=f"{sides.described}, one seed each, the same in every setting. F4: the source with the target's [EOS], "
        f"scored against both. {padded(subject)} F6: the source with the text in the first half of the steps only, its "
        "L1 distance to the fully guided image relative to that of the image without any text; ratios are of means "
        "over pairs. Two objects: 'A and B' of each pair, with the text in all or in the first half of the steps, "
        "scored against A alone and against B alone, and for chance against an unrelated pair's A. A claim about "
        "several settings or kinds replicates if the 95% interval of each does, and does not if some one's is on the "
        "other side, at a level that allows for their number. "
        + scored(subject)
        + (
            " The judge's scores of two objects are means over the two places of a picture: an object that it surely "
            "sees once has one half."
            if "judge" in subject.alignments
            else ""
        ),
        evaluations=done,
        evaluations_apart=apart,
    )


def _losses(objects: Scores, alignment: str) -> dict[str, np.ndarray]:
    """Object -> (n,), how much of its alignment goes with the text."""
    return {side: objects.of(alignment, FULL, side) - objects.of(alignment, DROPPED, side) for side in (FIRST, SECOND)}


def _claims(
    subject: Subject, leads: np.ndarray, l1s: np.ndarray, targets: Sequence[Prompt], objects: Scores
) -> tuple[Claim, ...]:
    title = subject.alignments[subject.primary].title
    claims = [
        claim(
            "The [EOS] wins at every guidance scale and number of steps.",
            paper=PAPER,
            quantity=f"{title}: target minus source, the smallest of {leads.shape[1]} settings",
            found=hardest(list(leads.T), RULE_SWITCH, within=subject.range_of(subject.primary).difference),
            rule=RULE_SWITCH,
            if_not="Weak guidance hardly follows any prompt; the plain prompts' alignment in the same setting would "
            "tell whether it is the [EOS] that fails there.",
        ),
        claim(
            "Text in the first half of the steps takes the image more than half of the way, at every guidance scale "
            "and number of steps.",
            paper=PAPER,
            quantity=f"L1 to the fully guided image relative to no text, the largest of {leads.shape[1]} settings",
            found=hardest(list(l1s.transpose(1, 0, 2)), RULE_DROP, ratio_of_means, within=POSITIVE),
            rule=RULE_DROP,
            if_not="Stronger guidance may go on shifting contrast and colour to the end; F6 with keep='text' in the "
            "same setting would tell that from content.",
        ),
    ]
    kinds = np.array([prompt.source for prompt in targets])
    leads_of = {str(kind): leads[kinds == kind].mean(axis=1) for kind in np.unique(kinds)}
    if len(leads_of) > 1 and min(map(len, leads_of.values())) > 1:
        claims.append(
            claim(
                f"The [EOS] wins for each kind of attribute: {', '.join(leads_of)}.",
                paper=PAPER,
                quantity=f"{title}: target minus source, mean of all settings, the smallest of {len(leads_of)} kinds",
                found=hardest(list(leads_of.values()), RULE_KINDS, within=subject.range_of(subject.primary).difference),
                rule=RULE_KINDS,
                if_not="The model may not know one kind: its alignment on plain prompts of that kind would tell.",
            )
        )
    losses = _losses(objects, subject.primary)
    first, second, chance = (objects.of(subject.primary, FULL, side) for side in (FIRST, SECOND, CHANCE))
    above = (first + second) / 2 - chance
    claims.append(
        claim(
            "Dropping the text half-way costs the second object of a prompt more than the first.",
            paper=PAPER,
            quantity=f"{title}: loss of the second object minus that of the first, over the mean of both above chance",
            found=bootstrap(np.stack([losses[SECOND] - losses[FIRST], above], 1), ratio_of_means, within=ANY),
            rule=RULE_ORDER,
            if_not="Both may be settled by then, so that neither loses anything; an earlier drop (N/5) would tell.",
        )
    )
    return tuple(claims)


def _table(
    sides: Switched, every: Sequence[GuidanceSetting], scores: Scores, l1s: np.ndarray, objects: Scores
) -> dict[str, list[Any]]:
    """Alignments and L1 distances in one tidy table: ``alignment`` says which, ``side`` against what."""
    subject, sources = sides.subject, sides.sources
    of_each: dict[str, list[Any]] = {
        "scale": [setting.scale for setting in every],
        "steps": [setting.steps for setting in every],
    }
    apart = crossed(
        {"alignment": ["L1"], "side": ["fully guided image"]},
        of_each,
        {"condition": [DROPPED, "no text"]},
        {"number": range(len(sources)), **subject.about(sources)},
        score=l1s.transpose(1, 2, 0),
    )
    of_both: dict[str, list[Any]] = {"scale": [subject.guidance_scale] * 2, "steps": [subject.steps] * 2}
    return stacked([tidy(subject, scores, of_each), apart, tidy(subject, objects, of_both)])


def _by_setting(every: Sequence[GuidanceSetting], leads: np.ndarray, l1s: np.ndarray, within: Range) -> Summary:
    rows = []
    for s, setting in enumerate(every):
        relative = bootstrap(l1s[:, s], ratio_of_means, within=POSITIVE)
        rows.append((str(setting), shown(bootstrap(leads[:, s], within=within)), str(setting.half), shown(relative)))
    return Summary(
        ("setting", "F4: target minus source", "F6: text in the first", "F6: L1 relative to no text"), tuple(rows)
    )


def _by_object(subject: Subject, objects: Scores) -> Summary:
    rows = []
    for alignment in objects.values:
        losses = _losses(objects, alignment)
        for side in (FIRST, SECOND):
            own = subject.range_of(alignment)
            cells = [cell(objects.of(alignment, name, side), within=own) for name in (FULL, DROPPED)]
            cells.append(cell(losses[side], within=own.difference))
            rows.append((subject.alignments[alignment].title, side, *cells))
    return Summary(
        ("alignment", "with the", FULL, DROPPED, "loss"), tuple(rows), "Prompts of two objects, 'A and B' of each pair."
    )


def _chart(subject: Subject, every: Sequence[GuidanceSetting], leads: np.ndarray, l1s: np.ndarray) -> Chart:
    lines = np.arange(len(every))[::-1]
    alignment, own = subject.alignments[subject.primary], subject.range_of(subject.primary)
    with charts.figure(2, height=1.2 + 0.4 * len(every)) as (drawn, (switched, dropped)):
        dots(switched, [bootstrap(leads[:, s], within=own.difference) for s in range(len(every))], lines, style=0)
        dots(
            dropped, [bootstrap(l1s[:, s], ratio_of_means, within=POSITIVE) for s in range(len(every))], lines, style=1
        )
        for axis, threshold in ((switched, RULE_SWITCH.threshold), (dropped, RULE_DROP.threshold)):
            axis.axvline(threshold, color="#777777", linewidth=1, linestyle=":")
            axis.set_ylim(-0.6, len(every) - 0.4)
        switched.set_yticks(lines, [str(setting) for setting in every])
        dropped.set_yticks(lines, [""] * len(every))
        switched.set_title("F4, [EOS] switched")
        switched.set_xlabel(f"{textwrap.fill(alignment.title, 36)}\ntarget minus source ({alignment.unit})")
        dropped.set_title("F6, text in the first half only")
        dropped.set_xlabel("L1 to the fully guided image,\nrelative to no text (ratio)")
        image = charts.svg(drawn)
    means, ratios = (leads.mean(axis=0), l1s[..., 0].mean(axis=0) / np.maximum(l1s[..., 1].mean(axis=0), 1e-9))
    return Chart(
        "settings",
        image,
        f"Each setting's mean and 95% interval, n = {len(leads)} pairs; the dotted lines are the rules' thresholds.",
        f"Target minus source runs from {means.min():.2f} ({every[int(means.argmin())]}) to {means.max():.2f} "
        f"({every[int(means.argmax())]}); the relative L1 from {ratios.min():.2f} ({every[int(ratios.argmin())]}) to "
        f"{ratios.max():.2f} ({every[int(ratios.argmax())]}).",
    )


STUDY: Final = Study(
    name="x1",
    title="Does it hold elsewhere",
    question="Are F4 and F6 the same for other guidance scales, steps, kinds of attribute and places in the prompt?",
    paper="Not asked: w = 7.5 and 50 steps throughout.",
    needs="pairs",
    count=8,
    cost=100,
    judged=True,
    run=run,
)
