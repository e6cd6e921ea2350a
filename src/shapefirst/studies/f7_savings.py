"""F7: what does dropping the text save, in evaluations and in seconds, and what does it cost? The paper's table, small.

The paper's last column is the FID over 30,000 MS-COCO captions. Here it is a Frechet distance on the features that the
table names, of the few images of this run to other fully guided ones: same prompts, other seeds. Two such sets differ
from each other, too, so a distance is read beside that of the fully guided images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from PIL import Image

from shapefirst.findings import equal_fid
from shapefirst.findings.finding import Chart, Finding, Study, Summary, claim, subject_to
from shapefirst.findings.tables import shown, stacked
from shapefirst.images.jobs import Job, Sampling, generate
from shapefirst.measure.distances import Distances, distances_of, frechet_of_few, mean_psnr
from shapefirst.measure.frechet import frechet_distance
from shapefirst.measure.intervals import FEWEST, POSITIVE, SIGNED, Interval, Range, Rule, bootstrap
from shapefirst.models import with_sampler
from shapefirst.policies.schedule import TextSchedule
from shapefirst.policies.sharing import evaluations_together
from shapefirst.prompts import Prompt
from shapefirst.studies import dropping
from shapefirst.studies.conditions import estimates, picture
from shapefirst.studies.curves import Panel, curves
from shapefirst.studies.dropping import check_guidance, distance_table, steps_at
from shapefirst.studies.subject import Fork, Subject

#: Share of the seconds of fully guided calls that the text in half of the steps saves; of the evaluations it is 0.25.
RULE_TIME: Final = Rule("above", 0.2)

SHARES: Final = (0.0, 0.3, 0.5, 0.7, 1.0)
PAPER_SAMPLERS: Final = ("ddim", "dpm-solver")
BATCH: Final = 4
#: Rounds of timing, enough for a verdict; the smaller number for fewer prompts than FEW.
ROUNDS, QUICK_ROUNDS, FEW = FEWEST, 2, 12
SHOWN: Final = 6


@dataclass(frozen=True)
class Condition:
    """One row of the paper's table: a sampler with the text in k steps.

    Attributes:
        images: n.
        features: (n, d), of the images.
        reference: (n, d), of other fully guided images.
        saved: Share of the evaluations of full guidance.
        distances: To the fully guided images of the same seeds.
        seconds: (rounds,), share of the fully guided calls' seconds that was saved; None where it was not timed.
    """

    images: Sequence[Image.Image]
    features: np.ndarray
    reference: np.ndarray
    saved: float
    distances: Distances
    seconds: np.ndarray | None

    @cached_property
    def frechet(self) -> float:
        """Distance of the images to the reference set."""
        return frechet_distance(self.features, self.reference)

    def about(self, sampler: str, text_steps: int) -> dict[str, Any]:
        """What the tidy table says of it; Frechet distance and seconds are of all images together."""
        seconds = None if self.seconds is None else float(np.median(self.seconds))
        told = {"sampler": sampler, "text_steps": text_steps, "saved_evaluations": self.saved}
        return {**told, "frechet": self.frechet, "saved_seconds": seconds}


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Forks with each sampler, a reference set, and a timing of whole calls."""
    check_guidance(subject)
    steps, n = subject.steps, len(prompts)
    grid, (half,) = steps_at(SHARES, steps), steps_at([0.5], steps)
    rounds = ROUNDS if n >= FEW else QUICK_ROUNDS
    others = [name for name in PAPER_SAMPLERS if name != subject.sampler]
    subjects = [subject] + [replace(subject, pipe=with_sampler(subject.pipe, name), sampler=name) for name in others]
    timed = sorted({half, steps})
    orders = [one.solver_order for one in subjects]
    runs = [TextSchedule.until(k) for k in grid]
    done = sum(evaluations_together(runs, steps, subject.guidance_scale, order) for order in orders)
    apart = sum(run.evaluations(steps, order) for run in runs for order in orders)
    calls = sum(TextSchedule.until(k).evaluations(steps, order) for k in timed for order in orders)
    subject.meter.expect((done + subject.cost()) * n + rounds * BATCH * calls)

    similarity = dropping.similarity_of(subject)
    title, features = dropping.features_of(subject)
    embeddings, seeds = subject.encode(prompts), subject.seeds(n)
    reference = np.asarray(features(subject.sample(embeddings, subject.seeds(2 * n)[n:])), dtype=np.float64)

    found: dict[tuple[str, int], Condition] = {}
    for one in subjects:
        drop = {"null": lambda k: Fork(schedule=TextSchedule.until(k))}
        whole, forked = one.fork(embeddings, seeds, grid[:-1], drop)
        seconds = call_seconds(one, prompts, timed, rounds)
        for k in grid:
            images = whole if k == steps else forked["null", k]
            found[one.sampler, k] = Condition(
                images=images,
                features=np.asarray(features(images), dtype=np.float64),
                saved=one.saved(k),
                distances=distances_of(images, whole, similarity),
                seconds=1 - seconds[k] / seconds[steps] if k in seconds else None,
                reference=reference,
            )
    finding = _finding(subject, prompts, found, half, (title, similarity.title))
    return replace(finding, evaluations=done + subject.cost(), evaluations_apart=apart + subject.cost())


