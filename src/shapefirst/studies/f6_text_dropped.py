"""F6: when has the text done its work? Text in the first k steps alone, against the guided image of the same seed.

    d_t      = eps(t, x_t, C) - eps(t, x_t, 0)                      what the text changes in step t
    sigma_t  = sqrt((1 - abar_t) / abar_t)                          noise over signal
    push_t   = w (sigma_t - sigma_(t+1)) |d_t|                      how far that moves x_t / sqrt(abar_t)

The last line is a step of DDIM, dx / sqrt(abar) = eps dsigma (Song et al. 2021, arXiv 2010.02502, eq. 14): the same
d_t moves the picture the less, the later it comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from shapefirst.families.noise import noise_to_signal
from shapefirst.findings.finding import Chart, Finding, Study, Summary, claim
from shapefirst.findings.tables import cell, shown, stacked
from shapefirst.measure.distances import Distances, distances_of, mean_psnr
from shapefirst.measure.intervals import POSITIVE, SHARE, SIGNED, Rule, bootstrap, ratio_of_means
from shapefirst.policies.schedule import Branch as Kept
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.sharing import evaluations_together
from shapefirst.prompts import Prompt
from shapefirst.sampling.loop import Step
from shapefirst.studies import dropping
from shapefirst.studies.conditions import by_kind, picture
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import check_guidance, distance_table, steps_at
from shapefirst.studies.subject import Fork, Subject

#: L1 to the fully guided image with the text in half of the steps, over that without any text: the later half of the
#: text makes less than a third of the difference that all of it makes.
RULE_LATE: Final = Rule("below", 1 / 3)
#: |d_t| in the last fifth of the steps over that in the first: the difference fades, as the paper says.
RULE_FADES: Final = Rule("below", 1.0)

SHARES: Final = tuple(i / 10 for i in range(11))
SHOWN_SHARES: Final = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
SHOWN: Final = 6
KEEPS: Final[tuple[Kept, ...]] = ("null", "text")


@dataclass(frozen=True)
class Norms:
    """Per prompt and step, (n, N), of the fully guided run.

    Attributes:
        null: |eps(t, x_t, 0)|.
        difference: |d_t|.
        push: push_t; the last step's ends at sigma = 0.
    """

    null: np.ndarray
    difference: np.ndarray
    push: np.ndarray

    @property
    def to_come(self) -> np.ndarray:
        """(n, N + 1): the share of all the push that steps k and later make, for k from 0 to N."""
        after = np.cumsum(self.push[:, ::-1], axis=1)[:, ::-1]
        return np.pad(after, ((0, 0), (0, 1))) / after[:, :1]


class Watch:
    """Takes the norms of a trunk's steps, for ``Subject.fork``."""

    def __init__(self, count: int, steps: int) -> None:
        self._sigma = np.zeros(steps + 1)
        self._null, self._difference = np.zeros((2, count, steps))

    def __call__(self, rows: slice, step: Step) -> None:
        assert step.eps_null is not None  # every step of the trunk is guided
        assert step.eps_text is not None
        self._sigma[step.index] = noise_to_signal(step.solver, step.t)
        self._null[rows, step.index] = _norm(step.eps_null)
        self._difference[rows, step.index] = _norm(step.eps_text - step.eps_null)

    def norms(self, guidance_scale: float) -> Norms:
        push = guidance_scale * -np.diff(self._sigma) * self._difference
        return Norms(self._null, self._difference, push)


