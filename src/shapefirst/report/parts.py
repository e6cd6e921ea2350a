"""Pieces of HTML that the page repeats: verdicts, tables, images in boxes that scroll. All text is escaped here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from shapefirst.drawing.pages import data_uri
from shapefirst.findings.finding import Chart, Summary
from shapefirst.findings.storage import StoredPicture
from shapefirst.measure.intervals import Verdict

__all__ = ["chart_figure", "facts", "paragraphs", "picture_figure", "scroll", "summary_table", "verdict", "words"]

#: Verdict -> its symbol and the class of its colours; the word always stands beside the symbol.
MARKS: Final[Mapping[Verdict, tuple[str, str]]] = {
    "replicates": ("✓", "yes"),
    "does not replicate": ("✗", "no"),
    "inconclusive": ("~", "open"),
    "does not apply": ("–", "none"),
}


def verdict(which: Verdict, count: int | None = None) -> str:
    """The verdict with its symbol, or how often it was reached."""
    mark, colours = MARKS.get(which, ("?", "open"))
    text = escape(which) + ("" if count is None else f": {count}")
    return f'<span class="verdict {colours}"><span aria-hidden="true">{mark}</span> {text}</span>'


def facts(pairs: Mapping[str, str]) -> str:
    """Term -> HTML, as a list; empty ones are left out."""
    rows = "\n".join(f"<div><dt>{escape(term)}</dt><dd>{value}</dd></div>" for term, value in pairs.items() if value)
    return f'<dl class="facts">\n{rows}\n</dl>'


def words(text: str) -> str:
    """Escaped text; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def paragraphs(text: str) -> str:
    """Text with its paragraphs, which blank lines part."""
    return "\n".join(f"<p>{words(part.strip())}</p>" for part in re.split(r"\n\s*\n", text) if part.strip())


def scroll(content: str, name: str) -> str:
    """``content`` in a box that scrolls where it is too wide, by keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(name)}">\n{content}\n</div>'


def summary_table(summary: Summary, name: str) -> str:
    """A small table; ``name`` is what a screen reader calls it where it has no caption."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in summary.columns)
    rows = "\n".join(_row(row) for row in summary.rows)
    caption = f"<caption>{escape(summary.caption)}</caption>\n" if summary.caption else ""
    table = f'<table class="small">\n{caption}<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>'
    return scroll(table, summary.caption or name)


def _row(row: Sequence[str]) -> str:
    first, *rest = row or ("",)
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
    return f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'


def chart_figure(chart: Chart) -> str:
    """The chart with its caption and alt text."""
    # As an image rather than inline: its ids cannot meet another chart's, and nothing in it can run.
    width, height = _size(chart.svg)
    source = data_uri(chart.svg.encode(), "image/svg+xml")
    return _figure("chart", source, width, height, _least(width, 560, 0.7), chart.caption, chart.alt)


def picture_figure(picture: StoredPicture) -> str:
    """The picture with its caption and alt text."""
    least = _least(picture.width, 640, 0.6)
    source = data_uri(picture.png, "image/png")
    return _figure("picture", source, picture.width, picture.height, least, picture.caption, picture.alt)


def _figure(kind: str, source: str, width: int, height: int, least: int, caption: str, alt: str) -> str:
    image = (
        f'<img src="{source}" width="{width}" height="{height}" alt="{escape(alt or caption or kind)}" '
        f'style="min-width: {least}px">'
    )
    below = f"\n<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}">\n{scroll(image, caption or kind)}{below}\n</figure>'


def _least(width: int, pixels: int, share: float) -> int:
    """How narrow an image may get: below that its box scrolls, rather than that nothing can be read in it."""
    return max(min(width, pixels), round(share * width))


def _size(svg: str) -> tuple[int, int]:
    """Width and height in pixels from the viewBox, which matplotlib gives in points of 1/72 inch."""
    box = re.search(r'<svg[^>]*\sviewBox="\s*[-\d.]+[\s,]+[-\d.]+[\s,]+([\d.]+)[\s,]+([\d.]+)', svg)
    width, height = (float(side) for side in box.groups()) if box else (540.0, 270.0)
    return max(1, round(width * 96 / 72)), max(1, round(height * 96 / 72))
