"""X3: which steps need guidance, and with what weight? Windows of guidance, and weights that grow.

This paper: the early steps are what the text is for. Kynkaanniemi et al. 2024 (arXiv 2404.07724): guidance harms at the
noisiest steps and is useless at the last. Wang et al. 2024 (arXiv 2404.13040): weights that grow over the steps are
better. Outside of a window the text branch alone is evaluated (w = 1), as the second paper does.

    w_i = 2 w (i + 1/2) / N       a weight that grows from 0 to 2 w, of mean w
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from PIL import Image

from shapefirst.drawing import charts
from shapefirst.errors import installing
from shapefirst.findings.finding import Chart, Claim, DoesNotApply, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, crossed
from shapefirst.measure.distances import frechet_of_few
from shapefirst.measure.intervals import ANY, LEAST, POSITIVE, Rule, bootstrap, ratio_of_means
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.sharing import evaluations_together
from shapefirst.prompts import Prompt
from shapefirst.studies import dropping
from shapefirst.studies.conditions import picture, scored, unrelated
from shapefirst.studies.dropping import check_guidance, steps_at
from shapefirst.studies.f7_savings import frechet_ratio
from shapefirst.studies.subject import Subject
from shapefirst.world.scenes import place, render
from shapefirst.world.vocabulary import relation_of

#: Guidance in the first half aligns more than in the second, as a share of what the prompt gives above chance.
RULE_EARLY: Final = Rule("above", 0.0, LEAST)
#: Without guidance in the noisiest fifth the images are nearer to true pictures.
RULE_HARMS: Final = Rule("below", 1.0, LEAST)
#: Without guidance in the last fifth at least 0.99 of the alignment stays.
RULE_USELESS: Final = Rule("above", 0.99)
#: Weights that grow bring images nearer to true pictures than constant ones of the same mean.
RULE_GROWS: Final = Rule("below", 1.0, LEAST)

CUTS: Final = (0.0, 0.2, 0.5, 0.8, 1.0)
GROWS = "growing"
PAINTING: Final = ("resvg_py", "material_design_icons_pack")


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Images of each window, and of the weights that grow."""
    check_guidance(subject)
    _check_true_pictures(subject)
    steps, n = subject.steps, len(prompts)
    cuts = steps_at(CUTS, steps)
    windows = [(a, b) for a in cuts for b in cuts if a < b and (a, b) != (0, steps)]
    policies: dict[Any, TextSchedule] = {
        (0, steps): TextSchedule.always(),
        **{(a, b): TextSchedule.window(a, b, keep="text") for a, b in windows},
        (0, 0): TextSchedule.until(0, keep="text"),
    }
    spent = {name: policy.evaluations(steps, subject.solver_order) for name, policy in policies.items()}
    spent[GROWS] = subject.cost()
    every = list(policies.values())
    done = evaluations_together(every, steps, subject.guidance_scale, subject.solver_order) + subject.cost()
    subject.meter.expect(n * done)
    embeddings, seeds = subject.encode(prompts), subject.seeds(n)
    images: dict[Any, list[Image.Image]] = subject.sample_together(embeddings, seeds, policies)
    weights = [2 * subject.guidance_scale * (i + 0.5) / steps for i in range(steps)]
    images[GROWS] = subject.sample(embeddings, seeds, guidance_scale=weights)
    primary = subject.alignments[subject.primary]
    aligned = {name: np.asarray(primary.score(made, prompts)) for name, made in images.items()}
    chance = np.asarray(primary.score(images[0, steps], [prompts[i] for i in unrelated(prompts)]))
    name, features = dropping.features_of(subject)
    seen = {window: np.asarray(features(made), dtype=np.float64) for window, made in images.items()}
    truth = np.asarray(features(_true_pictures(subject, prompts)), dtype=np.float64)
    distance = {window: frechet_of_few(of, truth) for window, of in seen.items()}
    return Finding(
        claims=_claims(subject, aligned, chance, seen, truth, cuts, name),
        table=crossed(
            {
                "start": [0 if window == GROWS else window[0] for window in images],
                "stop": [steps if window == GROWS else window[1] for window in images],
                "weight": ["growing" if window == GROWS else "constant" for window in images],
                "frechet": list(distance.values()),
            },
            subject.about(prompts),
            alignment=np.stack(list(aligned.values())),
        ),
        summaries=(
            Summary(
                ("guidance in steps", "evaluations", primary.title, f"Frechet distance ({name})"),
                tuple(
                    (
                        _spelled(window, steps),
                        f"{spent[window]:g}",
                        cell(aligned[window], within=subject.range_of(subject.primary)),
                        f"{distance[window]:.1f}",
                    )
                    for window in images
                ),
                "Outside of the window the text branch alone. The distance is to true pictures of the same prompts.",
            ),
        ),
        charts=(_chart(aligned, distance, cuts, primary.title, n),),
        pictures=(
            picture(
                "windows",
                {_spelled(w, steps): images[w] for w in _shown(cuts, steps)},
                [prompt.text for prompt in prompts],
                "By the steps with guidance.",
            ),
        ),
        method=f"{n} prompts, one seed each, w = {subject.guidance_scale:g}. Windows start and stop at "
        f"{', '.join(map(str, cuts))} of {steps} steps. True pictures: one of pocket's world for each prompt, its "
        f"objects where it says and all else drawn. Chance: the alignment with an unrelated prompt of the set. "
        f"Growing: weights from 0 to twice w. {scored(subject)}",
        evaluations=done,
        evaluations_apart=sum(spent.values()),
    )


