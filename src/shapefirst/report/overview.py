"""The top of the report: what was measured, how it came out, and every claim in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html import escape

from shapefirst.drawing.numbers import duration, label, one_of, plural, reach, rule_in_short
from shapefirst.findings.finding import Claim
from shapefirst.findings.order import STUDIES
from shapefirst.findings.storage import Stored, StudySetting, mismatch
from shapefirst.report.parts import MARKS, facts, verdict

__all__ = ["overview"]

PAPER = (
    "Yi, Li, Xin and Li, “Towards Understanding the Working Mechanism of Text-to-Image Diffusion Model”, NeurIPS 2024, "
    "arXiv 2405.15330"
)
COLUMNS = ("Study", "Claim", "In the paper", "Measured here", "Replicates if", "Verdict")


def overview(stored: Sequence[Stored], title: str) -> str:
    """Heading, setting, tally and summary table."""
    rows = "\n".join(row for study in stored for row in _rows(study))
    head = "".join(f'<th scope="col">{column}</th>' for column in COLUMNS)
    if not rows:  # nothing but tables
        return f'<header id="summary">\n<h1>{escape(title)}</h1>\n{_setting(stored)}\n{_notes(stored)}\n</header>'
    return f"""<header>
<h1>{escape(title)}</h1>
<p>The claims of {PAPER}, each put to the test by a rule that stood before the result: it replicates if the whole 95%
interval lies on the claim’s side of a threshold, does not if it lies on the other, and is inconclusive if it covers the
threshold, or if a control that the study names fails. Intervals are bootstrapped over prompts or pairs (of seconds,
over rounds) and widened for small numbers as Student’s are.</p>
<p class="quiet">In the strips below, the bar is the interval, the dot the estimate, and the dashed line the threshold;
the claim replicates if the whole bar lies on the shaded side.</p>
{_setting(stored)}
{_notes(stored)}
</header>
<section id="summary" aria-labelledby="summary-title">
<h2 id="summary-title">Summary</h2>
<p class="tally">{_tally(stored)}</p>
<table class="overview">
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
{_not_run(stored)}
</section>"""


def _setting(stored: Sequence[Stored]) -> str:
    settings = [study.setting for study in stored]
    counts = sorted({setting.count for setting in settings})
    span = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}, by study"
    return facts(
        {
            "Model": escape(one_of(s.model for s in settings)),
            "Weights": f"<code>{escape(one_of(s.fingerprint for s in settings))}</code>",
            **_sampling([setting for setting in settings if not setting.words] or settings),
            "Seed": escape(one_of(s.seed for s in settings)),
            "Prompts or pairs": span,
            "Time": duration(sum(s.seconds for s in settings)),
            "Machine": escape(one_of(s.machine for s in settings)),
            "shapefirst": escape(one_of(s.version for s in settings)),
        }
    )


def _sampling(settings: Sequence[StudySetting]) -> dict[str, str]:
    """How images were sampled; of settings that need words, in those words."""
    if words := [setting.words for setting in settings if setting.words]:
        return {"Run with": escape(one_of(words))}
    return {
        "Sampler": escape(one_of(s.sampler for s in settings)),
        "Steps": escape(one_of(s.steps for s in settings)),
        "Guidance scale": escape(one_of(s.guidance_scale for s in settings)),
    }


def _notes(stored: Sequence[Stored]) -> str:
    """What a reader must know before the numbers: a short run, or results of different runs on one page."""
    first = stored[0].setting
    notes = []
    if any(study.setting.quick for study in stored):
        short = ", ".join(label(study.name) for study in stored if study.setting.quick)
        which = "This is a short run" if all(s.setting.quick for s in stored) else f"Short runs ({short})"
        notes.append(f"{which} (--quick): few prompts and steps, to see it work rather than to learn from it.")
    if any(study.setting.sampler == "heun" for study in stored):
        notes.append(
            "Heun calls the denoiser twice in a step; the studies' counts of evaluations take it for one call, those "
            "of a sweep do not."
        )
    for study in stored:
        # Number and kind of prompts differ between studies by design.
        if difference := mismatch(replace(study.setting, count=first.count, prompts=first.prompts), first):
            notes.append(f"{label(study.name)} is of another run than {label(stored[0].name)}: {difference}.")
    return "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _tally(stored: Sequence[Stored]) -> str:
    counts = Counter(claim.verdict for study in stored for claim in study.claims)
    claims = sum(counts.values())
    parts = [verdict(which, counts[which]) for which in MARKS if counts[which]]
    idle = sum(bool(study.reason) for study in stored)
    rest = f"{idle} {'study has' if idle == 1 else 'studies have'} no meaning for this model" if idle else ""
    words = f"Of {plural(claims, 'claim')}:" if claims else ""
    return " ".join(part for part in (words, *parts, f'<span class="quiet">{rest}</span>' if rest else "") if part)


def _rows(study: Stored) -> list[str]:
    if study.reason:
        reason = (
            f'<td data-label="Why" colspan="{len(COLUMNS) - 2}">{escape(study.reason)}</td>'
            f'<td data-label="Verdict">{verdict("does not apply")}</td>'
        )
        return [f"<tr>{_name(study, study.name)}{reason}</tr>"]
    return [_row(study, n, claim) for n, claim in enumerate(study.claims, 1)]


def _name(study: Stored, anchor: str) -> str:
    return (
        f'<th scope="row"><a href="#{escape(anchor)}">{escape(label(study.name))}</a> '
        f'<span class="name">{escape(study.title)}</span></th>'
    )


def _row(study: Stored, n: int, claim: Claim) -> str:
    estimate, interval = reach(claim.found)
    measured = (
        f'<b>{estimate}</b> <span class="between">({interval})</span> <span class="between">n = {claim.found.n}</span>'
        f'<br><span class="quiet">{escape(claim.quantity)}</span>'
    )
    values = (
        escape(claim.statement),
        escape(claim.paper),
        measured,
        escape(rule_in_short(claim.rule)),
        verdict(claim.verdict),
    )
    cells = "".join(
        f'<td data-label="{column}">{value}</td>' for column, value in zip(COLUMNS[1:], values, strict=True)
    )
    return f"<tr>{_name(study, f'{study.name}-claim-{n}')}{cells}</tr>"


def _not_run(stored: Sequence[Stored]) -> str:
    run = {study.name for study in stored}
    missing = [label(name) for name in STUDIES if name not in run]
    # Beside a sweep alone nobody misses the studies.
    return f'<p class="quiet">Not run: {", ".join(missing)}.</p>' if missing and run & set(STUDIES) else ""
