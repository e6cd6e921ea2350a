"""F5: when does the [EOS] decide? It is B's only in the steps [0, a), or only in [a, N).

    trunk B's [EOS] ----> ... ----> x_0        switched in [0, N) = all steps
                 \\--> A's  ... --> x_0        left at a: switched in [0, a)
    trunk A's [EOS] ----> ... ----> x_0        switched in no step
                 \\--> B's  ... --> x_0        left at a: switched in [a, N)

So a whole grid of a takes two full runs and the ends of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image

from shapefirst.findings.finding import Chart, DoesNotApply, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, shown
from shapefirst.measure.intervals import Range, Rule, bootstrap
from shapefirst.prompts import Pair
from shapefirst.studies.conditions import Scores, scored, tidy
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import steps_at
from shapefirst.studies.subject import Fork, Subject
from shapefirst.studies.switching import SOURCE, TARGET, Switched, encode_pairs, padded

#: Switching the [EOS] in the first half of the steps moves the image further to the target than in the second half.
RULE: Final = Rule("above", 0.0)

EARLY, LATE = "early", "late"


def grid(steps: int) -> list[int]:
    """0, 10%, ..., 100% of the steps, rounded half up, each once; (N + 1) // 2 is one of them."""
    return steps_at((tenth / 10 for tenth in range(11)), steps)


def window(family: str, a: int, steps: int) -> str:
    """The steps with the target's [EOS], as text."""
    return f"[0, {a})" if family == EARLY else f"[{a}, {steps})"


def evaluations_of_windows(subject: Subject) -> tuple[int, int]:
    """Denoiser evaluations per pair: as done here, and with a run for each a of each family."""
    at = grid(subject.steps)
    branches = sum(2 * subject.cost(subject.steps - a) for a in at[1:-1])
    return 2 * subject.cost() + branches, 2 * len(at) * subject.cost()


