"""A6: does the removal hold for other conditions? A picture beside the prompt, given in the first k steps alone.

    d_t      = eps(t, x_t, C, I) - eps(t, x_t, C)                   what the picture I changes in step t

What F6 measures of the text, measured of the picture: the distance to the image that has it in all steps, over k; and
for comparison the same with the picture in the last k steps alone. The text is there throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from PIL import Image

from shapefirst.errors import ShapefirstError
from shapefirst.findings.finding import Chart, DoesNotApply, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, shown, stacked
from shapefirst.measure.alignment import Alignment, range_of
from shapefirst.measure.distances import Distances, distances_of, mean_psnr
from shapefirst.measure.intervals import POSITIVE, SHARE, SIGNED, Range, Rule, bootstrap, ratio_of_means
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts import Prompt
from shapefirst.studies import dropping
from shapefirst.studies.conditions import by_kind, picture
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import distance_table, steps_at
from shapefirst.studies.f6_text_dropped import RULE_FADES, RULE_LATE
from shapefirst.studies.image_conditions import ImageCondition, PictureNorms, condition_of, images_of
from shapefirst.studies.subject import Subject

#: L1 to the image with the picture in all steps, with it in the first half of them over that with it in the last half.
RULE_EARLY: Final = Rule("below", 1.0)
#: The picture has done its work where L1 is below this share of what it is without the picture: that of `RULE_LATE`.
DONE: Final = RULE_LATE.threshold

SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SHOWN: Final = 6
FIRST, LAST = PLACES = ("first", "last")


@dataclass(frozen=True)
class _At:
    """Images with the picture in ``k`` steps."""

    distances: Distances
    alignment: np.ndarray


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """The stock pipeline's own calls, one for each number of steps with the picture, and end of the run that has it."""
    condition = condition_of(subject.pipe)
    pictures = _pictures(subject, condition, len(prompts))
    steps, n = subject.steps, len(prompts)
    grid = steps_at(SHARES, steps)
    evaluations = _evaluations(subject, condition, len(grid))
    subject.meter.expect(evaluations * n)

    sample = partial(images_of, subject, condition, prompts, pictures)
    norms = PictureNorms(*np.zeros((2, n, steps)))
    images = {(FIRST, steps): sample(range(steps), norms)}
    images |= {(FIRST, k): sample(range(k)) for k in grid[:-1]}
    images |= {(LAST, k): sample(range(steps - k, steps)) for k in grid[1:-1]}
    images |= {(LAST, k): images[FIRST, k] for k in (0, steps)}
    similarity, primary = dropping.similarity_of(subject), subject.alignments[subject.primary]
    whole = images[FIRST, steps]
    found = {
        (place, k): _At(distances_of(made, whole, similarity), primary.score(made, prompts))
        for place in PLACES
        for k in grid
        for made in [images[place, k]]
    }
    if not found[FIRST, 0].distances.l1.any():
        raise DoesNotApply(
            f"The images are the same with {condition.title} and without it, so there is nothing to remove: its scale "
            "is 0, or the model was never trained to look at it."
        )
    return _finding(subject, condition, prompts, pictures, images, found, norms, evaluations)


def _pictures(subject: Subject, condition: ImageCondition, count: int) -> list[Image.Image]:
    """One for each prompt, those that there are in turn."""
    if not subject.pictures:
        raise ShapefirstError(
            f"{subject.name} is given a picture beside the prompt ({condition.title}): say which with --image FILE, "
            "several times for several."
        )
    return [subject.pictures[i % len(subject.pictures)] for i in range(count)]


def _evaluations(subject: Subject, condition: ImageCondition, numbers: int) -> int:
    """Denoiser evaluations per image of all runs, and of the steps that are evaluated without the picture besides."""
    calls, _ = TextSchedule.always().calls(subject.steps, subject.solver_order)
    runs = 2 * numbers - 2
    return (condition.branches if subject.guidance_scale > 1 else 1) * (runs * calls + subject.steps)


def done_after(l1: np.ndarray, grid: Sequence[int]) -> float:
    """The number of steps after which the mean of L1 (n, len(grid)) has come down to `DONE` of that of the first, on
    straight lines between those of the grid."""
    mean = l1.mean(0)
    level = DONE * mean[0]
    if level == 0:  # where only prompts were drawn whose picture changes nothing
        return 0.0
    last = int(np.flatnonzero(mean > level)[-1])  # never that of the grid's end, which is 0
    part = (mean[last] - level) / (mean[last] - mean[last + 1])
    return float(grid[last] + part * (grid[last + 1] - grid[last]))


