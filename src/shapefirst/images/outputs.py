"""What ``shapefirst generate`` leaves on the disk: PNGs with their settings inside, and a sheet of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from shapefirst.drawing.sheets import Cell, contact_sheet
from shapefirst.files import Names, save_png, slug
from shapefirst.images.comparison import Comparison, decibels, percent
from shapefirst.images.jobs import Result
from shapefirst.measure import difference

__all__ = ["Pictures", "Written", "write_comparison", "write_images"]

BRIGHTER = 4  # the sheet shows the difference this many times brighter, or nothing would be seen in it


_INCIDENTAL = ("Software", "seconds")  # settings that do not make another picture


class Pictures:
    """The PNGs that one run writes to a folder: none takes the place of another one, but of one with its settings."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = Names()

    def save(self, image: Image.Image, stem: str, settings: Mapping[str, object]) -> Path:
        """Writes ``{stem}.png``, or ``{stem}-2.png``, ``{stem}-3.png``, ... where that is taken. Returns its path."""
        name = self._names.unique(stem, lambda name: _is_another(self._folder / f"{name}.png", settings))
        path = self._folder / f"{name}.png"
        save_png(image, path, settings)
        return path


@dataclass(frozen=True)
class Written:
    """One image on the disk; distances only where it was compared."""

    result: Result
    path: Path
    l1: float | None = None
    psnr: float | None = None


def write_images(
    results: Sequence[Result], pictures: Pictures, tag: str, settings: Mapping[str, object]
) -> list[Written]:
    """Writes each image as ``{prompt}_seed{seed}_{tag}.png``, numbered where another one has that name.

    Args:
        results: The images.
        pictures: Where they go.
        tag: What tells these images from others of the same prompt and seed.
        settings: Goes into every PNG, with the image's own prompt, seed and cost.
    """
    return [
        Written(result, pictures.save(result.image, _stem(result, tag), {**settings, **_own_settings(result)}))
        for result in results
    ]


def write_comparison(
    comparison: Comparison,
    out: Path,
    tag: str,
    settings: Mapping[str, object],
    reference_settings: Mapping[str, object],
) -> tuple[list[Written], Path]:
    """Writes the images, the fully guided ones (``_full``), the absolute differences (``_difference``) and one sheet.

    Returns:
        The fully guided and the compared images in turn, and the path of the sheet.
    """
    pictures = Pictures(out)
    full = write_images(comparison.reference, pictures, "full", reference_settings)
    mine = write_images(comparison.results, pictures, tag, settings)
    written, rows = [], []
    for n, (a, b) in enumerate(zip(full, mine, strict=True)):
        change = difference(b.result.image, a.result.image)
        content = {"content": "absolute difference to full guidance"}
        pictures.save(change, f"{_stem(b.result, tag)}_difference", {**settings, **_own_settings(b.result), **content})
        written += [a, Written(b.result, b.path, comparison.l1[n], comparison.psnr[n])]
        distance = f"L1 {comparison.l1[n]:.4f}, PSNR {decibels(comparison.psnr[n])}"
        rows.append(
            [
                Cell(a.result.image, f"{_cost(a.result)}\nL1 0, the reference"),
                Cell(b.result.image, f"{_cost(b.result)}\n{distance}"),
                Cell(change.point(lambda v: min(255, BRIGHTER * v)), f"{_saved(a.result, b.result)}\n{distance}"),
            ]
        )
    sheet = contact_sheet(
        rows,
        column_titles=[comparison.reference_title, comparison.title, f"Difference, {BRIGHTER} times brighter"],
        row_titles=[f"{a.result.prompt}\nseed {a.result.seed}" for a in full],
        picture_width=288,
        row_title_width=180,
    )
    rows_of = {"prompts": "\n".join(f"{a.result.prompt} (seed {a.result.seed})" for a in full)}
    return written, pictures.save(sheet, f"comparison_{tag}", {**settings, **rows_of})


def _stem(result: Result, tag: str) -> str:
    return f"{slug(result.prompt)}_seed{result.seed}_{tag}"


def _is_another(path: Path, settings: Mapping[str, object]) -> bool:
    """Whether there is a file that these settings would not make again."""
    if not path.exists():
        return False
    try:
        with Image.open(path) as image:
            found = getattr(image, "text", {})
    except Exception:  # no picture at all, or whatever Pillow makes of a damaged one
        return True
    mine = {key: str(value) for key, value in settings.items() if key not in _INCIDENTAL}
    return mine != {key: value for key, value in found.items() if key not in _INCIDENTAL}


def _own_settings(result: Result) -> dict[str, object]:
    return {
        "prompt": result.prompt,
        "seed": result.seed,
        "denoiser_evaluations": f"{result.evaluations:g}",
        "seconds": f"{result.seconds:.3f}",
    }


def _cost(result: Result) -> str:
    return f"{result.evaluations:g} evaluations, {result.seconds:.2f} s"


def _saved(full: Result, mine: Result) -> str:
    """In evaluations: one call's seconds say little of how much time is saved."""
    return f"saved: {percent(1 - mine.evaluations / full.evaluations)} of the evaluations"
