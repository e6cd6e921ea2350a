"""The report: one HTML page made from stored findings alone, without torch, matplotlib, scripts or a network.

It imports ``findings`` and ``drawing``. A part more of a study is a few lines of ``study.html``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from shapefirst.drawing.notation import label, one_of, plural
from shapefirst.drawing.pages import fill
from shapefirst.errors import ShapefirstError
from shapefirst.files import save_text
from shapefirst.findings.comparison import compared, load_models
from shapefirst.findings.discovery import RATE, standing
from shapefirst.findings.order import STUDIES
from shapefirst.findings.storage import Stored, load_all, mismatch
from shapefirst.measure.intervals import FEWEST, LEVEL
from shapefirst.signatures import guarded

__all__ = ["PAGE", "render_models", "render_report", "write_report"]

PAGE: Final = "report.html"
HEAD: Final = 4096  # characters of an SVG that hold its size


@guarded
def render_report(stored: Sequence[Stored], title: str = "") -> str:
    """The page for ``stored``, in that order.

    Args:
        stored: At least one study.
        title: The page's heading; by default it names the model.

    Raises:
        ShapefirstError: There is no study.
    """
    if not stored:
        raise ShapefirstError("There is nothing to report: run a study first, say `shapefirst study all`.")
    subject = "How text steers the picture" if len(stored) > 1 else stored[0].title
    run = {study.name for study in stored}
    return fill(
        "report/report.html",
        title=title or f"{subject}, measured on {one_of(s.setting.model for s in stored)}",
        stored=stored,
        notes=_notes(stored),
        chance=_chance(stored),
        # Beside a sweep alone nobody misses the studies.
        missing=[name for name in STUDIES if name not in run] if run & set(STUDIES) else [],
        paragraphs=_paragraphs,
        size_of=_size_of,
    )


@guarded
def render_models(models: Mapping[str, Sequence[Stored]]) -> str:
    """The page of several models, each claim side by side.

    Args:
        models: Folder, beside the page, in which the model's own report lies -> what is stored there.

    Raises:
        ShapefirstError: There are fewer than two, or one without a study.
    """
    if len(models) < 2 or not all(models.values()):
        raise ShapefirstError("Two models or more make a comparison: run the studies with --model A --model B.")
    rows = list(compared(models.values()))
    return fill(
        "report/models.html",
        title=f"How text steers the picture, measured on {' and '.join(s[0].setting.model for s in models.values())}",
        models=[
            {"page": f"{quote(folder)}/{PAGE}", "stored": stored, "notes": _notes(stored)}
            for folder, stored in models.items()
        ],
        rows=rows,
        count=Counter(row.together for row in rows),
        studies=list({row.study.name: row.study for row in rows}.values()),
        size_of=_size_of,
    )


@guarded
def write_report(out: Path) -> Path:
    """Rebuilds ``out``/report.html from what is stored under ``out``; the same results give the same page.

    Where ``out`` has a folder for each of several models, their reports are rebuilt, too.

    Returns:
        The page's path.

    Raises:
        ShapefirstError: Nothing is stored there, a finding is damaged, or the page cannot be written.
    """
    stored = load_all(out)
    models = {} if stored else load_models(out)
    if not stored and len(models) < 2:
        of_one = f"; {str(out / next(iter(models)))!r} holds some" if models else ""
        raise ShapefirstError(
            f"There are no stored findings in {str(out)!r}{of_one}: run `shapefirst study all --out {out}` first."
        )
    for folder, mine in models.items():
        save_text(render_report(mine), out / folder / PAGE)
    path = out / PAGE
    save_text(render_report(stored) if stored else render_models(models), path)
    return path


def _notes(stored: Sequence[Stored]) -> list[str]:
    """What a reader must know before the numbers: a short run, or results of different runs on one page."""
    first = stored[0].setting
    notes = []
    if any(study.setting.quick for study in stored):
        short = ", ".join(label(study.name) for study in stored if study.setting.quick)
        which = "This is a short run" if all(s.setting.quick for s in stored) else f"Short runs ({short})"
        notes.append(f"{which} (--quick): few prompts and steps, to see it work rather than to learn from it.")
    for study in stored:
        # Number and kind of prompts differ between studies by design, and some have a control.
        alike = replace(study.setting, count=first.count, prompts=first.prompts, words=first.words)
        if difference := mismatch(alike, first):
            notes.append(f"{label(study.name)} is of another run than {label(stored[0].name)}: {difference}.")
    return notes


def _chance(stored: Sequence[Stored]) -> str:
    """How many verdicts stand when the number of tests is counted; "" where there is none."""
    claims = [(label(study.name), claim) for study in stored for claim in study.claims]
    tested = sum(claim.found.n >= FEWEST for _, claim in claims)
    stands = standing([claim for _, claim in claims])
    reached = [
        (name, stays)
        for (name, claim), stays in zip(claims, stands, strict=True)
        if claim.verdict in ("replicates", "does not replicate")
    ]
    if not (reached and tested):
        return ""
    fall = one_of(name for name, stays in reached if not stays)
    return (
        f"{plural(tested, 'test')} at the 95% level: by chance alone about {tested * (1 - LEVEL):.1f} of them would go "
        f"wrong. At a false discovery rate of {RATE:.0%} (Benjamini and Hochberg 1995) "
        f"{sum(stays for _, stays in reached)} of {plural(len(reached), 'verdict')} "
        f"{'stands' if len(reached) == 1 else 'stand'}" + (f"; take the others, of {fall}, for hints." if fall else ".")
    )


def _paragraphs(text: str) -> list[str]:
    """Which blank lines part."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def _size_of(svg: str) -> tuple[int, int]:
    """Width and height in pixels from the viewBox, which matplotlib gives in points of 1/72 inch."""
    side = r"(\d{1,5}(?:\.\d*)?)"
    box = re.search(rf'<svg[^>]*\sviewBox="\s*[-\d.]+[\s,]+[-\d.]+[\s,]+{side}[\s,]+{side}\s*"', svg[:HEAD])
    width, height = (float(side) for side in box.groups()) if box else (540.0, 270.0)
    return max(1, round(width * 96 / 72)), max(1, round(height * 96 / 72))