def _claims(
    subject: Subject,
    aligned: dict[Any, np.ndarray],
    chance: np.ndarray,
    seen: dict[Any, np.ndarray],
    truth: np.ndarray,
    cuts: Sequence[int],
    name: str,
) -> tuple[Claim, ...]:
    steps, title = subject.steps, subject.alignments[subject.primary].title
    whole, (fifth, half, last) = (0, steps), steps_at([0.2, 0.5, 0.8], steps)

    early = aligned[0, half] - aligned[half, steps]

    def nearer(window: Any) -> Any:
        return bootstrap(np.stack([seen[window], seen[whole], truth], axis=1), frechet_ratio, within=POSITIVE)

    return (
        claim(
            "Guidance in the first half of the steps is what aligns the picture with its prompt.",
            paper="the early steps are what the text is for",
            quantity=f"{title}: guidance in steps 0 to {half} minus guidance from {half} on, over that of guidance in "
            "all steps above chance",
            found=bootstrap(np.stack([early, aligned[whole] - chance], 1), ratio_of_means, within=ANY),
            rule=RULE_EARLY,
            if_not="The text branch alone may settle the shape, and guidance sharpen what is there.",
        ),
        claim(
            "Guidance in the noisiest steps harms.",
            paper="not asked; FID 1.81 to 1.40 without it (Kynkaanniemi et al. 2024, ImageNet-512)",
            quantity=f"Frechet distance ({name}) to true pictures without guidance in steps 0 to {fifth}, over that of "
            "guidance in all steps",
            found=nearer((fifth, steps)),
            rule=RULE_HARMS,
            if_not="A weight as small as this model's does little harm: a larger --guidance-scale would tell.",
        ),
        claim(
            "Guidance in the last steps is useless.",
            paper="late steps need no text",
            quantity=f"{title} without guidance from step {last} on, over that of guidance in all steps",
            found=bootstrap(np.stack([aligned[0, last], aligned[whole]], 1), ratio_of_means, within=ANY),
            rule=RULE_USELESS,
        ),
        claim(
            "Weights that grow are better than constant ones of the same mean.",
            paper="not asked; FID up to 30% better (Wang et al. 2024, SDXL)",
            quantity=f"Frechet distance ({name}) to true pictures with growing weights, over that with constant ones",
            found=nearer(GROWS),
            rule=RULE_GROWS,
            if_not="Where the early steps decide, a weight that is small there loses what it should gain.",
        ),
    )


def _check_true_pictures(subject: Subject) -> None:
    """Raise DoesNotApply if there are none of this model's world, or what paints them is missing."""
    if not subject.is_pocket:
        raise DoesNotApply("It needs true pictures of its prompts, which only pocket's world has.")
    if any(find_spec(name) is None for name in PAINTING):
        missing = f"painted by packages that are missing: {installing('train')}."
        raise DoesNotApply(f"True pictures of pocket's world are {missing}")


def _true_pictures(subject: Subject, prompts: Sequence[Prompt]) -> list[Image.Image]:
    """One for each prompt."""
    dice, made = np.random.default_rng(subject.seed), []
    for prompt in prompts:
        picture_of, _ = render(place(list(prompt.phrases), relation_of(prompt.text), dice))
        made.append(Image.fromarray(picture_of))
    return made


def _spelled(window: Any, steps: int) -> str:
    if window == GROWS:
        return "all, growing weight"
    a, b = window
    return "none" if a == b else "all" if (a, b) == (0, steps) else f"{a} to {b}"


def _shown(cuts: Sequence[int], steps: int) -> list[Any]:
    fifth, half = steps_at([0.2, 0.5], steps)
    return [(0, steps), (0, fifth), (0, half), (half, steps), (fifth, steps), (0, 0), GROWS]


def _chart(
    aligned: dict[Any, np.ndarray], distance: dict[Any, float], cuts: Sequence[int], title: str, n: int
) -> Chart:
    """Two grids of start by stop."""
    size = len(cuts)
    grids = np.full((2, size, size), np.nan)
    for i, a in enumerate(cuts):
        for j, b in enumerate(cuts):
            if (a, b) in aligned:
                grids[:, i, j] = aligned[a, b].mean(), distance[a, b]
    with charts.figure(2, width=9.0, height=3.8) as (drawn, axes):
        for axis, grid, name in zip(axes, grids, (title, "Frechet distance to true pictures"), strict=True):
            drawn.colorbar(axis.imshow(grid, cmap="cividis", origin="lower"), ax=axis)
            axis.grid(False)
            for i, j in np.argwhere(np.isfinite(grid)):
                bright = grid[i, j] < np.nanmean(grid)
                axis.text(
                    j,
                    i,
                    f"{grid[i, j]:.3g}",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if bright else "black",
                )
            axis.set(
                title=name, xticks=range(size), xticklabels=cuts, yticks=range(size), yticklabels=cuts,
                xlabel="guidance stops before step", ylabel="guidance starts at step",
            )  # fmt: skip
        image = charts.svg(drawn)
    best = min((window for window in distance if window != GROWS), key=lambda window: distance[window])
    return Chart(
        "windows",
        image,
        f"Windows of guidance, by where they start and stop; n = {n} prompts.",
        f"The window with the smallest Frechet distance is {best[0]} to {best[1]}, at {distance[best]:.1f}.",
    )


STUDY: Final = Study(
    name="x3",
    title="Windows of guidance, and weights that grow",
    question="Which steps need guidance, which does it harm, and should its weight grow?",
    paper="Not asked; its early steps are what the text is for.",
    needs="prompts",
    count=12,
    cost=64,
    judged=True,
    run=run,
)
