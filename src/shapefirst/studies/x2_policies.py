"""X2: which way to evaluate less keeps the picture? What the paper does not ask.

The paper's rule, fewer steps, and extrapolation (`shapefirst.guidance.extrapolation`), each at about the same saving of
evaluations; distances are to the fully guided image of all N steps, of the same seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from shapefirst.errors import ShapefirstError
from shapefirst.findings.finding import Chart, Claim, DoesNotApply, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, shown, stacked
from shapefirst.guidance.timeline import steps_ahead
from shapefirst.measure.distances import Distances, distances_of, mean_psnr
from shapefirst.measure.intervals import POSITIVE, SHARE, SIGNED, Interval, Rule, bootstrap, ratio_of_means
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.sharing import evaluations_together
from shapefirst.prompts import Prompt
from shapefirst.studies import dropping
from shapefirst.studies.conditions import picture
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import check_guidance, distance_table
from shapefirst.studies.subject import Subject

#: L1 of extrapolation over that of another way, at the same saving.
RULE_PAPER: Final = Rule("below", 1 / 8)
RULE_FEWER: Final = Rule("below", 1.0)

SAVINGS: Final = (0.25, 0.4, 0.6)
CLAIMED: Final = 0.4  # the saving that the claims are about
FAMILIES = "text dropped", "fewer steps", "difference extrapolated", "both branches extrapolated"
PAPER, FEWER, ONE, BOTH = FAMILIES
SHOWN: Final = 6


@dataclass(frozen=True)
class Way:
    """One way to save about a share of the evaluations."""

    family: str
    saving: float
    steps: int
    schedule: TextSchedule
    solver_order: int
    full: int  # evaluations of full guidance in all N steps

    @property
    def evaluations(self) -> int:
        return self.schedule.evaluations(self.steps, self.solver_order)

    @property
    def saved(self) -> float:
        return 1 - self.evaluations / self.full

    def about(self) -> dict[str, Any]:
        """What the tidy table says of it."""
        guided = self.schedule.text_steps(self.steps)
        return {"way": self.family, "steps": self.steps, "guided_steps": guided, "evaluations": self.evaluations}


def ways(steps: int, solver_order: int = 1) -> list[Way]:
    """Those that fit the number of steps."""
    found = []
    for saving in SAVINGS:
        spent = 1 - saving
        if saving <= 0.5:  # one branch always runs
            found.append((PAPER, saving, steps, TextSchedule.until(round(steps * (1 - 2 * saving)))))
            found.append((ONE, saving, steps, TextSchedule.within(spent, keep="text")))
        found.append((FEWER, saving, max(1, round(steps * spent)), TextSchedule.always()))
        found.append((BOTH, saving, steps, TextSchedule.within(spent)))
    full = TextSchedule.always().evaluations(steps, solver_order)
    return [way for one in found if _fits(way := Way(*one, solver_order, full))]


def _fits(way: Way) -> bool:
    try:
        way.schedule.check(way.steps)
    except ShapefirstError:
        return False
    return True


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Full guidance, and every way on the same prompts and seeds."""
    check_guidance(subject)
    steps, every = subject.steps, ways(subject.steps, subject.solver_order)
    if not all(any(w.family == family and w.saving == CLAIMED for w in every) for family in (PAPER, FEWER, BOTH)):
        raise DoesNotApply(f"{steps} steps are too few to compare ways to save {CLAIMED:.0%}: take 10 or more.")
    full, own = TextSchedule.always(), {way: way.schedule for way in every if way.steps == steps}
    solver = subject.pipe.scheduler
    _, levels = steps_ahead(solver, steps)
    done = evaluations_together(
        [full, *own.values()], steps, subject.guidance_scale, subject.solver_order, solver, levels
    )
    done += sum(way.evaluations for way in every if way not in own)
    subject.meter.expect(len(prompts) * done)
    similarity = dropping.similarity_of(subject)
    embeddings, seeds = subject.encode(prompts), subject.seeds(len(prompts))
    together = subject.sample_together(embeddings, seeds, {None: full, **own})
    whole = together.pop(None)
    images = {
        way: together[way] if way in own else replace(subject, steps=way.steps).sample(embeddings, seeds)
        for way in every
    }
    found = {way: distances_of(made, whole, similarity) for way, made in images.items()}
    ours, paper, fewer = (_at(found, family) for family in (BOTH, PAPER, FEWER))
    return Finding(
        claims=(_claim(ours, paper, "dropping the text", RULE_PAPER), _claim(ours, fewer, "fewer steps", RULE_FEWER)),
        table=stacked([distance_table(subject, prompts, of, way.about()) for way, of in found.items()]),
        summaries=(_summary(found, steps, similarity.title),),
        charts=(_chart(found, steps, len(prompts)),),
        pictures=(
            picture(
                "kept",
                {"full guidance": whole} | {way.family: images[way] for way in every if way.saving == CLAIMED},
                [prompt.text for prompt in prompts],
                f"{CLAIMED:.0%} of the evaluations saved.",
                few=SHOWN,
            ),
        ),
        method=f"{len(prompts)} prompts, one seed each. Text dropped: the first steps guided, the null branch after. "
        "Fewer steps: all of them guided. Difference extrapolated: the text branch in every step, the guidance "
        "difference from the last two guided steps in those between. Both branches extrapolated: nothing is evaluated "
        "between guided steps. Guided steps are placed as `budget=` places them; the extrapolation is linear in "
        "log(1 + sigma/alpha). Distances are to the fully guided image of the same seed, which has the error of its "
        f"own {steps} steps.",
        evaluations=done,
        evaluations_apart=subject.cost() + sum(way.evaluations for way in every),
    )


