"""The pictures of a trace: each word's overlay, and a sheet of words by parts of the run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

from PIL import Image

from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.files import Names, save_png, slug
from shapefirst.images.heat_maps import Trace

__all__ = ["write_overlays"]

PARTS: Final = 4  # of a run, side by side


def write_overlays(seen: Trace, image: Image.Image, words: Sequence[str | int], out: Path) -> tuple[list[Path], Path]:
    """Writes the picture, an overlay for each word, and the sheet.

    Args:
        seen: The trace of one image.
        image: It.
        words: As for `Trace.heat_map`.
        out: A folder, made if there is none.

    Returns:
        The files of the picture and of the words, and the sheet's.

    Raises:
        ShapefirstError: As for `Trace.heat_map`.
    """
    out.mkdir(parents=True, exist_ok=True)
    (prompt,) = seen.prompts
    parts = _parts(seen.steps)
    rows = [[seen.heat_map(word), *(seen.heat_map(word, steps=part) for part in parts)] for word in words]
    overlays = [[one.overlay(image) for one in row] for row in rows]
    spelled = [whole.words for whole, *_ in rows]
    names, stem = Names(), slug(prompt)
    files = [out / f"{names.unique(stem)}.png"]
    save_png(image, files[0])
    for word, (whole, *_) in zip(spelled, overlays, strict=True):
        files.append(out / f"{names.unique(f'{stem}-{slug(word)}')}.png")
        save_png(whole, files[-1])
    shares = [[f"{one.words}: {one.values.mean():.1%} of attention" for one in row] for row in rows]
    sheet = contact_sheet(
        [
            [Cell(image, "the picture"), *(Cell(picture, share) for picture, share in zip(*row, strict=True))]
            for row in zip(overlays, shares, strict=True)
        ],
        title=f"{prompt}\nWhere the denoiser looks at each word, over the picture in grey: dark violet is the least "
        "attention of a map, green more, yellow the most. Mean over heads and layers.",
        column_titles=["", "all steps", *(_spelled(part) for part in parts)],
        row_titles=spelled,
        row_title_width=120,
    )
    place = out / f"{names.unique(f'{stem}-sheet')}.png"
    save_png(sheet, place)
    return files, place


def _parts(steps: Sequence[int]) -> list[list[int]]:
    """The steps in so many parts of about one length, or fewer where there are fewer steps."""
    number = min(PARTS, len(steps))
    cuts = [round(i * len(steps) / number) for i in range(number + 1)]
    return [list(steps[a:b]) for a, b in pairwise(cuts)] if number > 1 else []


def _spelled(part: Sequence[int]) -> str:
    return f"step {part[0]}" if len(part) == 1 else f"steps {part[0]} to {part[-1]}"
