"""A forward process of equal signal-to-noise in every frequency band (Falck et al. 2025, arXiv 2505.11278).

Latents, like images, have most of their power in the low frequencies, and white noise has the same in all: so the high
frequencies drown first when noise is added, and come last when it is taken away. Here the noise is coloured as the
latents are, so that no band drowns before another.
"""

from __future__ import annotations

import torch
from torch import Tensor


def filter_like(latents: Tensor) -> Tensor:
    """(channels, h, w) float32: what each frequency of white noise is multiplied by to have the spectrum of latents.

    The mean power of each channel's frequencies, averaged over rings of equal frequency; its square root, scaled so
    that coloured noise has variance 1.

    Args:
        latents: (n, channels, h, w).
    """
    n, _, h, w = latents.shape
    power = torch.stack([torch.fft.fft2(part.float()).abs().square().sum(0) for part in latents.split(4096)]).sum(0) / n
    fy, fx = torch.fft.fftfreq(h)[:, None] * h, torch.fft.fftfreq(w)[None] * w
    ring = (fy.square() + fx.square()).sqrt().round().long()
    for r in ring.unique():
        inside = ring == r
        power[:, inside] = power[:, inside].mean(-1, keepdim=True)
    return (power / power.mean((-2, -1), keepdim=True)).sqrt()


def coloured(noise: Tensor, by: Tensor | None) -> Tensor:
    """(b, channels, h, w) noise whose frequencies are multiplied by ``by`` (channels, h, w); itself without one.

    By ``1 / filter_like(latents)`` it whitens what ``filter_like`` has coloured.
    """
    return noise if by is None else torch.fft.ifft2(torch.fft.fft2(noise) * by).real