def _finding(
    subject: Subject,
    condition: ImageCondition,
    prompts: Sequence[Prompt],
    pictures: Sequence[Image.Image],
    images: Mapping[tuple[str, int], list[Image.Image]],
    found: Mapping[tuple[str, int], _At],
    norms: PictureNorms,
    evaluations: int,
) -> Finding:
    steps, n = subject.steps, len(prompts)
    grid = sorted({k for _, k in found})
    (half,) = steps_at([0.5], steps)
    l1 = {key: at.distances.l1 for key, at in found.items()}
    late = np.stack([l1[FIRST, half], l1[FIRST, 0]], axis=1)
    early = np.stack([l1[FIRST, half], l1[LAST, half]], axis=1)
    fifth = max(1, steps // 5)
    fades = np.stack([norms.difference[:, -fifth:].mean(1), norms.difference[:, :fifth].mean(1)], axis=1)
    done = bootstrap(
        np.stack([l1[FIRST, k] for k in grid], axis=1),
        lambda x: 100 / steps * done_after(x, grid),
        within=Range(0.0, 100.0),
    )
    title, name = condition.title, f"{condition.title[0].upper()}{condition.title[1:]}"
    similarity, primary = dropping.similarity_of(subject).title, subject.alignments[subject.primary]
    return Finding(
        claims=(
            claim(
                f"{name} has done its work after half of the steps.",
                paper="the removal holds for other conditions, too",
                quantity=f"L1 with it in the first {half} of {steps} steps over L1 without it",
                found=bootstrap(late, ratio_of_means, within=POSITIVE),
                rule=RULE_LATE,
                if_not=f"L1 comes down to a third after {done.estimate:.0f}% of the steps. A picture tells colours and "
                "textures besides the shape, which later steps draw; one of outlines or depth alone would tell.",
            ),
            claim(
                f"{name} does more in the first half of the steps than in the last.",
                paper="the early steps decide",
                quantity=f"L1 with it in the first {half} of {steps} steps over L1 with it in the last {half}",
                found=bootstrap(early, ratio_of_means, within=POSITIVE),
                rule=RULE_EARLY,
                if_not="The picture tells the model more about details than about shapes, or the model heeds it only "
                "where little noise is left; pictures of another kind would tell.",
            ),
            claim(
                f"What {title} changes in the prediction fades over the steps.",
                paper="the norm of the text's difference falls",
                quantity=f"|eps(t, x, C, I) - eps(t, x, C)|, its mean over the last {fifth} steps over that of the "
                f"first {fifth}",
                found=bootstrap(fades, ratio_of_means, within=POSITIVE),
                rule=RULE_FADES,
                if_not="A disagreement about the picture counts 1 / sigma_t times in eps, so it may grow in eps while "
                "it moves the image less and less; F6 has the same of the text.",
            ),
        ),
        table=_table(subject, prompts, found, norms),
        summaries=(
            _by_step(steps, found, similarity, primary),
            Summary(
                ("what", "found"),
                (
                    (
                        f"steps after which L1 is below {DONE:.0%} of that without it, % of {steps}",
                        shown(done, 0),
                    ),
                ),
            ),
            by_kind({f"L1 at {half} steps over L1 at 0": late}, prompts, statistic=ratio_of_means, within=POSITIVE),
        ),
        charts=(
            _distance_chart(found, grid, n, similarity),
            _content_chart(found, grid, n, primary.title, primary.unit),
            _norm_chart(norms),
        ),
        pictures=(
            picture(
                "dropped",
                {"the picture": [condition.fitted(one) for one in pictures]}
                | {f"k = {k}": images[FIRST, k] for k in grid},
                [prompt.text for prompt in prompts],
                f"The picture in the first k of {steps} steps, the text in all of them.",
                few=SHOWN,
            ),
        ),
        method=f"{n} prompts, one seed each, each with one of {len(subject.pictures)} pictures in turn; "
        f"{type(condition.pipe).__name__}, its own calls with its own settings beside those below. {condition.removed} "
        "The text is there in all steps. Norms are of the model's own output for the prompt, with and without the "
        "picture at the same x_t, in the run that has it in all steps. L1 in [0, 1]; the PSNR in tables is that of the "
        "mean squared error.",
        evaluations=evaluations,
    )


def _table(
    subject: Subject, prompts: Sequence[Prompt], found: Mapping[tuple[str, int], _At], norms: PictureNorms
) -> dict[str, list[Any]]:
    """A row for each prompt, place and k; the norms are those of step k of the run with the picture in all steps."""
    tables = []
    for (place, k), at in found.items():
        inside = k < subject.steps
        of_step = {
            "norm_without": norms.without[:, k] if inside else None,
            "norm_difference": norms.difference[:, k] if inside else None,
        }
        condition = {"place": place, "picture_steps": k}
        tables.append(distance_table(subject, prompts, at.distances, condition, alignment=at.alignment, **of_step))
    return stacked(tables)


def _by_step(steps: int, found: Mapping[tuple[str, int], _At], similarity: str, alignment: Alignment) -> Summary:
    rows = []
    for (place, k), at in found.items():
        if place == LAST and k in (0, steps):
            continue
        of = at.distances
        rows.append(
            (
                f"{place} {k} of {steps}" if 0 < k < steps else f"{k} of {steps}",
                cell(of.l1, within=SHARE),
                "identical" if k == steps else f"{mean_psnr(of.psnr):.1f}",
                cell(of.ssim, within=SIGNED),
                cell(of.similarity, within=SIGNED),
                cell(at.alignment, within=range_of(alignment)),
            )
        )
    names = ("steps with the picture", "L1", "PSNR, dB", "SSIM", similarity, alignment.title)
    caption = "Distance to the image of the same seed with the picture in all steps, and alignment with the prompt."
    return Summary(names, tuple(rows), caption)


def _panel(found: Mapping[tuple[str, int], _At], grid: Sequence[int], get: Any, title: str, unit: str) -> Panel:
    drawn = {f"{place} k steps": np.stack([get(found[place, k]) for k in grid], axis=1) for place in PLACES}
    return Panel(grid, drawn, {"title": title, "xlabel": "steps with the picture, k", "ylabel": unit})


def _distance_chart(found: Mapping[tuple[str, int], _At], grid: Sequence[int], n: int, similarity: str) -> Chart:
    panels = [
        _panel(found, grid, lambda at: at.distances.l1, "L1 to the image with it", "mean difference, 0 to 1"),
        _panel(found, grid, lambda at: at.distances.similarity, "Image-CLIP similarity", "similarity"),
    ]
    (half,) = steps_at([0.5], grid[-1])
    none, early, late = (found[key].distances.l1.mean() for key in ((FIRST, 0), (FIRST, half), (LAST, half)))
    return curves(
        "distance",
        panels,
        f"Distance to the image of the same seed with the picture in all steps ({similarity}); mean and 95% band, "
        f"n = {n} prompts.",
        f"Without the picture the L1 distance is {none:.3f}; with it in the first {half} steps it is {early:.3f}, in "
        f"the last {half} {late:.3f}.",
    )


def _content_chart(
    found: Mapping[tuple[str, int], _At], grid: Sequence[int], n: int, alignment: str, unit: str
) -> Chart:
    panels = [
        _panel(found, grid, lambda at: at.alignment, "Alignment with the prompt", unit),
        _panel(found, grid, lambda at: at.distances.ssim, "SSIM with the image with it", "SSIM"),
    ]
    first, last = (found[FIRST, k].alignment.mean() for k in (grid[0], grid[-1]))
    return curves(
        "content",
        panels,
        f"Alignment ({alignment}) and structural similarity; mean and 95% band, n = {n} prompts.",
        f"Alignment goes from {first:.2f} without the picture to {last:.2f} with it in all steps.",
    )


def _norm_chart(norms: PictureNorms) -> Chart:
    n, steps = norms.without.shape
    both = {"without the picture": norms.without, "difference": norms.difference}
    x = {"xlabel": "step (0 = noisiest)"}
    titles = {"title": "Norms of the predictions", "ylabel": "Euclidean norm", "ylim": (0, None), **x}
    panels = [
        Panel(range(steps), both, titles),
        Panel(
            range(steps),
            {"ratio": norms.difference / norms.without},
            {"title": "Difference over that without", "ylabel": "ratio of norms", **x},
            style=2,
        ),
    ]
    first, last = norms.difference[:, 0].mean(), norms.difference[:, -1].mean()
    return curves(
        "norms",
        panels,
        f"What the picture adds to the prediction in each step; mean and 95% band, n = {n} prompts.",
        f"The norm of the difference goes from {first:.2f} in the first step to {last:.2f} in the last.",
    )


STUDY: Final = Study(
    name="a6",
    title="Other conditions",
    question="How much does an image change if a picture that is given beside the prompt is dropped after k steps?",
    paper="The removal holds for other conditions, such as the picture of a subject or a face, too.",
    needs="prompts",
    count=8,
    cost=104,
    run=run,
    pictured=True,
)