@dataclass(frozen=True)
class _At:
    """Images with the text in ``k`` steps; as ``keep`` says afterwards."""

    distances: Distances
    alignment: np.ndarray


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Forks of the fully guided runs."""
    check_guidance(subject)
    steps, seeds = subject.steps, subject.seeds(len(prompts))
    grid = steps_at(SHARES, steps)
    together, apart = evaluations_of_forks(grid, steps, subject.solver_order)
    subject.meter.expect(together * len(prompts))

    def leaving(keep: Kept) -> Any:
        return lambda k: Fork(schedule=TextSchedule.until(k, keep=keep))

    watch = Watch(len(prompts), steps)
    trunk, forked = subject.fork(
        subject.encode(prompts), seeds, grid[:-1], {keep: leaving(keep) for keep in KEEPS}, on_step=watch
    )
    forked |= {(keep, steps): trunk for keep in KEEPS}
    similarity = dropping.similarity_of(subject)
    primary = subject.alignments[subject.primary]
    whole = _At(distances_of(trunk, trunk, similarity), primary.score(trunk, prompts))
    found = {
        key: whole if key[1] == steps else _At(distances_of(images, trunk, similarity), primary.score(images, prompts))
        for key, images in forked.items()
    }
    norms = watch.norms(subject.guidance_scale)

    (half,) = steps_at([0.5], steps)
    late = _late(found, half)
    fifth = max(1, steps // 5)
    fades = np.stack([norms.difference[:, -fifth:].mean(1), norms.difference[:, :fifth].mean(1)], axis=1)
    return Finding(
        claims=(
            claim(
                "Dropping the text late changes little.",
                paper="the images of late removal resemble the fully guided ones",
                quantity=f"L1 with the text in {half} of {steps} steps over L1 without text (null kept)",
                found=bootstrap(late, ratio_of_means, within=POSITIVE),
                rule=RULE_LATE,
                if_not="Where a strong guidance scale has to hold the object to the end, half of the steps are too "
                "few; the same run at a smaller scale would tell.",
            ),
            claim(
                "The difference between the predictions with and without text fades over the steps.",
                paper="the norm of eps(t,x,C) - eps(t,x,0) falls",
                quantity=f"its mean over the last {fifth} steps over that of the first {fifth}",
                found=bootstrap(fades, ratio_of_means, within=POSITIVE),
                rule=RULE_FADES,
                if_not="A disagreement about the picture counts 1 / sigma_t times in eps, so the branches may differ "
                "in eps the more, the later the step; what moves the picture is eps times the step in sigma, drawn "
                "beside it as the push to come. The run on Stable Diffusion v1.5 would tell whether the rise is this "
                "model's.",
            ),
        ),
        table=_table(subject, prompts, found, norms),
        summaries=(
            _by_step(subject, found, grid, similarity.title, primary.title),
            by_kind(
                {f"L1 at {half} steps over L1 at 0": late, "late over early difference": fades},
                prompts,
                "Null kept.",
                ratio_of_means,
                within=POSITIVE,
            ),
        ),
        charts=(
            _distance_chart(found, grid, len(prompts), similarity.title),
            _content_chart(found, grid, len(prompts), primary.title, primary.unit),
            _norm_chart(norms),
        ),
        pictures=(
            picture(
                "dropped",
                {f"k = {k}": forked["null", k] for k in steps_at(SHOWN_SHARES, steps)},
                [prompt.text for prompt in prompts],
                f"Text in the first k of {steps} steps, the null prediction afterwards.",
                few=SHOWN,
            ),
        ),
        method=f"{len(prompts)} prompts, one seed each. The fully guided run is the trunk; at each of the "
        f"{len(grid) - 1} numbers of steps k a branch leaves it that keeps the null prediction, and one that keeps "
        f"the text prediction without guidance: {together} evaluations an image, {apart} if every run were made by "
        "itself. L1 in [0, 1]; the PSNR in tables is that of the mean squared error.",
        evaluations=together,
        evaluations_apart=apart,
    )


def evaluations_of_forks(grid: Sequence[int], steps: int, solver_order: int = 1) -> tuple[int, int]:
    """Denoiser evaluations per image for the whole grid (its last is N), with the prefixes shared and without."""
    runs = [TextSchedule.always(), *(TextSchedule.until(k, keep=keep) for keep in KEEPS for k in grid if k < steps)]
    together = evaluations_together(runs, steps, guidance_scale=2.0, solver_order=solver_order)
    return together, sum(run.evaluations(steps, solver_order) for run in runs)


def _late(found: Mapping[tuple[str, int], _At], half: int) -> np.ndarray:
    """(n, 2): L1 with the text in half of the steps, and in none."""
    return np.stack([found["null", k].distances.l1 for k in (half, 0)], axis=1)


def _norm(x: Any) -> np.ndarray:
    """(B,) of (B, C, H, W)."""
    return x.float().flatten(1).norm(dim=1).cpu().numpy()


def _table(
    subject: Subject, prompts: Sequence[Prompt], found: Mapping[tuple[str, int], _At], norms: Norms
) -> dict[str, list[Any]]:
    """A row for each prompt, branch kept and k; the norms are those of the trunk's step k."""
    tables = []
    for (keep, k), at in found.items():
        inside = k < subject.steps
        condition = {"keep": keep, "text_steps": k, "saved_evaluations": subject.saved(k)}
        of_step = {
            "norm_null": norms.null[:, k] if inside else None,
            "norm_difference": norms.difference[:, k] if inside else None,
            "push_to_come": norms.to_come[:, k],
        }
        tables.append(distance_table(subject, prompts, at.distances, condition, alignment=at.alignment, **of_step))
    return stacked(tables)


