"""What dropping the text changes in the picture, beside what it saves; and its rival, fewer steps.

    python benchmarks/fidelity.py [--model pocket] [--prompts 48] [--seed 0]

Distances are to the fully guided image of the same prompt and seed (L1 and PSNR of values in [0, 1]), means over the
prompts with the 95% interval of the mean. Prompts are drawn from pocket's vocabulary, two thirds with one object.
"""

from __future__ import annotations

import argparse
import random

from rich.progress import track

from shapefirst import TextSchedule, load
from shapefirst.comparison import Comparison
from shapefirst.generation import Result, Sampling, generate, plan
from shapefirst.models import default_guidance_scale
from shapefirst.pocket.vocabulary import ATTRIBUTES, NOUNS, RELATIONS

STEPS = 50
VARIANTS: dict[str, tuple[int, TextSchedule]] = {
    "text in all 50 steps": (STEPS, TextSchedule.always()),
    **{
        f"text in the first {k}, null after (the paper)": (STEPS, TextSchedule.until(k))
        for k in (40, 30, 25, 20, 15, 10)
    },
    **{f"text in the first {k}, text branch after": (STEPS, TextSchedule.until(k, keep="text")) for k in (25, 15, 10)},
    **{f"{n} steps, text in all": (n, TextSchedule.always()) for n in (38, 30, 25)},
}


def draw_prompts(count: int, seed: int) -> list[str]:
    """Distinct prompts of pocket's world."""
    dice = random.Random(seed)

    def phrase() -> str:
        return f"a {dice.choice(ATTRIBUTES)} {dice.choice(NOUNS)}"

    prompts: dict[str, None] = {}
    while len(prompts) < count:
        pair = len(prompts) % 3 == 2
        prompts[f"{phrase()} {dice.choice(list(RELATIONS))} {phrase()}" if pair else phrase()] = None
    return list(prompts)


def interval(values: list[float], form: str) -> str:
    """Mean and half the width of its 95% interval."""
    n, mean = len(values), sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / (n - 1) / n) ** 0.5
    return f"{mean:{form}} ± {1.96 * spread:{form}}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", default="pocket")
    arguments.add_argument("--prompts", type=int, default=48)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    pipe = load(given.model)
    pipe.set_progress_bar_config(disable=True)
    scale = default_guidance_scale(given.model)
    jobs = plan(draw_prompts(given.prompts, given.seed), 1, given.seed)
    results: dict[str, list[Result]] = {}
    for title, (steps, schedule) in track(VARIANTS.items(), "variants"):
        results[title] = generate(pipe, jobs, {title: schedule}, Sampling(scale, steps), batch_size=8)[title]
    reference = next(iter(results.values()))
    print(f"{given.model}, DDIM, w = {scale:g}, n = {len(jobs)} prompts, seed {given.seed}\n")
    print("| rule | evaluations | saved | PSNR, dB | L1 |\n|---|---|---|---|---|")
    for title, rows in results.items():
        c = Comparison(title, rows, reference)
        distances = (
            "| reference | 0 |" if c.is_reference else f"| {interval(c.psnr, '.1f')} | {interval(c.l1, '.4f')} |"
        )
        print(f"| {title} | {c.evaluations:g} | {c.evaluations_saved:.0%} {distances}")


if __name__ == "__main__":
    main()
