"""What recording cross-attention maps costs: plain and recorded generations in turn, in one process.

    python benchmarks/recording.py [--model pocket] [--batch 1 4] [--repeats 9] [--size 16]

Whole pipeline calls (text encoder, 50 steps, decoder), running-mean maps of all tokens. The order alternates from
round to round; the ratio is the median of the rounds' own ratios. Exits with 1 if it is above 1.6. Run it on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import nullcontext
from functools import partial

from rich.progress import track
from saving import PROMPTS, Block, seconds_of

from shapefirst import load
from shapefirst.attention.recording import record
from shapefirst.models import default_guidance_scale

BAR = 1.6


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", default="pocket")
    arguments.add_argument("--batch", type=int, nargs="+", default=[1, 4], choices=range(1, len(PROMPTS) + 1))
    arguments.add_argument("--repeats", type=int, default=9)
    arguments.add_argument("--size", type=int, default=16)
    given = arguments.parse_args()
    pipe = load(given.model)
    pipe.set_progress_bar_config(disable=True)
    scale = default_guidance_scale(given.model)

    print("| batch | plain, s | recorded, s | recorded / plain | bar |\n|---|---|---|---|---|")
    worst = 0.0
    for batch in given.batch:
        seconds: dict[bool, list[float]] = {False: [], True: []}
        recording = partial(record, pipe, size=given.size)
        seconds_of(pipe, recording, batch, scale, "np")  # warm-up
        for i in track(range(given.repeats), f"batch {batch}"):
            for recorded in (bool(i % 2), not i % 2):
                block: Block = recording if recorded else nullcontext
                seconds[recorded].append(seconds_of(pipe, block, batch, scale, "np"))
        ratio = statistics.median(b / a for a, b in zip(seconds[False], seconds[True], strict=True))
        plain, kept = (statistics.median(seconds[recorded]) for recorded in (False, True))
        print(f"| {batch} | {plain:.2f} | {kept:.2f} | {ratio:.2f} | <= {BAR} |", flush=True)
        worst = max(worst, ratio)
    return int(worst > BAR)


if __name__ == "__main__":
    raise SystemExit(main())
