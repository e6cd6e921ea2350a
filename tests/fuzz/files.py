"""Damaged files of every kind that commands read beside their own results, by the commands that read them."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fuzz.cases import Case
from fuzz.stock import damaged, put_stock

__all__ = ["file_case"]

SMALL = ("--steps", "2")
#: What is damaged, and a command that reads it.
READERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("prompts.txt", ("generate", "--prompts-file", "prompts.txt", *SMALL)),
    ("prompts.jsonl", ("generate", "--prompts-file", "prompts.jsonl", *SMALL)),
    ("pairs.tsv", ("prompts", "text", "pairs.tsv")),
    ("prompts.txt", ("prompts", "text", "prompts.txt", "--pairs", "2")),
    ("prompts.txt", ("prompts", "compbench", "--colour", "prompts.txt", "--out", "new.txt")),
    ("prompts.csv", ("prompts", "coco", "prompts.csv")),
    ("captions.json", ("prompts", "coco", "captions.json", "--out", "new.txt")),
    ("grid.toml", ("sweep", "plan", "grid.toml", "--no-probe")),
    ("grid.toml", ("sweep", "run", "grid.toml", "--count", "2", *SMALL, "--out", "new")),
    ("prompts.csv", ("sweep", "run", "--prompts", "prompts.csv", "--count", "2", *SMALL, "--text-steps", "1")),
    ("pictures", ("sweep", "report", "sweep", "--reference", "pictures")),
    ("statistics.npz", ("sweep", "report", "sweep", "--reference", "statistics.npz")),
    ("array.npy", ("sweep", "report", "sweep", "--reference", "array.npy")),
    ("prompts.txt", ("study", "f3", "--prompts-file", "prompts.txt", "--quick")),
    ("pairs.tsv", ("study", "f4", "--pairs-file", "pairs.tsv", "--quick")),
    ("prompts.txt", ("tune", "--prompts", "prompts.txt")),
)


def file_case(random: Random) -> Case:
    """A damaged file."""
    name, command = random.choice(READERS)
    seed = random.random()

    def prepare(folder: Path) -> None:
        put_stock(folder)
        if (folder / name).is_dir():
            damaged(folder / name, Random(seed))
            return
        (folder / ".damaged").mkdir()
        (folder / name).rename(folder / ".damaged" / name)
        damaged(folder / ".damaged", Random(seed), most=1)
        for path in (folder / ".damaged").iterdir():
            path.rename(folder / path.name)

    return Case(f"damaged {name}", command, prepare, interrupted=3.0 if command[0] in ("study", "tune") else None)
