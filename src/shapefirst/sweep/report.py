"""A sweep as a section of the studies' report: tables, Pareto plots, and the same tables as Markdown to paste.

Each setting has a table, one line for each policy, and plots of what the policies cost over what they save: in
evaluations, and in seconds where `sweep latency` has measured them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shapefirst import __version__
from shapefirst.drawing import charts
from shapefirst.drawing.notation import one_of
from shapefirst.findings import equal_fid
from shapefirst.findings.finding import Chart, Claim, Finding, Picture, Question, Summary, claim, subject_to
from shapefirst.findings.storage import StudySetting
from shapefirst.measure.intervals import Interval
from shapefirst.policies.words import describe, parse_policy
from shapefirst.sweep.grid import FULL, Setting
from shapefirst.sweep.latency import Latency, Timing, calls_table, parts_table, rounds_of
from shapefirst.sweep.summary import PolicySummary, Reference, SweepSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["QUESTION", "finding_of", "markdown", "setting_of", "summary_of", "unfinished_note", "verdicts"]

QUESTION: Final = Question(
    name="sweep",
    title="The acceleration table",
    question="For each model, sampler and policy: what is saved, and what does it cost?",
    paper="On Stable Diffusion 1.5, 2.1-base and PixArt-alpha, 30,000 MS-COCO captions each, text in half of the steps "
    "saves a quarter of the time and more at about equal FID.",
    needs="prompts",
)
NOTHING: Final = Interval(np.nan, np.nan, np.nan, 0)
#: Columns of the tables: metric, title, digits.
SHOWN: Final = (
    ("l1", "L1", 4),
    ("psnr", "PSNR, dB", 1),
    ("ssim", "SSIM", 3),
    ("similarity", "CLIP similarity", 3),
    ("clipscore", "CLIPScore", 1),
    ("judge", "Judge", 3),
    ("vqa", "VQA", 3),
    ("vlm", "VLM", 2),
)


def finding_of(
    found: Sequence[PolicySummary],
    latencies: Sequence[Latency],
    pictures: Sequence[Picture],
    *,
    reference: Reference | None,
    unfinished: int,
) -> Finding:
    """The finding for the report.

    Args:
        found: Of every setting.
        latencies: Of some settings or none.
        pictures: Of some settings or none.
        reference: What the images were compared with besides the fully guided ones, if anything.
        unfinished: How many shards are missing.
    """
    settings = list(dict.fromkeys(one.setting for one in found))
    timed = {one.setting: one for one in latencies}
    claims, drawn, summaries, together = [], [], [], 0
    for setting in settings:
        mine = [one for one in found if one.setting == setting]
        claims += _claims(setting, mine)
        summaries.append(summary_of(mine, timed.get(setting), reference))
        if timed.get(setting):
            summaries += [calls_table(timed[setting]), parts_table(timed[setting])]
        drawn += [chart for chart in (_chart(mine, timed.get(setting)),) if chart]
        together += setting.evaluations_together([parse_policy(one.policy) for one in mine])
    n = sorted({one.n for one in found})
    images = f"{n[0]:,}" if len(n) == 1 else f"{n[0]:,} to {n[-1]:,}"
    return Finding(
        claims=tuple(claims),
        table=_table(found, timed),
        summaries=tuple(summaries),
        charts=tuple(drawn),
        pictures=tuple(pictures),
        method=f"{images} images of each policy. {f'{unfinished_note(unfinished)} ' if unfinished else ''}"
        "All policies of a setting start from the same noise; what they have in common is computed once. Distances are"
        " to the fully guided image of the same prompt and seed, means over images, L1 with its 95% interval, PSNR "
        "without images that are identical; the table beside this page has all intervals. The Frechet distance is that"
        " of the set to the fully guided set of the same seeds. That to a reference set is biased upwards, the more so"
        " the fewer images there are: compare equal numbers. After ± stands half of a distance's 95% interval, by a "
        "jackknife over ten groups of prompts, for features of at most 768 numbers. Seconds, where they stand, are "
        "medians of whole calls in turns with the stock pipeline, on the machine that the table names.",
        evaluations=together / len(settings),
        evaluations_apart=sum(one.evaluations for one in found) / len(settings),
    )


def _claims(setting: Setting, found: Sequence[PolicySummary]) -> list[Claim]:
    """The paper's last column, where the sweep has a reference and the policies that it is about."""
    ratios = {
        one.text_steps: one.over_full for one in found if one.policy.startswith("paper:") and one.over_full is not None
    }
    half = max((k for k in ratios if 0 < k <= setting.steps / 2), default=None)
    if half is None or np.isnan(ratios[half].low):
        return []
    close = claim(
        f"{setting}: images with text in {half:g} steps are about as close to the reference as fully guided ones.",
        paper=equal_fid.PAPER,
        quantity=f"Frechet distance ({found[0].features}) to the reference, over that of full guidance",
        found=ratios[half],
        rule=equal_fid.RULE_CLOSE,
        if_not="Half of the steps are too few here, which the rows with more text steps would tell, or the prompts are "
        "too few: the same sweep with more of them has a shorter interval.",
    )
    if 0 not in ratios:
        return [close]
    control = claim(
        f"{setting}: the distance tells images without any text from fully guided ones.",
        paper="not asked",
        quantity="the same ratio without any text",
        found=ratios[0],
        rule=equal_fid.RULE_CONTROL,
        if_not="There are too few images, or the reference shows something else than the prompts ask for.",
    )
    return [subject_to(control, close, equal_fid.UNCONTROLLED), control]


