"""What ``shapefirst generate`` leaves on the disk: PNGs with their settings inside, and a sheet of comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shapefirst.comparison import Comparison, decibels, percent
from shapefirst.generation import Result
from shapefirst.metrics import difference
from shapefirst.sheets import Cell, contact_sheet
from shapefirst.writes import Names, save_png, slug

__all__ = ["Written", "write_comparison", "write_images"]

BRIGHTER = 4  # the sheet shows the difference this many times brighter, or nothing would be seen in it


@dataclass(frozen=True)
class Written:
    """One image on the disk; distances only where it was compared."""

    result: Result
    path: Path
    l1: float | None = None
    psnr: float | None = None


def write_images(
    results: Sequence[Result], out: Path, tag: str, settings: Mapping[str, object], names: Names | None = None
) -> list[Written]:
    """Writes each image as ``{prompt}_seed{seed}_{tag}.png``, numbered where two would be alike.

    Args:
        results: The images.
        out: Folder, made if need be.
        tag: What tells these images from others of the same prompt and seed.
        settings: Goes into every PNG, with the image's own prompt, seed and cost.
        names: Names already given in this run.
    """
    names = names or Names()
    written = []
    for result in results:
        path = out / f"{names.unique(f'{slug(result.prompt)}_seed{result.seed}_{tag}')}.png"
        save_png(result.image, path, {**settings, **_own_settings(result)})
        written.append(Written(result, path))
    return written


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
    names = Names()
    full = write_images(comparison.reference, out, "full", reference_settings, names)
    mine = write_images(comparison.results, out, tag, settings, names)
    written, rows = [], []
    for n, (a, b) in enumerate(zip(full, mine, strict=True)):
        change = difference(b.result.image, a.result.image)
        path = out / f"{names.unique(f'{slug(b.result.prompt)}_seed{b.result.seed}_{tag}_difference')}.png"
        save_png(
            change, path, {**settings, **_own_settings(b.result), "content": "absolute difference to full guidance"}
        )
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
        column_titles=["Full guidance", comparison.title, f"Difference, {BRIGHTER} times brighter"],
        row_titles=[f"{a.result.prompt}\nseed {a.result.seed}" for a in full],
        picture_width=288,
        row_title_width=180,
    )
    path = out / f"comparison_{tag}.png"
    save_png(sheet, path, settings)
    return written, path


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
    return (
        f"saved: {percent(1 - mine.evaluations / full.evaluations)} of the evaluations, "
        f"{percent(1 - mine.seconds / full.seconds)} of the time"
    )
