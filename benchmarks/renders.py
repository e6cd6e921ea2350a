"""Pictures of pocket's world for the prompts of a sweep: what the photographs of MS-COCO are to the paper's FID.

    python benchmarks/renders.py out/sweep out/renders [--each 5] [--seed 0]
    shapefirst sweep report out/sweep --reference out/renders

Each prompt is rendered ``--each`` times, with its objects where it says and all else drawn at random. Needs the
``train`` extra.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from shapefirst.files import save_png
from shapefirst.sweep.store import Store
from shapefirst.world.scenes import place, render
from shapefirst.world.vocabulary import relation_of


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("sweep", help="its folder or URL")
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--each", type=int, default=5, help="pictures of a prompt")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    dice = np.random.default_rng(given.seed)
    for n, prompt in enumerate(track(Store(given.sweep).plan().prompts, "rendering")):
        for i in range(given.each):
            image, _ = render(place(list(prompt.phrases), relation_of(prompt.text), dice))
            save_png(Image.fromarray(image), given.out / f"{n:05d}-{i}.png", {"prompt": prompt.text})


if __name__ == "__main__":
    main()
