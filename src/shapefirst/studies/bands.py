"""Frequency bands of what a sampler does: pictures noised to a schedule, and bands that settle on the way back.

    x_t      = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
    E_b(t)   = abar_t E_b + (1 - abar_t) n_b                        the expected energy of x_t in band b of n_b modes
    snr_b(t) = abar_t E_b / ((1 - abar_t) n_b)                      its signal over its noise (PAPER.md, F2t)

E_b is the energy of x_0 in the band. Sums run over the channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar

import numpy as np
import torch
from PIL import Image

from shapefirst.measure.spectrum import cutoff_of, energies, low_high_bands, modes, pixels, radial_bands, snr
from shapefirst.sampling.loop import generators

__all__ = [
    "Noised",
    "Trajectories",
    "add_noise",
    "correlations",
    "followed",
    "joined",
    "two_bands",
    "without_mean",
]

#: Keeps the noise of the forward process apart from that which the images started from.
NOISE_SEED: Final = 1_000_000_007

T = TypeVar("T", bound=Any)


@dataclass(frozen=True)
class Noised:
    """The forward process on B clean pictures at T timesteps, in K bands; sums over the channels.

    Attributes:
        energy: (B, K), E_b of x_0.
        noised: (B, T, K), energy of x_t.
        expected: (B, T, K), the closed form of it.
        measured: (B, T, K), energy of sqrt(abar_t) x_0 over that of the noise that was added.
        predicted: (B, T, K), the closed form of it.
        count: (K,), n_b.
    """

    energy: np.ndarray
    noised: np.ndarray
    expected: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    count: np.ndarray

    @property
    def decades(self) -> np.ndarray:
        """(B,): mean |log10(measured / predicted)| over timesteps and bands; bands without any signal are left out."""
        with np.errstate(divide="ignore", invalid="ignore"):
            off = np.abs(np.log10(self.measured / self.predicted))
        return np.nanmean(np.where(np.isfinite(off), off, np.nan), axis=(1, 2))


def add_noise(x_0: torch.Tensor, abar: torch.Tensor, bands: torch.Tensor, seeds: Sequence[int]) -> Noised:
    """Clean pictures (B, C, H, W) noised to every abar of (T,), with noise of their own seeds, in ``bands`` (H, W)."""
    sources = generators([NOISE_SEED + seed for seed in seeds])
    count = x_0.shape[1] * modes(bands)
    energy = energies(x_0, bands).double().sum(1)
    noised, measured = [], []
    for share in abar.double().tolist():
        eps = torch.stack([torch.randn(x_0.shape[1:], generator=source) for source in sources])
        added = energies((1 - share) ** 0.5 * eps, bands).double().sum(1)
        noised.append(energies(share**0.5 * x_0 + (1 - share) ** 0.5 * eps, bands).double().sum(1))
        measured.append(share * energy / added)
    a = abar.double()[:, None]
    return Noised(
        energy=energy.numpy(),
        noised=torch.stack(noised, dim=1).numpy(),
        expected=(a * energy[:, None] + (1 - a) * count).numpy(),
        measured=torch.stack(measured, dim=1).numpy(),
        predicted=snr(abar, energy, count).numpy(),
        count=count.numpy(),
    )


def correlations(x: torch.Tensor, y: torch.Tensor, bands: torch.Tensor) -> torch.Tensor:
    """(B, K) float64: per band, the correlation over channels and modes of (B, C, H, W) with its like; NaN if empty.

    sum_k X_k conj(Y_k) over a band is the inner product of the two pictures' parts in it (Parseval).
    """
    x, y = x.double(), y.double()
    product = ((energies(x + y, bands) - energies(x - y, bands)) / 4).sum(1)
    norms = [energies(z, bands).sum(1).sqrt() for z in (x, y)]
    return product / (norms[0] * norms[1])


def two_bands(height: int, width: int) -> torch.Tensor:
    """(H, W) int64: 0 the low, 1 the high frequencies, cut at a quarter of the highest along the shorter side."""
    return low_high_bands(height, width, cutoff_of(height, width))


def without_mean(bands: torch.Tensor) -> torch.Tensor:
    """The same with the mean (frequency 0) in a band of its own, which comes first."""
    own = bands + 1
    own[0, 0] = 0
    return own


@dataclass(frozen=True)
class Trajectories:
    """The runs of B prompts in T steps, of which L were looked at; R radial bands."""

    clean: Noised  # latents, two bands
    seen: Noised  # images, two bands
    radial: Noised  # latents, R bands
    of_x0: np.ndarray  # (B, T, 2), correlation of the predicted x_0 with the final one
    of_x_t: np.ndarray  # (B, T, 2), of x_t with it
    implied: np.ndarray  # (B, T, 2), what the closed form implies for x_t
    of_radial: np.ndarray  # (B, T, R), of the predicted x_0, the mean included as band 0
    of_image: np.ndarray  # (B, L, 2), of the decoded x_0 with the final image
    reverse: np.ndarray  # (B, T, 2), energy of x_t on its way back


def followed(
    final: torch.Tensor,
    x0s: Sequence[torch.Tensor],
    x_ts: Sequence[torch.Tensor],
    images: Sequence[Image.Image],
    decoded: Mapping[int, Sequence[Image.Image]],
    abars: torch.Tensor,
    seeds: Sequence[int],
) -> Trajectories:
    """One batch, measured.

    Args:
        final: (B, C, H, W), the clean latents it ended with.
        x0s: Of T steps, the predicted x_0 (B, C, H, W).
        x_ts: Likewise x_t.
        images: The B final images.
        decoded: Of L steps, the images of the predicted x_0.
        abars: (T,).
        seeds: B.
    """
    seen = pixels(images)
    two, two_seen = two_bands(*final.shape[-2:]), two_bands(*seen.shape[-2:])
    three, three_seen = without_mean(two), without_mean(two_seen)
    radial = radial_bands(*final.shape[-2:])
    clean = add_noise(final, abars, two, seeds)
    alone = snr(abars, energies(final, three).double().sum(1), final.shape[1] * modes(three))[..., 1:]

    def along(values: Iterable[torch.Tensor], bands: torch.Tensor, target: torch.Tensor) -> np.ndarray:
        return torch.stack([correlations(value, target, bands) for value in values], dim=1).numpy()

    return Trajectories(
        clean=clean,
        seen=add_noise(seen, abars, two_seen, seeds),
        radial=add_noise(final, abars, radial, seeds),
        of_x0=along(x0s, three, final)[..., 1:],
        of_x_t=along(x_ts, three, final)[..., 1:],
        implied=(alone / (1 + alone)).sqrt().numpy(),
        of_radial=along(x0s, radial, final),
        of_image=along((pixels(decoded[at]) for at in sorted(decoded)), three_seen, seen)[..., 1:],
        reverse=torch.stack([energies(x, two).double().sum(1) for x in x_ts], dim=1).numpy(),
    )


def joined(parts: Sequence[T]) -> T:
    """The batches, one after the other; what is the same for all images is the first one's."""
    values = {}
    for f in fields(parts[0]):
        mine = [getattr(p, f.name) for p in parts]
        shared = f.name == "count"
        values[f.name] = (
            mine[0] if shared else np.concatenate(mine) if isinstance(mine[0], np.ndarray) else joined(mine)
        )
    return type(parts[0])(**values)
