"""X4: when is what settled? Nouns, colours, textures and places, each exchanged by itself from step k on.

    run of A ----> ... ----> x_0
          \\--> B from step k ... --> x_0        B differs from A in one thing alone

Where B comes too late to be drawn, that thing is settled. It generalises F5, which exchanges the whole prompt's [EOS].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from shapefirst.findings.finding import Claim, DoesNotApply, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, crossed, stacked
from shapefirst.measure.intervals import LEAST, SHARE, SIGNED, Rule, bootstrap
from shapefirst.measure.scores import JUDGE_ATTRIBUTE, JUDGE_NOUN
from shapefirst.prompts import Prompt, parse_prompts
from shapefirst.prompts.prompt import COLOUR_WORDS, TEXTURE_WORDS
from shapefirst.studies.conditions import picture, scored
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import steps_at
from shapefirst.studies.subject import Fork, Subject
from shapefirst.words import find_words

#: The steps up to which B still wins: fewer for the noun than for the attribute; a share of the run.
RULE_ORDER: Final = Rule("above", 0.0, LEAST)

#: Close together where things are settled.
SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)
NOUN, COLOUR, TEXTURE, PLACE = "noun", "colour", "texture", "place"
#: What is scored by, where the world is known: the part of the phrase that differs.
JUDGED: Final[Mapping[str, str]] = {NOUN: JUDGE_NOUN, COLOUR: JUDGE_ATTRIBUTE, TEXTURE: JUDGE_ATTRIBUTE}
PLACES: Final = (("above", "below"), ("on the left of", "on the right of"))


@dataclass(frozen=True)
class _Exchange:
    """Prompts A and, beside each, B, which differs in one aspect.

    ``nouns`` are prompts of A's (first) thing alone: the aspect's time is compared with that of their noun.
    """

    aspect: str
    a: Sequence[Prompt]
    b: Sequence[Prompt]
    nouns: Sequence[Prompt]


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """For each aspect, runs of A that go on as B from each step of the grid."""
    grid = [k for k in steps_at(SHARES, subject.steps) if k < subject.steps]
    exchanges = [one for one in _exchanges(prompts) if len(one.a) > 1]
    if not exchanges:
        raise DoesNotApply("The prompts have no two colours, textures or nouns to exchange: give more of them.")
    cost = subject.cost() + sum(subject.cost(subject.steps - k) for k in grid)
    subject.meter.expect(cost * sum(len(one.a) for one in exchanges))
    found, tables, pictures = {}, [], []
    for one in exchanges:
        name, wins, images = _follow(subject, one, grid)
        found[one.aspect] = wins
        about = subject.about(one.a)
        tables.append(
            crossed({"aspect": [one.aspect], "scored by": [name]}, about, {"from_step": grid}, b_wins=wins[None])
        )
        shown = {f"B from {k}": images[k] for k in grid[:: max(1, len(grid) // 5)]}
        labels = [f"{x.text}\nthen: {y.text}" for x, y in zip(one.a, one.b, strict=True)]
        pictures.append(picture(one.aspect, shown, labels, f"The {one.aspect} exchanged from a step on.", few=3))
    times = {aspect: _areas(wins, grid, subject.steps) for aspect, wins in found.items()}
    return Finding(
        claims=_claims(_later_than_noun(times, exchanges)),
        table=stacked(tables),
        summaries=(
            Summary(
                ("what is exchanged", "prompts", "may come until, share of the steps", *(f"B from {k}" for k in grid)),
                tuple(
                    (
                        aspect,
                        str(len(wins)),
                        cell(times[aspect], within=SHARE),
                        *(f"{wins[:, i].mean():.2f}" for i in range(len(grid))),
                    )
                    for aspect, wins in found.items()
                ),
                "The share of images that are nearer to B than to A in what differs, by the step that B comes in.",
            ),
        ),
        charts=(
            curves(
                "lock-in",
                [
                    Panel(
                        grid,
                        found,
                        {"title": "B is drawn", "xlabel": "step that B comes in", "ylabel": "share of the images"},
                    )
                ],
                "How late a prompt may change for the change to be drawn; mean and 95% band, n = "
                + ", ".join(f"{len(wins)} ({aspect})" for aspect, wins in found.items())
                + " prompts.",
                "On average the change is drawn if it comes before this share of the run: "
                + ", ".join(f"{aspect} {values.mean():.0%}" for aspect, values in times.items())
                + ".",
            ),
        ),
        pictures=tuple(pictures),
        method=f"The prompt is exchanged as a whole, from step k on, for one that differs in one thing: "
        f"{', '.join(f'{aspect} ({len(wins)} prompts)' for aspect, wins in found.items())}; k = "
        f"{', '.join(map(str, grid))} of {subject.steps}. The other noun or attribute is the next prompt's. B wins "
        "where the image's alignment with B exceeds that with A: by the judge's noun or attribute where the world is "
        f"known, by the first score else and for places. Each time is compared with that of the same prompt's noun, "
        f"a place's with that of its first thing's. Runs share what they have in common. {scored(subject)}",
        evaluations=cost,
    )


def _areas(wins: np.ndarray, grid: Sequence[int], steps: int) -> np.ndarray:
    """(n,) how much of the run may have passed for B still to win: the area below each row's curve.

    Before its first step a curve is as high as there; at the end, where B would not come at all, it is 0.
    """
    at = np.array([0, *grid, steps]) / steps
    curves = np.concatenate([wins[:, :1], wins, np.zeros((len(wins), 1))], axis=1)
    return np.asarray(((curves[:, 1:] + curves[:, :-1]) / 2) @ np.diff(at))


def _later_than_noun(times: Mapping[str, np.ndarray], exchanges: Sequence[_Exchange]) -> dict[str, np.ndarray]:
    """Aspect -> by how much later it is settled than the noun, for each of its prompts whose noun was exchanged."""
    nouns = {
        prompt.text: time
        for one in exchanges
        if one.aspect == NOUN
        for prompt, time in zip(one.nouns, times[NOUN], strict=True)
    }
    later = {
        one.aspect: [
            time - nouns[of.text] for of, time in zip(one.nouns, times[one.aspect], strict=True) if of.text in nouns
        ]
        for one in exchanges
        if one.aspect != NOUN
    }
    return {aspect: np.array(values) for aspect, values in later.items() if values}


def _claims(later: Mapping[str, np.ndarray]) -> tuple[Claim, ...]:
    claims = [
        claim(
            f"The noun is settled before the {aspect}.",
            paper="first the shape, then the detail",
            quantity=f"share of the steps by which the {aspect} may come in later than the noun",
            found=bootstrap(later[aspect], within=SIGNED),
            rule=RULE_ORDER,
            if_not=f"A {aspect} may lie in the low frequencies that come first, as the shape does.",
        )
        for aspect in (COLOUR, TEXTURE)
        if aspect in later
    ]
    if PLACE in later:
        claims.append(
            claim(
                "Where things stand is settled before what they are.",
                paper="not asked; the layout comes first",
                quantity="share of the steps by which the noun may come in later than the place",
                found=bootstrap(-later[PLACE], within=SIGNED),
                rule=RULE_ORDER,
                if_not="A score that does not hear places cannot tell when they are settled.",
            )
        )
    if not claims:
        raise DoesNotApply("The prompts have too few nouns and attributes to compare.")
    return tuple(claims)


def _exchanges(prompts: Sequence[Prompt]) -> list[_Exchange]:
    """By aspect; of prompts of one phrase, and for places of two such in one prompt."""
    single = [
        one for one in prompts if len(one.phrases) == 1 and find_words(one.text, " ".join(one.phrases[0]).strip())
    ]
    by_kind = {
        COLOUR: [one for one in single if one.phrases[0][0] in COLOUR_WORDS],
        TEXTURE: [one for one in single if one.phrases[0][0] in TEXTURE_WORDS],
    }
    found = [_of_one(NOUN, single, 1), *(_of_one(kind, mine, 0) for kind, mine in by_kind.items())]
    a: list[str] = []
    b: list[str] = []
    first: list[Prompt] = []
    for i, (one, other) in enumerate(zip(single[::2], single[1::2], strict=False)):
        if one.phrases[0][1] != other.phrases[0][1]:
            first.append(one)
            for into, relation in zip((a, b), PLACES[i % len(PLACES)], strict=True):
                into.append(f"{one.text} {relation} {other.text}")
    return [*found, _Exchange(PLACE, parse_prompts(a), parse_prompts(b), first)]


def _of_one(aspect: str, prompts: Sequence[Prompt], which: int) -> _Exchange:
    """Prompts, and each with the attribute (0) or noun (1) of the next that has another one."""
    a: list[Prompt] = []
    b: list[Prompt] = []
    for i, one in enumerate(prompts):
        word = one.phrases[0][which]
        others = (other.phrases[0][which] for other in (*prompts[i + 1 :], *prompts[:i]))
        new = next((other for other in others if other != word), None)
        place = find_words(one.text, word) if word else None
        if new and place:
            phrase = (new, one.phrases[0][1]) if which == 0 else (one.phrases[0][0], new)
            a.append(one)
            b.append(replace(one, text=one.text[: place[0]] + new + one.text[place[1] :], phrases=(phrase,)))
    return _Exchange(aspect, a, b, a)


def _follow(subject: Subject, one: _Exchange, grid: Sequence[int]) -> tuple[str, np.ndarray, dict[int, list]]:
    """The score's name, (n, grid) 1 where B wins, and the images by step."""
    name = subject.scored_by(JUDGED.get(one.aspect, subject.primary))
    score = subject.alignments[name].score
    trunk, other, seeds = subject.encode(one.a), subject.encode(one.b), subject.seeds(len(one.a))
    _, forked = subject.fork(trunk, seeds, grid, {"b": lambda k: Fork(embeddings=other)})
    images = {k: forked["b", k] for k in grid}
    wins = [np.asarray(score(images[k], one.b)) > np.asarray(score(images[k], one.a)) for k in grid]
    return name, np.stack(wins, 1).astype(float), images


STUDY: Final = Study(
    name="x4",
    title="When nouns, colours, textures and places are settled",
    question="How late may a noun, a colour, a texture or a place change for the change to be drawn?",
    paper="Not asked one by one; the shape comes first, details after.",
    needs="prompts",
    count=16,
    cost=228,
    judged=True,
    run=run,
)