def summary_of(found: Sequence[PolicySummary], timed: Latency | None, reference: Reference | None) -> Summary:
    """One setting's table."""
    columns = ["policy", "guided steps", "evaluations", "saved"]
    policies = {one.policy for one in found}
    # Of the largest batch alone: the others stand in the table of calls.
    batches = sorted({one.batch for one in timed.timings if one.policy in policies})[-1:] if timed else []
    columns += [f"time saved, batch {batch}" for batch in batches]
    metrics = [one for one in SHOWN if any(one[0] in condition.metrics for condition in found)]
    columns += [title for _, title, _ in metrics] + ["Frechet to full guidance"]
    if reference is not None:
        columns.append(f"to {reference.name}")
    rows = []
    for condition in found:
        full = condition.policy == FULL
        cells = [condition.policy, f"{condition.text_steps:.4g} of {condition.setting.steps}"]
        cells += [f"{condition.evaluations:.4g}", f"{condition.saved:.0%}"]
        cells += [_time(timed, condition.policy, batch) for batch in batches]
        for name, _, digits in metrics:
            value = condition.metrics.get(name)
            same = full and name in ("l1", "psnr", "ssim", "similarity")
            shown = value if name == "l1" else value and value.estimate
            cells.append("–" if same or shown is None else f"{shown:.{digits}f}")
        cells.append("0" if full else _distance(condition.frechet))
        if reference is not None:
            cells.append(_distance(condition.reference))
        rows.append(tuple(cells))
    where = f" Time saved: median of {rounds_of(timed)} rounds, {timed.machine}." if timed else ""
    to = f" and to {reference.title}" if reference is not None else ""
    distances = f"Frechet distances, on {found[0].features}, to full guidance{to}."
    return Summary(tuple(columns), tuple(rows), f"{found[0].setting}, n = {found[0].n:,}. {distances}{where}")


def verdicts(finding: Finding) -> list[str]:
    """A line for each claim; of one that does not replicate, why that may be."""
    return [
        " ".join(
            f"{one.verdict}: {one.statement} {one.quantity}: {one.found:.2f}; {one.rule}. {one.reason} "
            f"{one.hypothesis}".split()
        )
        for one in finding.claims
    ]


def unfinished_note(unfinished: int) -> str:
    """What a reader of an unfinished sweep has to know."""
    return f"Shards that are not done yet and not counted: {unfinished:,}."


def markdown(finding: Finding, unfinished: int) -> str:
    """The tables to paste, and the verdicts."""
    blocks = [unfinished_note(unfinished)] if unfinished else []
    for summary in finding.summaries:
        head, *rows = (f"| {' | '.join(map(_as_text, row))} |" for row in (summary.columns, *summary.rows))
        blocks.append("\n".join([_as_text(summary.caption), "", head, "|" + "---|" * len(summary.columns), *rows]))
    return "\n\n".join([*blocks, *map(_as_text, verdicts(finding))]) + "\n"


