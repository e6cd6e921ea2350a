"""F7: what does dropping the text save, in evaluations and in seconds, and what does it cost? The paper's table, small.

The paper's last column is the FID over 30,000 MS-COCO captions. Here it is a Frechet distance on the features that the
table names, of the few images of this run to other fully guided ones: same prompts, other seeds. Two such sets differ
from each other, too, so a distance is read beside that of the fully guided images.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from PIL import Image

from shapefirst.drawing import charts
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.findings import equal_fid
from shapefirst.findings.finding import Chart, Finding, Picture, Study, Summary, claim, subject_to
from shapefirst.findings.tables import columns, shown
from shapefirst.images.jobs import Job, Sampling, generate
from shapefirst.measure.distances import Distances, distances_of, frechet_of_few, mean_psnr
from shapefirst.measure.frechet import frechet_distance
from shapefirst.measure.intervals import Interval, Rule, bootstrap
from shapefirst.models import with_sampler
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts import Prompt
from shapefirst.studies import dropping
from shapefirst.studies.dropping import check_guidance, steps_at
from shapefirst.studies.subject import Fork, Subject

#: Share of the seconds of fully guided calls that the text in half of the steps saves; of the evaluations it is 0.25.
RULE_TIME: Final = Rule("above", 0.2)

SHARES: Final = (0.0, 0.3, 0.5, 0.7, 1.0)
PAPER_SAMPLERS: Final = ("ddim", "dpm-solver")
BATCH: Final = 4
#: Rounds of timing; the smaller number for fewer prompts than FEW.
ROUNDS, QUICK_ROUNDS, FEW = 5, 2, 12
SHOWN: Final = 6


@dataclass(frozen=True)
class Condition:
    """One row of the paper's table: a sampler with the text in k steps.

    Attributes:
        saved: Share of the evaluations of full guidance, (N - k) / 2N.
        distances: To the fully guided images of the same seeds.
        frechet: Of the images to the reference set.
        seconds: (rounds,), share of the fully guided calls' seconds that was saved; None where it was not timed.
    """

    saved: float
    distances: Distances
    frechet: float
    seconds: np.ndarray | None


def run(subject: Subject, prompts: Sequence[Prompt]) -> Finding:
    """Forks with each sampler, a reference set, and a timing of whole calls."""
    check_guidance(subject)
    steps, n = subject.steps, len(prompts)
    grid, (half,) = steps_at(SHARES, steps), steps_at([0.5], steps)
    each, rounds = evaluations_of_removals(grid, steps), ROUNDS if n >= FEW else QUICK_ROUNDS
    subjects = [subject] + [
        replace(subject, pipe=with_sampler(subject.pipe, name), sampler=name)
        for name in PAPER_SAMPLERS
        if name != subject.sampler
    ]
    timed = sorted({half, steps})
    calls = len(subjects) * sum(steps + k for k in timed)
    subject.meter.expect((len(subjects) * each + 2 * steps) * n + rounds * BATCH * calls)

    similarity = dropping.similarity_of(subject)
    title, features = dropping.features_of(subject)
    embeddings, seeds = subject.encode(prompts), subject.seeds(n)
    others = [subject.seed + n + i for i in range(n)]
    reference = np.asarray(features(subject.sample(embeddings, others)), dtype=np.float64)

    found: dict[tuple[str, int], Condition] = {}
    own_images: dict[int, list[Image.Image]] = {}
    resampled: dict[int, np.ndarray] = {}
    for one in subjects:
        drop = {"null": lambda k: Fork(schedule=TextSchedule.until(k))}
        whole, forked = one.fork(embeddings, seeds, grid[:-1], drop)
        images = {k: forked["null", k] for k in grid[:-1]} | {steps: whole}
        seconds = call_seconds(one, prompts, timed, rounds)
        for k in grid:
            of_k = np.asarray(features(images[k]), dtype=np.float64)
            found[one.sampler, k] = Condition(
                saved=TextSchedule.until(k).saved(steps),
                distances=distances_of(images[k], whole, similarity),
                frechet=frechet_distance(of_k, reference),
                seconds=1 - seconds[k] / seconds[steps] if k in seconds else None,
            )
            if one is subject:
                own_images[k], resampled[k] = images[k], of_k
    return _finding(
        subject,
        prompts,
        found,
        own_images,
        [
            bootstrap(np.stack([resampled[k], resampled[steps], reference], axis=1), frechet_ratio)
            for k in (half, grid[0])
        ],
        half,
        (title, similarity.title),
    )


def evaluations_of_removals(grid: Sequence[int], steps: int) -> int:
    """Denoiser evaluations per image for a run with full guidance and its branches at the rest of the grid."""
    return 2 * steps + sum(steps - k for k in grid if k < steps)


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
    images: Mapping[int, list[Image.Image]],
    ratios: Sequence[Interval],
    half: int,
    titles: tuple[str, str],
) -> Finding:
    steps, n = subject.steps, len(prompts)
    features, similarity = titles
    grid = sorted(images)
    each = evaluations_of_removals(grid, steps)
    own = found[subject.sampler, half]
    assert own.seconds is not None  # half of the steps are timed with every sampler
    samplers = list(dict.fromkeys(sampler for sampler, _ in found))
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
                quantity=f"share of the seconds of fully guided calls, median over {len(own.seconds)} rounds",
                found=bootstrap(own.seconds, _median),
                rule=RULE_TIME,
                if_not="Text encoder and decoder are not saved, and small batches do not halve a step's time; "
                "benchmarks/saving.py with larger batches on an idle machine would tell.",
            ),
            close,
            control,
        ),
        table=columns(_rows(subject, prompts, found)),
        summaries=(summary(found, steps, features, similarity),),
        charts=(_cost_chart(found, samplers, grid, n, features), _time_chart(found, samplers, half)),
        pictures=(_picture(prompts, images, steps),),
        method=f"{n} prompts, one seed each, with {', '.join(samplers)} at {steps} steps; null kept where the text is "
        f"dropped. The images are forks of the fully guided run. Frechet distance on {features}, to {n} fully guided "
        f"images ({subject.sampler}) of the same prompts with other seeds; it is biased upwards for few images, the "
        "same way in every row, so it is read against the row with text in all steps. Their ratio is drawn towards 1 "
        "by that, so it counts only if the images without text have one well above. It is not the paper's FID, "
        f"which takes Inception features of 30,000 images. Seconds: whole calls, batch {BATCH}, text encoder and "
        f"decoder included, text in half and in all of the steps taking turns over {len(own.seconds)} rounds after a "
        "warm-up; the fully guided calls carry the same hook with the text in all steps. The interval of the time is "
        "over rounds, that of the Frechet distance over prompts, all three sets of images resampled together.",
        evaluations=len(samplers) * each + 2 * steps,
        evaluations_apart=len(samplers) * sum(steps + k for k in grid) + 2 * steps,
    )


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
                shown(bootstrap(of.similarity)),
                f"{at.frechet:.4g}",
                f"{at.frechet - found[sampler, steps].frechet:+.4g}",
            )
        )
    names = (
        "sampler",
        "text steps",
        "evaluations saved",
        "seconds saved",
        "L1",
        "PSNR, dB",
        similarity,
        "Frechet distance",
        "over full guidance",
    )
    caption = f"Distances to the fully guided image of the same seed; Frechet distance on {features}."
    return Summary(names, tuple(rows), caption)


def _rows(
    subject: Subject, prompts: Sequence[Prompt], found: Mapping[tuple[str, int], Condition]
) -> list[dict[str, Any]]:
    """One for each prompt, sampler and k; Frechet distance and seconds are of the whole condition."""
    return [
        {
            "prompt": prompt.text,
            "kind": prompt.source,
            "seed": subject.seed + i,
            "sampler": sampler,
            "text_steps": k,
            "saved_evaluations": at.saved,
            **at.distances.row(i),
            "frechet": at.frechet,
            "saved_seconds": None if at.seconds is None else float(np.median(at.seconds)),
        }
        for (sampler, k), at in found.items()
        for i, prompt in enumerate(prompts)
    ]


def _median(values: np.ndarray) -> float:
    return float(np.median(values))


def _cost_chart(
    found: Mapping[tuple[str, int], Condition], samplers: Sequence[str], grid: Sequence[int], n: int, features: str
) -> Chart:
    with charts.figure(3, width=9.6) as (drawn, axes):
        for style, sampler in enumerate(samplers):
            conditions = [found[sampler, k] for k in grid]
            saved = [100 * at.saved for at in conditions]
            for axis, name in zip(axes, ("l1", "similarity"), strict=False):
                values = np.stack([getattr(at.distances, name) for at in conditions], axis=1)
                charts.band(axis, saved, values, style=style, label=sampler, every=1)
            colour, line, marker = charts.STYLES[style]
            axes[2].plot(saved, [at.frechet for at in conditions], color=colour, linestyle=line, marker=marker)
        axes[0].set(title="L1 to the guided image", ylabel="mean difference, 0 to 1")
        axes[1].set(title="Image-CLIP similarity", ylabel="similarity")
        axes[2].set(title="Frechet distance to other seeds", ylabel=features, ylim=(0, None))
        axes[0].legend()
        for axis in axes:
            axis.set_xlabel("evaluations saved, %")
        image = charts.svg(drawn)
    sampler = samplers[0]
    most, full = found[sampler, grid[0]], found[sampler, grid[-1]]
    return Chart(
        "cost",
        image,
        f"What is paid for the saving; mean and, for the first two, 95% band over n = {n} prompts.",
        f"With {sampler}, saving {most.saved:.0%} of the evaluations changes the images by an L1 of "
        f"{most.distances.l1.mean():.3f}; the Frechet distance goes from {full.frechet:.4g} to {most.frechet:.4g}.",
    )


def _time_chart(found: Mapping[tuple[str, int], Condition], samplers: Sequence[str], half: int) -> Chart:
    rounds, told = 0, []
    with charts.figure(1, width=4.4) as (drawn, (axis,)):
        for style, sampler in enumerate(samplers):
            at = found[sampler, half]
            assert at.seconds is not None  # half of the steps are timed with every sampler
            rounds, middle = len(at.seconds), bootstrap(at.seconds, _median)
            reach = [[100 * (middle.estimate - middle.low)], [100 * (middle.high - middle.estimate)]]
            axis.errorbar(
                [100 * at.saved + style / 3],  # side by side
                [100 * middle.estimate],
                yerr=reach,
                color=charts.STYLES[style][0],
                marker=charts.STYLES[style][2],
                capsize=4,
                linestyle="none",
                label=sampler,
            )
            told.append(f"{100 * middle.estimate:.0f}% of the seconds with {sampler}")
        saved = 100 * found[samplers[0], half].saved
        axis.plot([0, saved + 3], [0, saved + 3], color="black", linestyle=":", label="as many as evaluations")
        axis.set(title="Time saved", xlabel="evaluations saved, %", ylabel="seconds saved, %")
        axis.legend()
        image = charts.svg(drawn)
    return Chart(
        "time",
        image,
        f"Seconds of whole calls of batch {BATCH}, against fully guided ones: median and 95% interval, n = {rounds} "
        "rounds.",
        f"Saving {saved:.0f}% of the evaluations saves {', '.join(told)}.",
    )


def _picture(prompts: Sequence[Prompt], images: Mapping[int, list[Image.Image]], steps: int) -> Picture:
    few, ks = prompts[:SHOWN], sorted(images)
    return Picture(
        "saved",
        contact_sheet(
            [[Cell(images[k][i]) for k in ks] for i in range(len(few))],
            column_titles=[f"{k} of {steps}\n{TextSchedule.until(k).saved(steps):.0%} saved" for k in ks],
            row_titles=[prompt.text for prompt in few],
            picture_width=128,
        ),
        f"The first {len(few)} prompts, one seed each, none selected: text in the first k of {steps} steps.",
        "One row for each prompt: from the least text on the left to text in all steps on the right.",
    )


STUDY: Final = Study(
    name="f7",
    title="What it saves",
    question="How much time does dropping the text save, and how much do the images lose?",
    paper="More than a quarter of the latency at about equal FID.",
    needs="prompts",
    count=24,
    quick=3,
    run=run,
)
