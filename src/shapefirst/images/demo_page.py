"""The demo as one HTML file: images embedded, no script, no outside address; legible on a telephone and in the dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from string import Template

from shapefirst.drawing.pages import STYLE, png_uri
from shapefirst.images.comparison import Comparison, decibels, percent

__all__ = ["demo_page"]

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>shapefirst: what is saved, what changes</title>
<style>
$style
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
table { border-collapse: collapse; width: 100%; margin: 1.2rem 0 .4rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { font-size: .85rem; color: var(--quiet); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
.saved { color: var(--quiet); white-space: nowrap; }
.row { display: grid; grid-template-columns: repeat($columns, minmax(0, 1fr)); gap: 14px; }
img { display: block; width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; }
figcaption b { color: var(--ink); font-weight: 600; }
@media (max-width: 640px) {
  .row { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  thead { display: none; }
  table, tbody, tr, th, td { display: block; text-align: left; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  th, td { border: 0; padding: .1rem 0; }
  td::before { content: attr(data-label) ": "; color: var(--quiet); }
}
</style>
</head>
<body>
<header>
<h1>Less evaluated: what changes, what is saved</h1>
<p>A diffusion model fixes the shapes of its image in its first steps. Below, the same prompts and seeds with the text
guiding every step, with the text dropped after some, and with the predictions of some steps extrapolated from those
before: a guided step costs two denoiser evaluations, a step without text one, an extrapolated one none.</p>
<p class="quiet">$setting</p>
</header>
<main>
<h2>Measured</h2>
<table>
<thead><tr><th scope="col">Policy</th><th scope="col">Evaluations an image</th><th scope="col">Seconds an image</th>
<th scope="col">L1</th><th scope="col">PSNR</th></tr></thead>
<tbody>
$table
</tbody>
</table>
<p class="quiet">L1 (0 = identical, 1 = black against white) and PSNR are distances to the fully guided image of the
same seed, averaged over the images; seconds are those of this run, the schedules in alternation.</p>
$prompts
</main>
</body>
</html>
""")


def demo_page(rows: Sequence[Comparison], setting: str, labels: Sequence[str]) -> str:
    """The page for ``rows`` (the fully guided one first), each prompt under its entry of ``labels``."""
    return PAGE.substitute(
        style=STYLE,
        columns=len(rows),
        setting=escape(setting),
        table="\n".join(_table_row(row) for row in rows),
        prompts="\n".join(_prompt(rows, n, label) for n, label in enumerate(labels)),
    )


def _table_row(row: Comparison) -> str:
    def cost(value: str, saved: float) -> str:
        return value if row.is_reference else f'{value} <span class="saved">({percent(saved)} saved)</span>'

    cells = {
        "Evaluations an image": cost(f"{row.evaluations:g}", row.evaluations_saved),
        "Seconds an image": cost(f"{row.seconds:.2f}", row.seconds_saved),
        "L1": "reference" if row.is_reference else f"{row.mean_l1:.4f}",
        "PSNR": "reference" if row.is_reference else decibels(row.mean_psnr),
    }
    columns = "".join(f'<td data-label="{name}">{value}</td>' for name, value in cells.items())
    return f'<tr><th scope="row">{escape(_capital(row.title))}</th>{columns}</tr>'


def _prompt(rows: Sequence[Comparison], n: int, label: str) -> str:
    figures = "\n".join(_figure(row, n) for row in rows)
    return f'<section>\n<h2>{escape(label)}</h2>\n<div class="row">\n{figures}\n</div>\n</section>'


def _figure(row: Comparison, n: int) -> str:
    result = row.results[n]
    distance = "" if row.is_reference else f"<br>L1 {row.l1[n]:.4f}, PSNR {decibels(row.psnr[n])}"
    return (
        f'<figure><img src="{png_uri(result.image)}" width="{result.image.width}" height="{result.image.height}" '
        f'alt="{escape(result.prompt)}: {escape(row.title)}">\n'
        f"<figcaption><b>{escape(_capital(row.title))}</b><br>{result.evaluations:g} evaluations, "
        f"{result.seconds:.2f} s{distance}</figcaption></figure>"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
