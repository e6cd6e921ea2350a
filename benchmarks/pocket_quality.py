"""How good an embedded model is: prints the figures of its model card, measured now.

    python benchmarks/pocket_quality.py [--model pocket-dit | --weights DIR] [--count 512] [--others 128] [--seed 0]

Needs the ``train`` extra (the world is rendered). About a quarter of an hour on 2 cores at the default counts. Exits
with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shapefirst.models import default_guidance_scale
from shapefirst.models.catalogue import embedded_folder
from shapefirst.training.card import table_rows
from shapefirst.training.quality import measure_model


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = arguments.add_mutually_exclusive_group()
    which.add_argument("--model", default="pocket", help="an embedded one, by its name")
    which.add_argument("--weights", type=Path, help="a folder that `shapefirst train-pocket` left")
    arguments.add_argument("--count", type=int, default=512, help="prompts with one object")
    arguments.add_argument("--others", type=int, default=128, help="pairs, held-out combinations, w = 7.5: each")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    folder, scale = given.weights or embedded_folder(given.model), default_guidance_scale("pocket")
    figures = measure_model(folder, count=given.count, others=given.others, guidance_scale=scale, seed=given.seed)
    print("| figure | value | 95% interval | n | bar |\n|---|---|---|---|---|")
    print("\n".join(table_rows(figures)))
    return int(any(f.reached is False for f in figures))


if __name__ == "__main__":
    raise SystemExit(main())
