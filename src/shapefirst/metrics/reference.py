"""Distance of an image x to a reference image y of the same size, all values in [0, 1].

    L1(x, y)   = mean |x - y|                     0 = identical, 1 = black against white
    PSNR(x, y) = -10 log10( mean (x - y)^2 )      in dB, infinite for identical images

The mean runs over pixels and channels. In the paper (arXiv 2405.15330) L1 is the distance to the fully guided image of
the same seed.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from PIL import Image

from shapefirst.errors import ShapefirstError

__all__ = ["difference", "l1", "psnr"]

Picture: TypeAlias = "Image.Image | np.ndarray"


def l1(image: Picture, reference: Picture) -> float:
    """Mean absolute difference in [0, 1].

    Args:
        image: A PIL image, or an array (height, width, channels) of uint8 or of floats in [0, 1].
        reference: The same size as ``image``.

    Raises:
        ShapefirstError: The two differ in size.
    """
    x, y = _same_size(image, reference)
    return float(np.abs(x - y).mean())


def psnr(image: Picture, reference: Picture) -> float:
    """Peak signal-to-noise ratio in dB, ``inf`` for identical images. Arguments and errors as in :func:`l1`."""
    x, y = _same_size(image, reference)
    mean_squared_error = float(np.square(x - y).mean())
    return math.inf if mean_squared_error == 0 else -10 * math.log10(mean_squared_error)


def difference(image: Picture, reference: Picture) -> Image.Image:
    """|x - y| as an 8-bit RGB image, not amplified: black where the two agree. Errors as in :func:`l1`."""
    x, y = _same_size(image, reference)
    return Image.fromarray(np.rint(np.abs(x - y) * 255).astype(np.uint8)).convert("RGB")


def _same_size(image: Picture, reference: Picture) -> tuple[np.ndarray, np.ndarray]:
    x, y = _unit(image), _unit(reference)
    if x.shape != y.shape:
        raise ShapefirstError(f"The images to compare differ in size: {x.shape} and {y.shape}.")
    return x, y


def _unit(image: Picture) -> np.ndarray:
    """As float64 in [0, 1]."""
    values = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    return values / 255.0 if values.dtype == np.uint8 else values.astype(np.float64)
