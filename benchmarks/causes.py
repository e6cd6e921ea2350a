"""The verdicts of C1 and C2, the studies of causes, as benchmarks/results/causes.md.

shapefirst train-pocket --preset gpu --out runs/usual                                  (a GPU: minutes; or hours)
shapefirst train-pocket --preset gpu --model pocket-equal-snr --out runs/equal
shapefirst train-pocket --preset gpu --model pocket-plain-padding --out runs/plain
shapefirst study c1 --model runs/usual/weights --control runs/equal/weights --out out/c1
shapefirst study c2 --model runs/usual/weights --control runs/plain/weights --out out/c2
python benchmarks/causes.py out/c1 out/c2 --note "what the recipes above do not tell"
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from shapefirst.files import save_text
from shapefirst.findings.storage import Stored, load_all

OUT: Final = Path(__file__).parent / "results" / "causes.md"


def page(stored: Sequence[Stored], note: str) -> Iterator[str]:
    """Its lines."""
    yield "Written by `python benchmarks/causes.py`."
    if note:
        yield f"\n{note}"
    for one in stored:
        setting = one.setting
        yield f"\n## {one.name.upper()}: {one.title}\n"
        run = f"{setting.sampler}, {setting.steps} steps, w = {setting.guidance_scale:g}"
        yield f"{one.question} n = {setting.count}, {run}, image i of seed {setting.seed} + i;"
        yield f"{setting.machine}, {setting.seconds:.0f} s.\n"
        yield "| claim | quantity | found (95% interval) | rule | verdict |"
        yield "|---|---|---|---|---|"
        for claim in one.claims:
            yield (f"| {claim.statement} | {claim.quantity} | {claim.found:.3f} | {claim.rule} | {claim.verdict} |")
        for summary in one.summaries[:1]:
            yield "\n| " + " | ".join(summary.columns) + " |"
            yield "|---" * len(summary.columns) + "|"
            yield from ("| " + " | ".join(row) + " |" for row in summary.rows)
        yield f"\n{one.method}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folders", type=Path, nargs="+", help="of shapefirst study c1, c2")
    arguments.add_argument("--note", default="", help="a paragraph for the head of the page")
    arguments.add_argument("--out", type=Path, default=OUT)
    given = arguments.parse_args()
    stored = [one for folder in given.folders for one in load_all(folder) if one.name in ("c1", "c2")]
    save_text("\n".join(page(stored, given.note)) + "\n", given.out)


if __name__ == "__main__":
    main()