def run(subject: Subject, pairs: Sequence[Pair]) -> Finding:
    """Both families of windows, scored against source and target."""
    if subject.steps < 2:
        raise DoesNotApply("A run of 1 step has no early and late steps to compare: take 2 steps or more.")
    done, apart = evaluations_of_windows(subject)
    subject.meter.expect(done * len(pairs))
    at, middle = grid(subject.steps), (subject.steps + 1) // 2
    sides = encode_pairs(subject, pairs)
    images = sample_windows(subject, sides, at)
    scores = sides.measure(images)
    told = {window(family, a, subject.steps): (family, a) for family in (EARLY, LATE) for a in at}
    details = dict(zip(("family", "a"), zip(*told.values(), strict=True), strict=True))
    effects = {family: effect(subject, scores, family, at) for family in (EARLY, LATE)}
    gap = effects[EARLY][:, at.index(middle)] - effects[LATE][:, at.index(middle)]
    few = at[:: max(1, (len(at) - 1) // 5)]

    return Finding(
        claims=(
            claim(
                "The early steps decide: the [EOS] of the first half of the steps moves the image more than that of "
                "the second half.",
                paper="the early steps decide",
                quantity=f"{subject.alignments[subject.primary].title}: target minus source, switched in "
                f"{window(EARLY, middle, subject.steps)} less switched in {window(LATE, middle, subject.steps)}",
                found=bootstrap(gap, within=subject.range_of(subject.primary).difference.difference),
                rule=RULE,
                if_not="Where the whole switch has little effect (F4), its halves cannot differ much. A model of few "
                "pixels may also redraw its object for as long as another prompt asks for it, though it keeps it where "
                "none does (F6): the same study with --guidance-scale 2, or on larger latents (sd15), would tell.",
            ),
        ),
        table=tidy(subject, scores, {**details, "steps": [subject.steps] * len(told)}),
        summaries=(
            _halves(effects, at, subject.steps),
            _leads(subject, scores, at),
            sides.by_kind(
                {
                    f"effect of {window(EARLY, middle, subject.steps)}": effects[EARLY][:, at.index(middle)],
                    f"effect of {window(LATE, middle, subject.steps)}": effects[LATE][:, at.index(middle)],
                    "first half less second half": gap,
                },
                "Effect: target minus source, less that of the plain source prompt.",
                within=subject.range_of(subject.primary).difference.difference,
            ),
        ),
        charts=(_chart(subject, scores, at),),
        pictures=tuple(
            sides.picture(
                f"switched-{family}",
                {window(family, a, subject.steps): images[window(family, a, subject.steps)] for a in few},
                f"The target's [EOS] only in the steps above each column ({family} switches).",
                few=3,
            )
            for family in (EARLY, LATE)
        ),
        method=f"{sides.described}, one seed each. The source's embeddings have "
        f"the target's [EOS] in the steps [0, a) only, or in [a, {subject.steps}) only, for a = "
        f"{', '.join(map(str, at))} of {subject.steps} steps. Runs that share their first steps are computed once and "
        f"forked at a: {done} denoiser evaluations a pair instead of {apart} with a run for each a of each family. "
        f"{padded(subject)} {scored(subject)}",
        evaluations=done,
        evaluations_apart=apart,
    )


def sample_windows(subject: Subject, sides: Switched, at: Sequence[int]) -> dict[str, list[Image.Image]]:
    """Window (see :func:`window`) -> images, for both families. ``at`` begins with 0 and ends with N."""
    seeds, inner = sides.seeds, at[1:-1]
    source, switched = sides.source, sides.switched()
    all_steps, early = subject.fork(switched, seeds, inner, {EARLY: lambda a: Fork(embeddings=source)})
    no_step, late = subject.fork(source, seeds, inner, {LATE: lambda a: Fork(embeddings=switched)})
    whole = {(EARLY, at[0]): no_step, (EARLY, at[-1]): all_steps, (LATE, at[0]): all_steps, (LATE, at[-1]): no_step}
    made = {**whole, **early, **late}
    return {window(family, a, subject.steps): made[family, a] for family in (EARLY, LATE) for a in at}


def effect(subject: Subject, scores: Scores, family: str, at: Sequence[int]) -> np.ndarray:
    """(n, len(at)): target minus source by the primary alignment, less that of the run without any switch."""
    leads = [scores.lead(subject.primary, window(family, a, subject.steps)) for a in at]
    plain = scores.lead(subject.primary, window(EARLY, 0, subject.steps))
    return np.stack(leads, axis=1) - plain[:, None]


def half_reached(rising: np.ndarray, at: Sequence[int]) -> float:
    """Where the mean of curves first comes to half of its last value, linearly between the steps measured.

    Args:
        rising: (n, len(at)), 0 at the first of ``at``.
        at: Steps.

    Returns:
        In steps; NaN where the last mean is not positive.
    """
    curve = rising.mean(axis=0)
    half = curve[-1] / 2
    if not half > 0:
        return float("nan")
    i = int(np.argmax(curve >= half))  # at least 1, as the curve starts at 0
    share = (half - curve[i - 1]) / (curve[i] - curve[i - 1])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def _halves(effects: dict[str, np.ndarray], at: Sequence[int], steps: int) -> Summary:
    """Half of the whole effect: gained by switching until a, lost by switching only from a on."""
    curves = {
        f"switched in [0, a): half of the effect is reached at a, of {steps} steps": effects[EARLY],
        f"switched in [a, {steps}): half of the effect is lost at a": effects[LATE][:, :1] - effects[LATE],
    }
    rows = []
    for name, rising in curves.items():
        there = np.isfinite(half_reached(rising, at))
        found = bootstrap(rising, lambda x: half_reached(x, at), within=Range(0.0, steps)) if there else None
        rows.append((name, shown(found, 1) if found else "the switch has no effect to halve"))
    return Summary(("quantity", "step a"), tuple(rows))


def _leads(subject: Subject, scores: Scores, at: Sequence[int]) -> Summary:
    rows = []
    for alignment in scores.values:
        for a in at:
            leads = (scores.lead(alignment, window(family, a, subject.steps)) for family in (EARLY, LATE))
            rows.append(
                (
                    subject.alignments[alignment].title,
                    str(a),
                    *(cell(lead, within=subject.range_of(alignment).difference) for lead in leads),
                )
            )
    return Summary(
        ("alignment", "a, step", "switched in [0, a)", f"switched in [a, {subject.steps})"),
        tuple(rows),
        f"{TARGET} minus {SOURCE}.",
    )


def _chart(subject: Subject, scores: Scores, at: Sequence[int]) -> Chart:
    unit, title = subject.alignments[subject.primary].unit, subject.alignments[subject.primary].title
    panels = []
    for family, steps in ((EARLY, "[0, a)"), (LATE, f"[a, {subject.steps})")):
        windows = [window(family, a, subject.steps) for a in at]
        drawn = {f"with {side}": scores.across(subject.primary, side, windows) for side in (SOURCE, TARGET)}
        labels = {"xlabel": "a (denoising step)", "ylabel": f"alignment ({unit})"}
        panels.append(Panel(at, drawn, {"title": f"[EOS] switched in {steps}", **labels}))
    middle = (subject.steps + 1) // 2
    early, late = (window(family, middle, subject.steps) for family in (EARLY, LATE))
    n = len(scores.values[subject.primary])
    return curves(
        "windows",
        panels,
        f"{title} of the images with both prompts against a; mean and 95% band, n = {n} pairs, N = {subject.steps}.",
        f"Switched in {early}, target minus source is {scores.lead(subject.primary, early).mean():.2f} on average; "
        f"switched in {late} it is {scores.lead(subject.primary, late).mean():.2f}.",
        share_y=True,
    )


STUDY: Final = Study(
    name="f5",
    title="When the [EOS] decides",
    question="In which denoising steps does the [EOS] decide what the image shows?",
    paper="The early steps decide: switching the [EOS] there moves the image to the other prompt, later hardly.",
    needs="pairs",
    count=8,
    cost=90,
    judged=True,
    run=run,
)