def call_seconds(subject: Subject, prompts: Sequence[Prompt], at: Sequence[int], rounds: int) -> dict[int, np.ndarray]:
    """Seconds of whole pipeline calls on ``BATCH`` prompts with the text in k steps: k -> (rounds,).

    The numbers of steps take turns, in reversed order every other round.
    """
    pipe = copy.copy(subject.pipe)
    pipe.set_progress_bar_config(disable=True)  # of the copy
    jobs = [Job(prompts[i % len(prompts)].text, subject.seed + i) for i in range(BATCH)]
    schedules = [(str(k), TextSchedule.until(k)) for k in at]
    taken: dict[int, list[float]] = {k: [] for k in at}
    for i in range(rounds):
        turns = dict(schedules if i % 2 == 0 else schedules[::-1])
        made = generate(pipe, jobs, turns, Sampling(subject.guidance_scale, subject.steps), batch_size=BATCH)
        for name, results in made.items():
            taken[int(name)].append(sum(result.seconds for result in results))
            subject.meter.add(sum(result.evaluations for result in results))
    return {k: np.array(values) for k, values in taken.items()}


def frechet_ratio(x: np.ndarray) -> float:
    """(n, 3, d), features of the images with less text, with all text, and of the reference -> ratio of distances."""
    less, full = (frechet_of_few(x[:, i], x[:, 2]) for i in range(2))
    return less / full if full > 0 else float("nan")


def _finding(
    subject: Subject,
    prompts: Sequence[Prompt],
    found: Mapping[tuple[str, int], Condition],
    half: int,
    titles: tuple[str, str],
) -> Finding:
    steps, n = subject.steps, len(prompts)
    features, similarity = titles
    samplers, grid = (list(dict.fromkeys(of)) for of in zip(*found, strict=True))
    own = {k: found[subject.sampler, k] for k in grid}
    saved = {sampler: _share_saved(found[sampler, half]) for sampler in samplers}
    rounds = saved[subject.sampler].n
    ratios = [
        bootstrap(
            np.stack([own[k].features, own[steps].features, own[k].reference], axis=1), frechet_ratio, within=POSITIVE
        )
        for k in (half, grid[0])
    ]
    close = claim(
        f"The images with text in {half} of {steps} steps are about as close to fully guided ones as those are to each "
        "other.",
        paper=equal_fid.PAPER,
        quantity=f"Frechet distance ({features}) to fully guided images of other seeds, over that of full guidance",
        found=ratios[0],
        rule=equal_fid.RULE_CLOSE,
        if_not="Half of the steps are too few for this model, or n is too small for its features; the same study with "
        "more prompts, and the row for 70% of the steps, tell the two apart.",
    )
    control = claim(
        "So few images are enough to tell those without any text from fully guided ones.",
        paper="not asked: 30,000 images",
        quantity=f"the same ratio with text in {grid[0]} steps",
        found=ratios[1],
        rule=equal_fid.RULE_CONTROL,
        if_not="The Frechet distance of few images is mostly their number: the same study with more prompts would "
        "tell.",
    )
    close = subject_to(control, close, equal_fid.UNCONTROLLED)
    return Finding(
        claims=(
            claim(
                f"Text in {half} of {steps} steps saves a fifth of the time or more.",
                paper="25% and more of the latency",
                quantity=f"share of the seconds of fully guided calls, median over {rounds} rounds",
                found=saved[subject.sampler],
                rule=RULE_TIME,
                if_not="Text encoder and decoder are not saved, and small batches do not halve a step's time; "
                "benchmarks/saving.py with larger batches on an idle machine would tell.",
            ),
            close,
            control,
        ),
        table=stacked([distance_table(subject, prompts, at.distances, at.about(*key)) for key, at in found.items()]),
        summaries=(summary(found, steps, features, similarity),),
        charts=(_cost_chart(found, samplers, grid, n, features), _time_chart(saved, own[half].saved)),
        pictures=(
            picture(
                "saved",
                {f"{k} of {steps}, {at.saved:.0%} saved": at.images for k, at in own.items()},
                [prompt.text for prompt in prompts],
                f"Text in the first k of {steps} steps.",
                few=SHOWN,
            ),
        ),
        method=f"{n} prompts, one seed each, with {', '.join(samplers)} at {steps} steps; null kept where the text is "
        f"dropped. The images are forks of the fully guided run. Frechet distance on {features}, to {n} fully guided "
        f"images ({subject.sampler}) of the same prompts with other seeds; it is biased upwards for few images, the "
        "same way in every row, so it is read against the row with text in all steps. Their ratio is drawn towards 1 "
        "by that, so it counts only if the images without text have one well above. It is not the paper's FID, "
        f"which takes Inception features of 30,000 images. Seconds: whole calls, batch {BATCH}, text encoder and "
        f"decoder included, text in half and in all of the steps taking turns over {rounds} rounds after a "
        "warm-up; the fully guided calls carry the same hook with the text in all steps. The interval of the time is "
        "over rounds, that of the Frechet distance over prompts, all three sets of images resampled together.",
    )


