"""Frequency bands of latents and images, and when each of them rises out of the noise.

    X_k = FFT(x), unitary, so that  sum_k |X_k|^2 = sum_i x_i^2                  (Parseval)
    E_b = sum of |X_k|^2 over the modes k of band b,   n_b = their number
    snr_b(t) = abar_t E_b / ((1 - abar_t) n_b)

White noise of unit variance puts energy 1 into every mode, n_b into band b, whereas images hold most of theirs at low
frequencies: of x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps the low band is the last to drown and the first to come
back (arXiv 2405.15330). A frequency is the number of cycles over the shorter side of the picture: at 16 x 16 the
highest along a side is 8, and 0 is the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias

import numpy as np
import torch
from PIL import Image

from shapefirst.errors import ShapefirstError
from shapefirst.measure.rgb import to_rgb
from shapefirst.signatures import From, guarded

__all__ = ["cutoff_of", "energies", "low_high_bands", "modes", "pixels", "radial_bands", "radius", "snr", "split"]

Modes: TypeAlias = Annotated[int, From(1, 4096)]  # of a side


@guarded
def radius(height: Modes, width: Modes) -> torch.Tensor:
    """(height, width) float64: the frequency |k| of every mode, in the order of ``torch.fft.fft2``."""
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64) for n in (height, width))
    return min(height, width) * torch.hypot(fy[:, None], fx[None, :])


@guarded
def radial_bands(height: Modes, width: Modes) -> torch.Tensor:
    """(height, width) int64: the band of every mode, which is its frequency to the nearest whole number."""
    return (radius(height, width) + 0.5).floor().long()


@guarded
def low_high_bands(height: Modes, width: Modes, cutoff: float) -> torch.Tensor:
    """(height, width) int64: 0 for modes up to ``cutoff``, 1 for those above.

    Raises:
        ShapefirstError: A cut-off below 0.
    """
    if not cutoff >= 0:
        raise ShapefirstError(f"The cut-off between low and high frequencies must be at least 0, not {cutoff}.")
    return (radius(height, width) > cutoff).long()


def cutoff_of(height: int, width: int) -> float:
    """A quarter of the highest frequency along the shorter side, at least 1."""
    return max(1.0, min(height, width) / 8)


def modes(bands: torch.Tensor) -> torch.Tensor:
    """(K,) float64: n_b, how many modes each band has.

    Args:
        bands: (H, W), of :func:`radial_bands` or :func:`low_high_bands`.
    """
    return torch.bincount(bands.flatten()).double()


def energies(x: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """(..., K): E_b, summing to the squared norm of each (H, W) plane.

    Args:
        x: (..., H, W).
        bands: (H, W), as of :func:`modes`.

    Raises:
        ShapefirstError: The two differ in size.
    """
    if x.shape[-2:] != bands.shape:
        raise ShapefirstError(f"Bands of {tuple(bands.shape)} modes do not fit planes of {tuple(x.shape[-2:])}.")
    power = torch.fft.fft2(_full(x), norm="ortho").abs().square().flatten(-2)
    index = bands.flatten().to(x.device)
    empty = power.new_zeros(*power.shape[:-1], int(index.max()) + 1)
    return empty.index_add(-1, index, power)


@guarded
def split(x: torch.Tensor, cutoff: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The parts of ``x`` below and above a frequency; they sum to ``x`` and are orthogonal.

    Args:
        x: (..., H, W).
        cutoff: The highest frequency of the low part.

    Returns:
        low: (..., H, W).
        high: (..., H, W).

    Raises:
        ShapefirstError: A cut-off below 0.
    """
    if x.ndim < 2 or not x.numel():
        raise ShapefirstError(f"Planes of frequencies are (..., H, W), not {tuple(x.shape)}.")
    height, width = x.shape[-2:]
    is_low = low_high_bands(height, width, cutoff).to(x.device) == 0
    low = torch.fft.ifft2(torch.fft.fft2(_full(x)) * is_low).real.to(x.dtype)
    return low, x - low


def snr(abar: torch.Tensor, energy: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """(..., T, K): abar_t E_b / ((1 - abar_t) n_b), infinite where there is no noise.

    Args:
        abar: (T,), the schedule's cumulative products at T timesteps.
        energy: (..., K), E_b of clean latents, of one plane or averaged over several.
        count: (K,), n_b.
    """
    abar, energy = abar.double()[:, None], energy.double()[..., None, :]
    return abar * energy / ((1 - abar) * count.to(energy.device))


@guarded
def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
    """(B, 3, H, W) in [-1, 1], the scale in which diffusion models see images.

    Raises:
        ShapefirstError: There is no image, or they differ in size.
    """
    if not images or len({image.size for image in images}) > 1:
        raise ShapefirstError(f"Images for one spectrum must be of one size, not of {len({i.size for i in images})}.")
    values = np.stack([np.asarray(to_rgb(image), np.float32) for image in images])
    return torch.from_numpy(values).permute(0, 3, 1, 2) / 127.5 - 1


def _full(x: torch.Tensor) -> torch.Tensor:
    """Half precision has no FFT on every device."""
    return x if x.dtype == torch.float64 else x.float()
