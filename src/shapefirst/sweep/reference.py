"""Statistics of reference images for a Frechet distance: of a folder of images, or as FID programs keep them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Final

from shapefirst.errors import ShapefirstError
from shapefirst.measure.frechet import Moments, read_gaussian
from shapefirst.measure.rgb import read_rgb
from shapefirst.sweep.summary import Reference
from shapefirst.sweep.work import Scorers, frechet_features

__all__ = ["reference_from"]

PICTURES: Final = (
    ".avif",
    ".bmp",
    ".gif",
    ".jfif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
BATCH: Final = 32  # images at a time


def reference_from(
    path: Path,
    scores: Scorers,
    device: str | None,
    progress: Callable[[str, float], AbstractContextManager[Callable[[float], None]]],
) -> Reference:
    """The images, or statistics of some, to measure a Frechet distance to.

    Args:
        path: A folder of images, or an .npz with mu and sigma.
        scores: What the sweep was scored by.
        device: Of the model that makes the features.
        progress: Opens a progress bar.

    Raises:
        ShapefirstError: There is nothing, or too little, at the path; later, an image cannot be read.
    """
    if not path.exists():
        raise ShapefirstError(f"There is nothing at {str(path)!r} to compare with: give a folder of images or an .npz.")
    if path.is_file():
        known = read_gaussian(path)
        return Reference(path.name, f"the statistics in {path}", lambda setting: known)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURES)
    if len(files) < 2:
        raise ShapefirstError(
            f"There are {len(files)} images in {str(path)!r}: give a folder of 2 or more, or an .npz with mu and sigma."
        )

    @cache
    def statistics(model: str) -> Moments:
        _, features = frechet_features(model, scores, device)
        total: Moments | None = None
        with progress(f"Features of {len(files)} reference images", len(files)) as report:
            for first in range(0, len(files), BATCH):
                images = [read_rgb(file) for file in files[first : first + BATCH]]
                part = Moments.of(features(images))
                total = part if total is None else total + part
                report(first + len(images))
        assert total is not None
        return total

    title = f"the {len(files):,} images in {path}"
    return Reference(path.name, title, lambda setting: statistics(setting.model))