def _share_saved(at: Condition) -> Interval:
    assert at.seconds is not None  # half of the steps are timed with every sampler
    return bootstrap(at.seconds, np.median, within=Range(-np.inf, 1.0))


def summary(found: Mapping[tuple[str, int], Condition], steps: int, features: str, similarity: str) -> Summary:
    """The paper's table."""
    rows = []
    for (sampler, k), at in found.items():
        of = at.distances
        rows.append(
            (
                sampler,
                f"{k} of {steps}",
                f"{at.saved:.1%}",
                "not timed" if at.seconds is None else "0.0%" if k == steps else f"{np.median(at.seconds):.1%}",
                f"{of.l1.mean():.3f}",
                "identical" if k == steps else f"{mean_psnr(of.psnr):.1f}",
                shown(bootstrap(of.similarity, within=SIGNED)),
                f"{at.frechet:.4g}",
                f"{at.frechet - found[sampler, steps].frechet:+.4g}",
            )
        )
    heads = ("sampler", "text steps", "evaluations saved", "seconds saved", "L1", "PSNR, dB", similarity)
    caption = f"Distances to the fully guided image of the same seed; Frechet distance on {features}."
    return Summary((*heads, "Frechet distance", "over full guidance"), tuple(rows), caption)


def _cost_chart(
    found: Mapping[tuple[str, int], Condition], samplers: Sequence[str], grid: Sequence[int], n: int, features: str
) -> Chart:
    conditions = {sampler: [found[sampler, k] for k in grid] for sampler in samplers}
    saved = {sampler: [100 * at.saved for at in mine] for sampler, mine in conditions.items()}

    def panel(title: str, unit: str, get: Callable[[Condition], np.ndarray], **limits: Any) -> Panel:
        values = {sampler: np.stack([get(at) for at in mine], axis=1) for sampler, mine in conditions.items()}
        return Panel(saved, values, {"title": title, "xlabel": "evaluations saved, %", "ylabel": unit, **limits})

    panels = [
        panel("L1 to the guided image", "mean difference, 0 to 1", lambda at: at.distances.l1),
        panel("Image-CLIP similarity", "similarity", lambda at: at.distances.similarity),
        # One number of all images: the band of as many equal ones is a line.
        panel("Frechet distance to other seeds", features, lambda at: np.full(n, at.frechet), ylim=(0, None)),
    ]
    sampler = samplers[0]
    most, full = found[sampler, grid[0]], found[sampler, grid[-1]]
    return curves(
        "cost",
        panels,
        f"What is paid for the saving; mean and, for the first two, 95% band over n = {n} prompts.",
        f"With {sampler}, saving {most.saved:.0%} of the evaluations changes the images by an L1 of "
        f"{most.distances.l1.mean():.3f}; the Frechet distance goes from {full.frechet:.4g} to {most.frechet:.4g}.",
        width=9.6,
    )


def _time_chart(saved: Mapping[str, Interval], expected: float) -> Chart:
    percent = {name: Interval(100 * s.estimate, 100 * s.low, 100 * s.high, s.n) for name, s in saved.items()}
    told = [f"{one.estimate:.0f}% of the seconds with {sampler}" for sampler, one in percent.items()]
    return estimates(
        "time",
        percent,
        f"Seconds of whole calls of batch {BATCH}, against fully guided ones: median and 95% interval, "
        f"n = {next(iter(saved.values())).n} rounds. Dotted: as many as evaluations.",
        f"Saving {100 * expected:.0f}% of the evaluations saves {', '.join(told)}.",
        at=100 * expected,
        xlabel="seconds saved, %",
    )


STUDY: Final = Study(
    name="f7",
    title="What it saves",
    question="How much time does dropping the text save, and how much do the images lose?",
    paper="More than a quarter of the latency at about equal FID.",
    needs="prompts",
    count=8,
    cost=60,
    judged=True,
    run=run,
)
