"""The report's own look, over ``pages.STYLE``: calm on screen, in the dark, on a telephone and on paper."""

from __future__ import annotations

from typing import Final

__all__ = ["REPORT_STYLE"]

# Verdicts differ in symbol and word; their colours only help, and hold 4.5:1 against their ground in both themes.
REPORT_STYLE: Final = """\
:root { --soft: #f6f6f7; --link: #0b57a4; --yes: #0a6247; --yes-soft: #e5f3ed; --no: #9c3505; --no-soft: #fcece4;
  --open: #4a4a55; --open-soft: #ececef; }
@media (prefers-color-scheme: dark) {
  :root { --soft: #222226; --link: #8ec5ff; --yes: #7fdcb8; --yes-soft: #12362b; --no: #ffb48f; --no-soft: #44210f;
    --open: #d4d4d8; --open-soft: #36363c; }
}
html { scroll-padding-top: 12px; }
body { overflow-wrap: break-word; }
a { color: var(--link); }
header > p { max-width: 52rem; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 .6rem; }
h3 { font-size: 1rem; line-height: 1.4; margin: 0 0 .5rem; max-width: 46rem; }
#summary { margin-top: 2rem; }
.study { margin-top: 3rem; padding-top: 1.8rem; border-top: 1px solid var(--line); }
.label { color: var(--quiet); font-weight: 600; margin-right: .3rem; }
.question { font-size: 1.1rem; }
.note { border-left: 3px solid var(--quiet); padding: .1rem 0 .1rem .8rem; }
.back { font-size: .85rem; }
code { font: .9em/1.5 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: .3rem 0; padding: .7rem .9rem; background: var(--soft); border: 1px solid var(--line); border-radius: 6px;
  overflow-x: auto; }

.verdict { display: inline-block; padding: .1rem .6rem; border: 1px solid currentColor; border-radius: 999px;
  font-size: .85rem; font-weight: 600; line-height: 1.45; white-space: nowrap; }
.verdict.yes { color: var(--yes); background: var(--yes-soft); }
.verdict.no { color: var(--no); background: var(--no-soft); }
.verdict.open { color: var(--open); background: var(--open-soft); }
.verdict.none { color: var(--quiet); border-style: dashed; }
.tally { display: flex; flex-wrap: wrap; gap: .5rem; align-items: baseline; }

.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: .7rem 1.4rem;
  margin: 1rem 0; }
.facts dt { color: var(--quiet); font-size: .8rem; }
.facts dd { margin: 0; }

table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th:first-child { padding-left: 0; }
thead th, caption { color: var(--quiet); font-size: .85rem; }
thead th { font-weight: 600; vertical-align: bottom; }
caption { text-align: left; padding-bottom: .3rem; }
.overview { width: 100%; margin: .8rem 0 .4rem; font-size: .92rem; line-height: 1.4; }
.overview tbody th { font-weight: 600; min-width: 7.5rem; }
.overview .name { display: block; font-weight: 400; font-size: .85rem; color: var(--quiet); }
.overview .quiet { font-size: .82rem; }
.between { white-space: nowrap; }
.small { font-size: .9rem; }
.small th, .small td { padding: .35rem 1.2rem .35rem 0; white-space: nowrap; }
.small tbody th { font-weight: 500; white-space: normal; min-width: 8rem; max-width: 26rem; }

.claim { margin: 1.2rem 0; padding: 1rem 1.2rem; background: var(--soft); border: 1px solid var(--line);
  border-radius: 8px; }
.claim > p:last-child { margin-bottom: 0; }
.claim .facts { grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); margin: .7rem 0; }
.claim:target { outline: 2px solid var(--link); outline-offset: 2px; }
.strip { display: block; max-width: 100%; height: auto; }
.strip .side { fill: var(--yes-soft); stroke: none; }
.strip .axis { stroke: var(--line); stroke-width: 1; }
.strip .threshold { stroke: var(--quiet); stroke-width: 1.5; stroke-dasharray: 4 3; }
.strip .interval { stroke: var(--ink); stroke-width: 3; }
.strip .estimate { fill: var(--ink); }
.strip text { fill: var(--quiet); font-size: 12px; }

.scroll { overflow-x: auto; margin: 1.2rem 0 .4rem; }
figure { margin: 1.4rem 0; }
figure .scroll { margin: 0; }
figcaption { max-width: 46rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
.chart img { padding: 6px; }
.measured { margin-top: 1.6rem; }
.measured .facts { grid-template-columns: repeat(auto-fill, minmax(240px, 1fr)); }

@media screen and (max-width: 820px) {
  .overview thead { display: none; }
  .overview, .overview tbody, .overview tr, .overview th, .overview td { display: block; }
  .overview tr { border-bottom: 1px solid var(--line); padding: .8rem 0; }
  .overview th, .overview td { border: 0; padding: .15rem 0; }
  .overview .name { display: inline; }
  .overview td::before { content: attr(data-label) ": "; color: var(--quiet); }
}
@media (max-width: 480px) {
  .claim { padding: .8rem .9rem; }
  .facts { grid-template-columns: repeat(auto-fill, minmax(130px, 1fr)); }
}
@media print {
  :root { color-scheme: light; --ink: #000; --quiet: #444; --paper: #fff; --line: #bbb; --soft: #fff; --link: #000;
    --yes: #0a6247; --yes-soft: #e5f3ed; --no: #9c3505; --no-soft: #fcece4; --open: #4a4a55; --open-soft: #ececef; }
  html { font-size: 9.5pt; }
  body { max-width: none; padding: 0; font-size: 1rem; }
  .overview .verdict { white-space: normal; border-radius: 8px; }
  a { text-decoration: none; }
  .back { display: none; }
  .scroll { overflow: visible; }
  img { min-width: 0 !important; }
  pre { white-space: pre-wrap; }
  .small th, .small td { white-space: normal; }
  h2, h3 { break-after: avoid; }
  .claim, figure, tr { break-inside: avoid; }
  .strip { print-color-adjust: exact; }
}"""
