"""The first picture of the README: the same seeds fully guided, within a budget, in fewer steps, and without text.

    python benchmarks/first_picture.py [--out docs/images/keep.png]         (half a minute)

pocket, DPM++ 2M Karras, 25 steps, w = 4. Prompts are the first of `prompts.mixed`, none selected.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from shapefirst import guide, load, text_until
from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.files import atomic
from shapefirst.measure import l1
from shapefirst.models import default_guidance_scale
from shapefirst.prompts import mixed
from shapefirst.sampling.loop import generators

STEPS: Final = 25
PROMPTS: Final = 6
SEED: Final = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/keep.png"))
    out = parser.parse_args().out
    pipe = load("pocket")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    prompts = mixed(PROMPTS, SEED)

    def images(steps: int = STEPS, within: AbstractContextManager[Any] | None = None) -> list[Image.Image]:
        with within or nullcontext():
            made = pipe(
                prompts,
                num_inference_steps=steps,
                guidance_scale=default_guidance_scale("pocket"),
                generator=generators(range(PROMPTS)),
            )
        return list(made.images)

    stock = images()
    rows = {
        f"stock\n{STEPS} steps, {2 * STEPS} evaluations": stock,
        "budget=0.6\n30 evaluations": images(within=guide(pipe, budget=0.6)),
        "fewer steps\n15 steps, 30 evaluations": images(15),
        "text_until(step=5)\n30 evaluations": images(within=text_until(pipe, step=5)),
    }
    sheet = contact_sheet(
        [_cells(stock, made) for made in rows.values()],
        column_titles=prompts,
        row_titles=list(rows),
        picture_width=128,
        row_title_width=170,
    )
    with atomic(out) as place:
        sheet.save(place, format="PNG", optimize=True)
    print(out)


def _cells(stock: Sequence[Image.Image], made: Sequence[Image.Image]) -> list[Cell]:
    """The images, each with its L1 to the stock one, which has none."""
    return [
        Cell(image, "" if made is stock else f"L1 {l1(one, image):.4f}") for one, image in zip(stock, made, strict=True)
    ]


if __name__ == "__main__":
    main()
