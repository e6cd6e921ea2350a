"""Statistics of reference images for a Frechet distance: of a folder of images, or as FID programs keep them."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Final

from PIL import Image

from shapefirst.errors import ShapefirstError
from shapefirst.measure.frechet import Moments, read_gaussian
from shapefirst.measure.rgb import read_rgb
from shapefirst.sweep.summary import Reference
from shapefirst.sweep.work import Scorers, frechet_features

__all__ = ["reference_from"]

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
        ShapefirstError: There is nothing, or too little, at the path, or an image of a format that is not read; later,
            an image cannot be read.
    """
    if not path.exists():
        raise ShapefirstError(f"There is nothing at {str(path)!r} to compare with: give a folder of images or an .npz.")
    if path.is_file():
        known = read_gaussian(path)
        return Reference(path.name, f"the statistics in {path}", lambda setting: known)
    files, others = _pictures(path)
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

    title = f"the {len(files):,} images in {path}" + (f" ({others:,} other files left out)" if others else "")
    return Reference(path.name, title, lambda setting: statistics(setting.model))


def _pictures(folder: Path) -> tuple[list[Path], int]:
    """The images in a folder and those within it, by their endings; and how many other files there are.

    Raises:
        ShapefirstError: One is an image of a format that Pillow does not read.
    """
    Image.init()
    known = {
        ending
        for ending, kind in Image.registered_extensions().items()
        if kind in Image.OPEN and Image.MIME.get(kind, "").startswith("image/")
    }
    everything = [file for file in folder.rglob("*") if not file.is_dir() and not file.name.startswith(".")]
    files = sorted(file for file in everything if file.suffix.lower() in known and file.is_file())
    for other in sorted({*everything} - {*files}):
        if other.is_file() and (mimetypes.guess_type(other.name, strict=False)[0] or "").startswith("image/"):
            raise ShapefirstError(
                f"Images such as {str(other)!r} are not read and would be missing: save them as PNG, or take them out."
            )
    return files, len(everything) - len(files)
