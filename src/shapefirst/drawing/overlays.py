"""A map over the picture that it belongs to."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from shapefirst.measure.rgb import to_rgb
from shapefirst.measure.shapes import Mask, binarise, resize

__all__ = ["overlay"]

LEAST_WIDTH: Final = 192  # pixels
_HEAT, _EDGE = np.array((213, 94, 0)) / 255, np.array((0, 114, 178)) / 255  # of Okabe and Ito's colours


def overlay(image: Image.Image, values: np.ndarray) -> Image.Image:
    """A map over a picture: the picture pale and grey, the map orange from its least to its greatest value, the border
    of its mask blue.

    Args:
        image: Any size; small ones are enlarged.
        values: (h, w), a map, or a mask to show by itself.
    """
    width = max(LEAST_WIDTH, image.width)
    height = max(1, round(image.height * width / image.width))
    grey = np.asarray(to_rgb(image).convert("L").resize((width, height), Image.Resampling.LANCZOS), np.float32) / 255
    v = np.asarray(values, np.float32)
    span = float(np.ptp(v))
    heat = 0.8 * resize((v - v.min()) / span if span else np.zeros_like(v), (height, width))[..., None]
    drawn = (1 - 0.6 * (1 - grey[..., None])) * (1 - heat) + heat * _HEAT
    drawn[_border(binarise(v), (height, width))] = _EDGE
    return Image.fromarray(np.round(255 * drawn.clip(0, 1)).astype(np.uint8))


def _border(mask: Mask, size: tuple[int, int]) -> Mask:
    """Two pixels along the inside of a mask at another size."""
    large = Image.fromarray(mask).convert("L").resize(size[::-1], Image.Resampling.NEAREST)
    border: Mask = np.asarray(large) > np.asarray(large.filter(ImageFilter.MinFilter(5)))
    return border
