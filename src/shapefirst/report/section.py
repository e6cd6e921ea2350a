"""One study on the page: question, claims, charts, tables, pictures, how it was measured, how to repeat it."""

from __future__ import annotations

from html import escape

from shapefirst.drawing.numbers import duration, label, number, plural, reach, rule_in_short, strip
from shapefirst.findings.finding import Claim
from shapefirst.findings.storage import Stored
from shapefirst.report.parts import chart_figure, facts, paragraphs, picture_figure, summary_table, verdict, words

__all__ = ["section"]


def section(study: Stored) -> str:
    """The section with the id of the study's name."""
    name = escape(study.name)
    parts = [
        f'<section id="{name}" class="study" aria-labelledby="{name}-title">',
        f'<h2 id="{name}-title"><span class="label">{escape(label(study.name))}</span> {escape(study.title)}</h2>',
        f'<p class="question">{escape(study.question)}</p>',
        f"<p><b>The paper:</b> {escape(study.paper)}</p>",
    ]
    if study.reason:
        parts.append(f'<div class="claim"><p>{verdict("does not apply")}</p>\n<p>{escape(study.reason)}</p></div>')
    parts += [_claim(study, n, claim) for n, claim in enumerate(study.claims, 1)]
    parts += [chart_figure(chart) for chart in study.charts]
    parts += [summary_table(summary, f"{study.title}, table") for summary in study.summaries]
    parts += [picture_figure(picture) for picture in study.pictures]
    parts += [_measured(study), '<p class="back"><a href="#summary">Back to the summary</a></p>', "</section>"]
    return "\n".join(parts)


def _claim(study: Stored, n: int, claim: Claim) -> str:
    estimate, interval = reach(claim.found)
    listed = facts(
        {
            "In the paper": escape(claim.paper),
            "Measured here": f"<b>{estimate}</b> ({interval}), n = {claim.found.n}"
            f'<br><span class="quiet">{escape(claim.quantity)}</span>',
            "Rule": escape(f"replicates if the 95% {rule_in_short(claim.rule)}"),
        }
    )
    why = f'<p class="why"><b>Why this may be, and what would test it:</b> {words(claim.hypothesis)}</p>'
    return f"""<div class="claim" id="{escape(study.name)}-claim-{n}">
<h3>{escape(claim.statement)}</h3>
<p>{verdict(claim.verdict)}</p>
{listed}
{strip(claim.found, claim.rule)}
{why if claim.hypothesis else ""}
</div>"""


def _measured(study: Stored) -> str:
    setting = study.setting
    last = setting.seed + setting.count - 1
    singular = "pair" if study.needs == "pairs" else "prompt"
    table = "" if study.reason else f"<code>{escape(study.name)}/table.parquet</code>, beside this page"
    run = setting.words or (
        f"{plural(setting.count, singular)}, "
        f"{f'seeds {setting.seed} to {last}' if last > setting.seed else f'seed {setting.seed}'}, "
        f"{setting.sampler}, {plural(setting.steps, 'step')}, guidance scale {number(setting.guidance_scale)}"
    )
    listed = facts(
        {
            "Run with": escape(f"{setting.model}, {run}"),
            "Denoiser evaluations": _evaluations(study),
            "Time": "" if study.reason else f"{duration(setting.seconds)} on {escape(setting.machine)}",
            "Every value": table,
        }
    )
    return f"""<div class="measured">
<h3>{"Setting" if study.reason else "How it was measured"}</h3>
{paragraphs(study.method)}
{listed}
<p>To repeat it:</p>
<pre tabindex="0"><code>{escape(setting.command)}</code></pre>
</div>"""


def _evaluations(study: Stored) -> str:
    if not study.evaluations:
        return ""
    done = f"{number(round(study.evaluations, 1))} per image"
    if not study.evaluations_apart:
        return done
    saved = 1 - study.evaluations / study.evaluations_apart
    return (
        f"{done} with shared prefixes computed once, against {number(round(study.evaluations_apart, 1))} "
        f"in separate runs: {saved:.0%} saved"
    )