def _by_step(
    subject: Subject, found: Mapping[tuple[str, int], _At], grid: Sequence[int], similarity: str, alignment: str
) -> Summary:
    rows, steps = [], subject.steps
    for keep in KEEPS:
        for k in grid:
            at = found[keep, k]
            of = at.distances
            rows.append(
                (
                    f"{keep} kept, {k} of {steps}",
                    f"{subject.saved(k):.0%}",
                    shown(bootstrap(of.l1, within=SHARE), 3),
                    "identical" if k == steps else f"{mean_psnr(of.psnr):.1f}",
                    shown(bootstrap(of.ssim, within=SIGNED)),
                    cell(of.similarity, within=SIGNED),
                    cell(at.alignment, within=subject.range_of(subject.primary)),
                )
            )
    names = ("text steps", "evaluations saved", "L1", "PSNR, dB", "SSIM", similarity, alignment)
    return Summary(
        names, tuple(rows), "Distance to the fully guided image of the same seed, and alignment with the prompt."
    )


def _panel(found: Mapping[tuple[str, int], _At], grid: Sequence[int], get: Any, title: str, unit: str) -> Panel:
    drawn = {f"{keep} kept": np.stack([get(found[keep, k]) for k in grid], axis=1) for keep in KEEPS}
    return Panel(grid, drawn, {"title": title, "xlabel": "steps with text, k", "ylabel": unit})


def _distance_chart(found: Mapping[tuple[str, int], _At], grid: Sequence[int], n: int, similarity: str) -> Chart:
    panels = [
        _panel(found, grid, lambda at: at.distances.l1, "L1 to the guided image", "mean difference, 0 to 1"),
        _panel(found, grid, lambda at: at.distances.similarity, "Image-CLIP similarity", "similarity"),
    ]
    none, middle = found["null", 0].distances.l1.mean(), grid[len(grid) // 2]
    return curves(
        "distance",
        panels,
        f"Distance to the fully guided image of the same seed ({similarity}); mean and 95% band, n = {n} prompts.",
        f"Without any text the L1 distance is {none:.3f}; with the text in the first {middle} steps it is "
        f"{found['null', middle].distances.l1.mean():.3f} if the null prediction is kept and "
        f"{found['text', middle].distances.l1.mean():.3f} if the text prediction is.",
    )


def _content_chart(
    found: Mapping[tuple[str, int], _At], grid: Sequence[int], n: int, alignment: str, unit: str
) -> Chart:
    panels = [
        _panel(found, grid, lambda at: at.alignment, "Alignment with the prompt", unit),
        _panel(found, grid, lambda at: at.distances.ssim, "SSIM with the guided image", "SSIM"),
    ]
    first, last = (found["null", k].alignment.mean() for k in (grid[0], grid[-1]))
    return curves(
        "content",
        panels,
        f"Alignment ({alignment}) and structural similarity; mean and 95% band, n = {n} prompts.",
        f"Alignment goes from {first:.2f} without text to {last:.2f} with the text in all steps.",
    )


def _norm_chart(norms: Norms) -> Chart:
    n, steps = norms.null.shape
    both = {"eps(t, x, 0)": norms.null, "eps(t, x, C) - eps(t, x, 0)": norms.difference}
    ratio, to_come = {"ratio": norms.difference / norms.null}, {"share": norms.to_come}
    x = {"xlabel": "step (0 = noisiest)"}
    panels = [
        Panel(
            range(steps),
            both,
            {"title": "Norms of the predictions", "ylabel": "Euclidean norm", "ylim": (0, None), **x},
        ),
        Panel(range(steps), ratio, {"title": "Difference over null", "ylabel": "ratio of norms", **x}, style=2),
        Panel(
            range(steps + 1),
            to_come,
            {"title": "Push of the text to come", "ylabel": "share of its whole push", **x},
            style=3,
        ),
    ]
    first, last = norms.difference[:, 0].mean(), norms.difference[:, -1].mean()
    left = norms.to_come[:, steps // 2].mean()
    return curves(
        "norms",
        panels,
        "What the text adds to the prediction in each step of the fully guided run, and how much of the way that it "
        f"moves the picture is still to come; mean and 95% band, n = {n} prompts.",
        f"The norm of the difference goes from {first:.2f} in the first step to {last:.2f} in the last; "
        f"{left:.0%} of the text's push comes after half of the steps.",
        width=9.6,
    )


STUDY: Final = Study(
    name="f6",
    title="When the text has done its work",
    question="How much does an image change if the text is dropped after the first k steps?",
    paper="The difference between the predictions fades, and dropping the text late changes little.",
    needs="prompts",
    count=8,
    cost=53,
    run=run,
)