def _as_text(text: str) -> str:
    """Markdown that shows the text as it is, in one line: names of models and folders may hold what marks up."""
    return re.sub(r"([\\`*_\[\]<>&|~])", r"\\\1", " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split()))


def setting_of(manifest: Mapping[str, Any], stored: SweepSummary, command: str) -> StudySetting:
    """What the report says of the run; where settings differ, all of them. ``command`` repeats the report."""
    grid, settings = manifest["grid"], [one.setting for one in stored.conditions]
    each, first = grid["images_per_prompt"], grid["seed"]
    words = (
        f"{manifest['images'] // each:,} prompts{f' of {each} images each' if each > 1 else ''}, seeds {first} to "
        f"{first + manifest['images'] - 1}; {one_of(s.sampler for s in settings)}; "
        f"{one_of(s.steps for s in settings)} steps; guidance scale {one_of(s.guidance_scale for s in settings)}"
    )
    return StudySetting(
        model=one_of(s.model for s in settings),
        fingerprint=one_of(manifest["about"].get("weights", {}).values()),
        version=__version__,
        seed=grid["seed"],
        steps=max(s.steps for s in settings),
        guidance_scale=settings[0].guidance_scale,
        sampler=one_of(s.sampler for s in settings),
        quick=False,
        count=manifest["images"],
        prompts=manifest["plan"],
        command=f"{manifest['command']}\n{command}",
        words=words,
        machine=stored.machine,
        seconds=stored.seconds,
    )


def _time(timed: Latency | None, policy: str, batch: int) -> str:
    timing = _timing(timed, policy, batch)
    return f"{timing.saved[1]:.0%}" if timing else "–"


def _timing(timed: Latency | None, policy: str, batch: int) -> Timing | None:
    timings = timed.timings if timed else ()
    return next((one for one in timings if one.policy == policy and one.batch == batch), None)


def _distance(found: Interval | None) -> str:
    """With half of its interval, where it has one."""
    if found is None:
        return "–"
    reach = found.high - found.estimate
    if np.isnan(reach):
        return f"{found.estimate:.4g}"
    digits = max(0, 1 - math.floor(math.log10(reach))) if reach > 0 else 1  # two of the reach
    return f"{found.estimate:.{digits}f} ± {reach:.{digits}f}"


def _table(found: Sequence[PolicySummary], timed: Mapping[Setting, Latency]) -> dict[str, list[Any]]:
    """Tidy: one row for each condition."""
    rows = []
    for one in found:
        row: dict[str, Any] = {
            "model": one.setting.model,
            "sampler": one.setting.sampler,
            "steps": one.setting.steps,
            "guidance_scale": one.setting.guidance_scale,
            "policy": one.policy,
            "text_steps": one.text_steps,
            "keep": one.keep,
            "evaluations": one.evaluations,
            "n": one.n,
        }
        distances = {"frechet": one.frechet, "reference": one.reference, "reference_over_full": one.over_full}
        found_here = {**one.metrics, **{name: value for name, value in distances.items() if value is not None}}
        for name, value in found_here.items():
            row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
        latency = timed.get(one.setting)
        for timing in latency.timings if latency else ():
            if timing.policy == one.policy:
                names = (f"time_saved_batch_{timing.batch}{end}" for end in ("_lower_quartile", "", "_upper_quartile"))
                row |= dict(zip(names, timing.saved, strict=True))
        rows.append(row)
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}


def _chart(found: Sequence[PolicySummary], timed: Latency | None) -> Chart | None:
    """L1 (log), CLIP similarity and Frechet distance, to the reference if there is one, over the evaluations saved; L1
    over the time saved."""
    others = [one for one in found if one.policy != FULL and one.metrics["l1"].estimate > 0]
    if not others:
        return None
    families: dict[str, list[PolicySummary]] = {}
    for one in others:
        families.setdefault(_family(one), []).append(one)
    of_full = next((one.reference for one in found if one.policy == FULL), None)
    batch = max((timing.batch for timing in timed.timings), default=0) if timed else 0
    panels = 4 if batch else 3
    with charts.figure(panels, width=3.2 * panels, height=3.6) as (drawn, axes):
        for style, (family, members) in enumerate(families.items()):
            members = sorted(members, key=lambda one: one.saved)
            x = [100 * one.saved for one in members]
            colour, line, marker = charts.STYLES[style % len(charts.STYLES)]
            look: dict[str, Any] = {"color": colour, "linestyle": line, "marker": marker}
            for axis, name in zip(axes, ("l1", "similarity"), strict=False):
                _errorbars(axis, x, [one.metrics[name] for one in members], label=family, **look)
            _errorbars(axes[2], x, [(one.reference if of_full else one.frechet) or NOTHING for one in members], **look)
            if batch:
                seconds = [(one, _timing(timed, one.policy, batch)) for one in members]
                there = [(100 * timing.saved[1], one.metrics["l1"]) for one, timing in seconds if timing]
                _errorbars(axes[3], [x for x, _ in there], [l1 for _, l1 in there], **look)
        axes[0].set(title="L1 to the guided image", yscale="log")
        axes[1].set(title="CLIP similarity to it")
        if of_full:
            axes[2].axhline(of_full.estimate, color="black", linestyle=":", label="full guidance")
            axes[2].legend()
        axes[2].set(title=f"Frechet distance to the {'reference' if of_full else 'guided set'}", ylim=(0, None))
        axes[0].legend()
        for axis in axes[:3]:
            axis.set_xlabel("evaluations saved, %")
        if batch:
            axes[3].set(title=f"L1, batch {batch}", yscale="log", xlabel="time saved, %")
        image = charts.svg(drawn)
    setting = found[0].setting
    most = max(others, key=lambda one: one.saved)
    return Chart(
        f"pareto {setting.model} {setting.sampler} {setting.steps} {setting.guidance_scale:g}",
        image,
        f"{setting}: what each policy costs over what it saves; means with 95% intervals, n = {found[0].n:,}.",
        f"The most is saved by {describe(parse_policy(most.policy), setting.steps)}: {most.saved:.0%} of the "
        f"evaluations, at an L1 of {most.metrics['l1']:.4f}.",
    )


def _family(one: PolicySummary) -> str:
    if one.policy.startswith("paper:"):
        return "text first, null after"
    return "text first, text branch kept" if one.policy.startswith("text:") else one.policy.partition(":")[0]


def _errorbars(axis: Axes, x: Sequence[float], values: Sequence[Interval], **look: Any) -> None:
    spread = np.array([[v.estimate - v.low for v in values], [v.high - v.estimate for v in values]]).clip(min=0)
    axis.errorbar(x, [v.estimate for v in values], spread, capsize=2, **look)
