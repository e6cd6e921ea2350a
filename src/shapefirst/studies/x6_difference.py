"""X6: what does the text add, and when? The frequencies of the difference between the two predictions, step by step.

    d_t = eps(t, x_t, C) - eps(t, x_t, 0)        s_t d_t / a_t is what it moves the predicted x_0 by

F2 asks which frequencies of the picture come first, F6 how long the difference is; here it is which of them it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from shapefirst.families.noise import noise_to_signal
from shapefirst.findings.finding import Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, crossed
from shapefirst.measure.intervals import POSITIVE, SHARE, SIGNED, Rule, bootstrap, ratio_of_means
from shapefirst.measure.spectrum import energies, modes
from shapefirst.prompts import Prompt
from shapefirst.studies.bands import two_bands
from shapefirst.studies.conditions import by_kind
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import check_guidance
from shapefirst.studies.subject import Subject, part

#: In the first fifth of the steps the low quarter of the frequencies holds more of the difference than in the last.
RULE_LOW_FIRST: Final = Rule("above", 0.0)
#: A mode of the low band is moved more than one of the high band, over the whole run.
RULE_LOW: Final = Rule("above", 1.0)
BANDS: Final = ("low", "high")


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Runs with the text in all steps, whose difference is looked at."""
    check_guidance(subject)
    n, steps, seeds = len(prompts), subject.steps, subject.seeds(len(prompts))
    subject.meter.expect(subject.cost() * n)
    embeddings = subject.encode(prompts)
    energy = np.zeros((n, steps, 2))  # of the difference in eps
    moved = np.zeros((n, steps, 2))  # of what it moves x_0 by
    count = np.ones(2)
    for here in subject.batches(n):
        for step in subject.steps_of(part(embeddings, here), seeds[here]):
            if step.eps_text is None or step.eps_null is None:
                continue
            d = (step.eps_text - step.eps_null).float().cpu()
            bands = two_bands(*d.shape[-2:])
            count = (d.shape[1] * modes(bands)).numpy()
            energy[here, step.index] = energies(d, bands).double().sum(1).numpy()
            moved[here, step.index] = noise_to_signal(step.solver, step.t) ** 2 * energy[here, step.index]
    low = energy[..., 0] / np.maximum(energy.sum(2), np.finfo(float).tiny)
    fifth = max(1, steps // 5)
    first, last = low[:, :fifth].mean(1), low[:, -fifth:].mean(1)
    per_mode = moved.sum(1) / count
    return Finding(
        claims=(
            claim(
                "What the text adds is of low frequencies first.",
                paper="not asked; the text decides the shape, which is of low frequencies",
                quantity=f"the low band's share of the difference's energy: first {fifth} steps minus last {fifth}",
                found=bootstrap(first - last, within=SIGNED),
                rule=RULE_LOW_FIRST,
                if_not="Where both branches agree on the shape already, the difference is about detail from the start.",
            ),
            claim(
                "Over the run the text moves low frequencies more than high ones.",
                paper="not asked",
                quantity="energy that the difference moves x_0 by, a mode of the low band over one of the high band",
                found=bootstrap(per_mode, ratio_of_means, within=POSITIVE),
                rule=RULE_LOW,
            ),
        ),
        table=crossed(
            subject.about(prompts),
            {"step": range(steps)},
            {"band": BANDS},
            modes=count.astype(int)[None, None],
            energy=energy,
            energy_of_x0=moved,
        ),
        summaries=(
            Summary(
                ("steps", "low band's share of the difference"),
                tuple(
                    (f"{few[0]} to {few[-1]}", cell(low[:, few].mean(1), within=SHARE))
                    for few in np.array_split(np.arange(steps), 5)
                ),
                "The low band: up to a quarter of the highest frequency along a side.",
            ),
            by_kind({"first fifth": first, "last fifth": last}, prompts, "The low band's share.", within=SHARE),
        ),
        charts=(
            curves(
                "difference",
                [
                    Panel(
                        range(steps),
                        {"low band": low},
                        {"title": "Share of the difference", "xlabel": "step (0 = noisiest)", "ylabel": "share"},
                        {"its share of all modes": np.full(steps, count[0] / count.sum())},
                    ),
                    Panel(
                        range(steps),
                        {f"{band} band": np.sqrt(moved[..., b] / count[b]) for b, band in enumerate(BANDS)},
                        {
                            "title": "What it moves x_0 by",
                            "xlabel": "step (0 = noisiest)",
                            "ylabel": "root of energy per mode",
                        },
                    ),
                ],
                f"The difference between the predictions with and without text; mean and 95% band, n = {n} prompts.",
                f"The low band holds {first.mean():.0%} of the difference in the first fifth of the steps and "
                f"{last.mean():.0%} in the last; it is {count[0] / count.sum():.0%} of the modes.",
            ),
        ),
        method=f"{n} runs of {steps} steps with text in all of them. Bands as in F2. A difference d in eps moves the "
        "predicted x_0 by sigma d, sigma the noise over the signal.",
        evaluations=subject.cost(),
    )


STUDY: Final = Study(
    name="x6",
    title="The frequencies of what the text adds",
    question="Which frequencies does the text push, and when?",
    paper="Not asked.",
    needs="prompts",
    count=12,
    cost=12,
    run=run,
)
