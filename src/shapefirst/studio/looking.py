"""A step of a run to look at: x0 as it is then, its low and its high frequencies, and the attention map of a word.

x0 = low + high          cut at a quarter of the highest frequency along the shorter side, in pixels (`spectrum`)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from shapefirst.measure.rgb import to_rgb
from shapefirst.measure.spectrum import cutoff_of, pixels, split
from shapefirst.sampling.loop import decode

__all__ = ["bands_of", "map_over", "preview_of"]


@torch.no_grad()
def preview_of(pipe: Any, x0: torch.Tensor) -> Image.Image:
    """One image's clean latents (C, H, W), as a step implies them, decoded."""
    (image,) = decode(pipe, x0[None].to(pipe.device, pipe.dtype))
    return image


def bands_of(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The low frequencies of an image, and the high ones around mid-grey."""
    x = pixels([image])
    low, high = split(x, cutoff_of(*x.shape[-2:]))
    return _image(low), _image(high)


def map_over(image: Image.Image, maps: torch.Tensor, places: Sequence[int]) -> Image.Image:
    """The image, dark where a word gets little attention.

    Args:
        image: The preview.
        maps: (L, h, w), the weights of each token at each pixel.
        places: The word's tokens, whose weights are added up.
    """
    weight = maps[list(places)].sum(0)
    weight = weight / weight.max().clamp(min=1e-12)
    mask = Image.fromarray((255 * weight).round().byte().numpy()).resize(image.size, Image.Resampling.BICUBIC)
    shade = 0.12 + 0.88 * np.asarray(mask, np.float32)[..., None] / 255
    return Image.fromarray((np.asarray(to_rgb(image), np.float32) * shade).round().astype(np.uint8))


def _image(x: torch.Tensor) -> Image.Image:
    """(1, 3, H, W) in [-1, 1] -> an image."""
    values = ((x[0].permute(1, 2, 0) + 1) * 127.5).clamp(0, 255)
    return Image.fromarray(values.round().byte().numpy())
