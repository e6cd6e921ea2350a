"""How good the embedded model is: prints the figures of its model card, measured now.

    python benchmarks/pocket_quality.py [--weights DIR] [--count 512] [--others 128] [--seed 0] [--renew]

Needs the ``train`` extra (the world is rendered). About 20 minutes on 2 cores at the default counts. Exits
with 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shapefirst.models import default_guidance_scale, locate
from shapefirst.training.card import TABLE_HEAD, renew, table_rows
from shapefirst.training.quality import measure_model


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--weights", type=Path, default=locate("pocket"), help="default: those of the package")
    arguments.add_argument("--count", type=int, default=512, help="prompts with one object, and with two")
    arguments.add_argument("--others", type=int, default=128, help="held-out combinations, w = 7.5: each")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--renew", action="store_true", help="put them into the model card, too")
    given = arguments.parse_args()
    scale = default_guidance_scale("pocket")
    figures = measure_model(
        given.weights, count=given.count, others=given.others, guidance_scale=scale, seed=given.seed
    )
    print("\n".join([TABLE_HEAD, *table_rows(figures)]))
    if given.renew:
        renew(given.weights, figures)
    return int(any(f.reached is False for f in figures))


if __name__ == "__main__":
    raise SystemExit(main())
