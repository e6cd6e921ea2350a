"""What dropping the text saves in seconds, beside what it saves in denoiser evaluations.

    python benchmarks/saving.py [--model pocket] [--batch 1 4 8] [--repeats 15] [--contiguous]

Whole pipeline calls (text encoder, 50 steps, decoder). The stock pipeline, ``text_until(step=25)`` and ``text_until``
with text in all steps take turns in one process, in rotating order; the table gives medians over the rounds and, for
ratios, the median of the rounds' own ratios with the middle half of them. Run it on an otherwise idle machine.

A per cent is less than the noise of whole calls. What the hook itself takes is therefore measured with a denoiser that
answers at once, text in all steps against the stock pipeline, and stands in the last column as a share of a stock call.
``--contiguous`` undoes the channels-last layout that ``load`` gives a U-Net on a CPU, to compare the two.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from rich.progress import track

from shapefirst import load, text_until
from shapefirst.models import default_guidance_scale
from shapefirst.sampling.loop import generators

STEPS, TEXT_STEPS = 50, 25
PROMPTS = ["a red car", "a wooden cat", "a blue house above a glass fish", "a fluffy bear"] * 2


Block = Callable[[], AbstractContextManager[Any]]


def seconds_of(pipe: Any, block: Block, batch: int, scale: float, output: str) -> float:
    """One whole call, with the block entered and left."""
    start = time.perf_counter()
    with block():
        pipe(
            PROMPTS[:batch],
            num_inference_steps=STEPS,
            guidance_scale=scale,
            generator=generators(range(batch)),
            output_type=output,
        )
    if pipe.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rounds(pipe: Any, batch: int, repeats: int, scale: float, output: str = "np") -> dict[str, list[float]]:
    """Seconds of each variant in each round; the order rotates, so that no variant always follows the same one."""
    variants: dict[str, Block] = {
        "stock": nullcontext,
        "text in 25": lambda: text_until(pipe, step=TEXT_STEPS),
        "text in all": lambda: text_until(pipe, step=STEPS),
    }
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    seconds_of(pipe, variants["text in 25"], batch, scale, output)  # warm-up: both batch sizes
    for i in track(range(repeats), f"batch {batch}"):
        for j in range(len(names)):
            name = names[(i + j) % len(names)]
            seconds[name].append(seconds_of(pipe, variants[name], batch, scale, output))
    return seconds


@contextmanager
def answering_at_once(denoiser: torch.nn.Module) -> Iterator[None]:
    """The denoiser predicts zeros: what is left of a call is the pipeline's own part, and the hook's."""
    kind: Any = type(denoiser)

    class Zeros(kind):
        @wraps(kind.forward)
        def forward(self, sample: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
            return (torch.zeros_like(sample),)

    denoiser.__class__ = Zeros
    try:
        yield
    finally:
        denoiser.__class__ = kind


def spread(values: list[float], form: str) -> str:
    """Median and, in brackets, the middle half."""
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--model", default="pocket")
    arguments.add_argument("--batch", type=int, nargs="+", default=[1, 4, 8])
    arguments.add_argument("--repeats", type=int, default=15)
    arguments.add_argument("--contiguous", action="store_true", help="the denoiser in torch's usual memory format")
    given = arguments.parse_args()
    pipe = load(given.model)
    pipe.set_progress_bar_config(disable=True)
    scale = default_guidance_scale(given.model)
    denoiser = getattr(pipe, "unet", None) or pipe.transformer
    if given.contiguous:
        denoiser.to(memory_format=torch.contiguous_format)
    evaluations = (STEPS - TEXT_STEPS) / (2 * STEPS)
    print(
        f"{given.model}, DDIM {STEPS} steps, w = {scale:g}, {denoiser.dtype} on {pipe.device.type}, "
        f"{given.repeats} rounds, {os.cpu_count()} cores of {platform.machine()}, torch {torch.__version__}\n"
    )
    titles = ["batch", "stock, s", "text in 25, s", "time saved", "time saved / evaluations saved"]
    titles += ["text in all / stock", "the hook / stock"]
    print(f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for batch in given.batch:
        seconds = rounds(pipe, batch, given.repeats, scale)
        saved = [1 - b / a for a, b in zip(seconds["stock"], seconds["text in 25"], strict=True)]
        overhead = [b / a for a, b in zip(seconds["stock"], seconds["text in all"], strict=True)]
        with answering_at_once(denoiser):
            empty = rounds(pipe, batch, 4 * given.repeats, scale, "latent")
        stock = statistics.median(seconds["stock"])
        hook = [(b - a) / stock for a, b in zip(empty["stock"], empty["text in all"], strict=True)]
        row = [str(batch), spread(seconds["stock"], ".2f"), spread(seconds["text in 25"], ".2f"), spread(saved, ".1%")]
        row += [spread([s / evaluations for s in saved], ".2f"), spread(overhead, ".3f"), spread(hook, ".2%")]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
