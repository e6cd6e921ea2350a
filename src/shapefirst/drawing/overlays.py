"""A map over the picture that it belongs to: as heat, or with the border of its shape."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from shapefirst.measure.rgb import to_rgb
from shapefirst.measure.shapes import Mask, binarise, resize

__all__ = ["heat", "overlay"]

LEAST_WIDTH: Final = 192  # pixels
_HEAT, _EDGE = np.array((213, 94, 0)) / 255, np.array((0, 114, 178)) / 255  # of Okabe and Ito's colours
#: Viridis at equal distances, from dark violet over green to yellow, of ever greater lightness.
_VIRIDIS: Final = (
    0x440154,
    0x482475,
    0x414487,
    0x355F8D,
    0x2A788E,
    0x21918C,
    0x22A884,
    0x44BF70,
    0x7AD151,
    0xBDDF26,
    0xFDE725,
)
_COVER: Final = 0.6  # of the picture, which shines through


def heat(image: Image.Image, values: np.ndarray) -> Image.Image:
    """A map over a picture: viridis from its least to its greatest value, over the picture in grey.

    Args:
        image: Any size; small ones are enlarged.
        values: (h, w), a map.
    """
    grey = _grey(image)
    scaled = _scaled(values, grey).clip(0, 1)
    colours = np.array([[one >> shift & 255 for shift in (16, 8, 0)] for one in _VIRIDIS], np.float32) / 255
    at = np.linspace(0, 1, len(colours))
    drawn = np.stack([np.interp(scaled, at, channel) for channel in colours.T], -1)
    return Image.fromarray(np.round(255 * ((1 - _COVER) * grey[..., None] + _COVER * drawn)).astype(np.uint8))


def overlay(image: Image.Image, values: np.ndarray) -> Image.Image:
    """A map over a picture: the picture pale and grey, the map orange from its least to its greatest value, the border
    of its mask blue.

    Args:
        image: Any size; small ones are enlarged.
        values: (h, w), a map, or a mask to show by itself.
    """
    grey = _grey(image)
    heat = 0.8 * _scaled(values, grey)[..., None]
    drawn = (1 - 0.6 * (1 - grey[..., None])) * (1 - heat) + heat * _HEAT
    drawn[_border(binarise(np.asarray(values, np.float32)), grey.shape)] = _EDGE
    return Image.fromarray(np.round(255 * drawn.clip(0, 1)).astype(np.uint8))


def _scaled(values: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(H, W), a map as large as a picture: 0 at its least value, 1 at its greatest; resizing may overshoot."""
    v = np.asarray(values, np.float32)
    span = float(np.ptp(v))
    return resize((v - v.min()) / span if span else np.zeros_like(v), like.shape)


def _grey(image: Image.Image) -> np.ndarray:
    """(H, W) in [0, 1], the picture's lightness, large enough to be seen."""
    width = max(LEAST_WIDTH, image.width)
    height = max(1, round(image.height * width / image.width))
    return np.asarray(to_rgb(image).convert("L").resize((width, height), Image.Resampling.LANCZOS), np.float32) / 255


def _border(mask: Mask, size: tuple[int, int]) -> Mask:
    """Two pixels along the inside of a mask at another size."""
    large = Image.fromarray(mask).convert("L").resize(size[::-1], Image.Resampling.NEAREST)
    border: Mask = np.asarray(large) > np.asarray(large.filter(ImageFilter.MinFilter(5)))
    return border