def _at(found: Mapping[Way, Distances], family: str) -> np.ndarray:
    return next(d.l1 for way, d in found.items() if way.family == family and way.saving == CLAIMED)


def _claim(ours: np.ndarray, other: np.ndarray, name: str, rule: Rule) -> Claim:
    much = "at least eight times closer" if rule is RULE_PAPER else "closer"
    return claim(
        f"Saving {CLAIMED:.0%} of the evaluations, extrapolating both branches stays {much} to the fully guided image "
        f"than {name}.",
        paper="not asked",
        quantity=f"L1 to the fully guided image, over that of {name}",
        found=bootstrap(np.stack([ours, other], axis=1), _ratio, within=POSITIVE),
        rule=rule,
        if_not="The predictions of this model change too fast between its steps, or the steps are few already: the "
        "same study with more steps would tell.",
    )


def _ratio(x: np.ndarray) -> float:
    """Of means; 1 where both are 0, as neither is then closer."""
    return 1.0 if not x.any() else ratio_of_means(x)


def _summary(found: Mapping[Way, Distances], steps: int, similarity: str) -> Summary:
    rows = []
    for way in sorted(found, key=lambda way: (way.saving, found[way].l1.mean())):
        of = found[way]
        l1: Interval = bootstrap(of.l1, within=SHARE)
        rows.append(
            (
                way.family,
                f"{way.saved:.0%}",
                f"{way.schedule.text_steps(way.steps)} of {way.steps}",
                shown(l1, 4),
                f"{mean_psnr(of.psnr):.1f}",
                f"{of.ssim.mean():.3f}",
                cell(of.similarity, within=SIGNED, digits=3),
            )
        )
    names = ("way", "evaluations saved", "guided steps", "L1", "PSNR, dB", "SSIM", similarity)
    return Summary(names, tuple(rows), f"Distances to the fully guided image of {steps} steps, of the same seed.")


def _chart(found: Mapping[Way, Distances], steps: int, n: int) -> Chart:
    families = dict.fromkeys(way.family for way in found)
    every = {f: sorted((way for way in found if way.family == f), key=lambda way: -way.evaluations) for f in families}
    saved = {f: [100 * way.saved for way in mine] for f, mine in every.items()}
    l1s = {f: np.stack([found[way].l1 for way in mine], axis=1) for f, mine in every.items()}
    told = [f"{f}: {values[:, -1].mean():.4f} at {saved[f][-1]:.0f}%" for f, values in l1s.items()]
    labels = {"xlabel": "evaluations saved, %", "ylabel": "L1 to the guided image", "yscale": "log"}
    caption = f"How far the picture moves for what is saved; mean and 95% band, n = {n}. Lower is closer."
    alt = f"L1 by share of the evaluations saved. {'; '.join(told)}."
    return curves("kept", [Panel(saved, l1s, labels)], caption, alt, width=6.4, height=3.8)


STUDY: Final = Study(
    name="x2",
    title="Keeping the picture",
    question="Which way to evaluate less stays closest to the fully guided image?",
    paper="Not asked: the paper drops the text and compares FID.",
    needs="prompts",
    count=8,
    cost=40,
    run=run,
)
