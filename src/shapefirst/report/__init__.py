"""The report: one HTML page made from stored findings alone, without torch, matplotlib, scripts or a network.

It imports ``findings`` and ``drawing``. A part more is a function in ``parts`` that ``section`` calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from shapefirst.drawing.numbers import one_of
from shapefirst.drawing.pages import STYLE
from shapefirst.errors import ShapefirstError
from shapefirst.files import save_text
from shapefirst.findings.storage import Stored, load_all
from shapefirst.report.overview import overview
from shapefirst.report.section import section
from shapefirst.report.style import REPORT_STYLE

__all__ = ["render_report", "write_report"]

# The policy lets the page load nothing: whatever a prompt or a chart may contain, it stays one file.
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
$overview
<main>
$sections
</main>
</body>
</html>
""")


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
    title = title or f"{subject}, measured on {one_of(s.setting.model for s in stored)}"
    return PAGE.substitute(
        title=escape(title),
        style=f"{STYLE}\n{REPORT_STYLE}",
        overview=overview(stored, title),
        sections="\n".join(section(study) for study in stored),
    )


def write_report(out: Path) -> Path:
    """Rebuilds ``out``/report.html from what is stored under ``out``; the same results give the same page.

    Returns:
        The page's path.

    Raises:
        ShapefirstError: Nothing is stored there, a finding is damaged, or the page cannot be written.
    """
    stored = load_all(out)
    if not stored:
        raise ShapefirstError(
            f"There are no stored findings in {str(out)!r}: run `shapefirst study all --out {out}` first."
        )
    path = out / "report.html"
    save_text(render_report(stored), path)
    return path
