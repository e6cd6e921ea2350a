"""Bands of the spectrum: Parseval, white noise, constant images, and the closed form of their signal-to-noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shapefirst.errors import ShapefirstError
from shapefirst.measure.spectrum import energies, low_high_bands, modes, pixels, radial_bands, radius, snr, split

sides = st.integers(1, 24)
seeds = st.integers(0, 2**32 - 1)
laws = settings(deadline=None, max_examples=50)


def white(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_frequencies_are_cycles_over_the_shorter_side():
    square = radius(16, 16)
    assert square[0, 0] == 0
    assert square[0, 1] == square[1, 0] == square[0, 15] == 1
    assert square[8, 0] == 8
    assert square.max() == pytest.approx(8 * math.sqrt(2))
    assert radius(16, 32)[0, 2] == 1  # twice over the longer side
    assert torch.equal(radius(16, 32), radius(32, 16).T)


def test_a_wave_lies_in_its_own_band():
    x = torch.arange(16, dtype=torch.float64) / 16
    for frequency in range(9):
        energy = energies(torch.cos(2 * math.pi * frequency * x).expand(16, 16), radial_bands(16, 16))
        assert energy.argmax() == frequency
        assert energy[frequency] == pytest.approx(energy.sum())


@given(sides, sides, seeds)
@laws
def test_parseval(height, width, seed):
    x = white(2, 3, height, width, seed=seed)
    for bands in (radial_bands(height, width), low_high_bands(height, width, 2)):
        assert torch.allclose(energies(x, bands).sum(-1), x.square().sum((-2, -1)))
        assert modes(bands).sum() == height * width


@given(sides, sides, seeds, st.floats(0, 20))
@laws
def test_the_parts_sum_to_the_whole_and_are_orthogonal(height, width, seed, cutoff):
    x = white(2, height, width, seed=seed)
    low, high = split(x, cutoff)
    assert torch.allclose(low + high, x)
    assert torch.allclose((low * high).sum((-2, -1)), torch.zeros(2, dtype=x.dtype), atol=1e-9)
    again, rest = split(low, cutoff)
    assert torch.allclose(again, low)
    assert torch.allclose(rest, torch.zeros_like(x), atol=1e-12)
    norms = torch.stack([low.square().sum((-2, -1)), high.square().sum((-2, -1))], -1)
    two = energies(x, low_high_bands(height, width, cutoff))
    assert torch.allclose(norms[:, : two.shape[-1]], two)


@given(st.integers(4, 24), seeds, st.integers(0, 12), st.integers(0, 12))
@laws
def test_a_higher_cutoff_never_lowers_the_low_part(side, seed, cutoff, more):
    x = white(side, side, seed=seed)
    few, many = (split(x, c)[0].square().sum() for c in (cutoff, cutoff + more))
    assert few <= many + 1e-9


def test_white_noise_has_the_same_energy_in_every_mode():
    """The energy of n modes of K planes is chi-square with n K degrees of freedom: relative error sqrt(2 / n K)."""
    planes = 4000
    for bands in (radial_bands(16, 16), low_high_bands(16, 16, 2)):
        n = modes(bands)
        per_mode = energies(white(planes, 16, 16), bands).mean(0) / n
        # A real plane's modes come in conjugate pairs, so every degree of freedom is counted once.
        assert ((per_mode - 1).abs() < 4.5 * (2 / (n * planes)).sqrt()).all()


def test_a_constant_image_is_all_mean():
    image = pixels([Image.new("RGB", (12, 8), (255, 0, 51))])
    assert image.shape == (1, 3, 8, 12)
    assert torch.allclose(image[0, :, 0, 0], torch.tensor([1.0, -1.0, -0.6]))
    energy = energies(image, radial_bands(8, 12))
    assert torch.allclose(energy[..., 0], image.square().sum((-2, -1)))
    assert torch.allclose(energy[..., 1:], torch.zeros_like(energy[..., 1:]), atol=1e-6)
    low, high = split(image, 0)
    assert torch.allclose(low, image)
    assert torch.allclose(high, torch.zeros_like(high), atol=1e-6)


def test_signal_to_noise_is_what_noising_measures():
    """The mean energy of sqrt(abar) x_0 over that of sqrt(1 - abar) eps."""
    bands, abar = low_high_bands(16, 16, 3), torch.tensor([0.9, 0.5, 0.1])
    x_0 = split(white(16, 16), 3)[0] * 3 + white(16, 16, seed=1) * 0.1
    predicted = snr(abar, energies(x_0, bands), modes(bands))
    assert predicted.shape == (3, 2)
    eps = white(2000, 16, 16, seed=2)
    for row, a in zip(predicted, abar.double(), strict=True):
        noise = energies((1 - a).sqrt() * eps, bands).mean(0)
        assert torch.allclose(energies(a.sqrt() * x_0, bands) / noise, row, rtol=0.03)


def test_the_low_band_passes_one_where_the_closed_form_says():
    energy, n = torch.tensor([90.0, 5.0]), torch.tensor([10.0, 50.0])
    crossing = 1 / (1 + energy / n)  # abar / (1 - abar) = n / E
    assert torch.allclose(snr(crossing, energy, n).diagonal(), torch.ones(2, dtype=torch.float64))
    assert crossing[0] < crossing[1]
    assert snr(torch.tensor([0.0, 1.0]), energy, n).tolist() == [[0.0, 0.0], [math.inf, math.inf]]
    assert snr(torch.tensor([0.5]), energy.expand(4, 3, 2), n).shape == (4, 3, 1, 2)


def test_half_precision_is_accepted():
    x = white(2, 8, 8).bfloat16()
    low, high = split(x, 2)
    assert low.dtype == high.dtype == torch.bfloat16
    assert torch.allclose(energies(x, radial_bands(8, 8)).sum(-1), x.float().square().sum((-2, -1)))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ShapefirstError, match="at least 0"):
        split(white(8, 8), -1)
    with pytest.raises(ShapefirstError, match="do not fit"):
        energies(white(8, 8), radial_bands(4, 4))
    with pytest.raises(ShapefirstError, match="of one size"):
        pixels([Image.new("RGB", (4, 4)), Image.new("RGB", (8, 8))])
    with pytest.raises(ShapefirstError, match="of one size"):
        pixels([])
