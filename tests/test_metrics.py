"""Distances to a reference image: exact on images whose distance is known."""

import math

import numpy as np
import pytest
from PIL import Image

from shapefirst.errors import ShapefirstError
from shapefirst.measure import difference, l1, psnr, ssim


def grey(value, size=(4, 6)):
    return Image.new("RGB", size, (value, value, value))


def test_black_is_as_far_from_white_as_can_be():
    assert l1(grey(0), grey(255)) == 1.0
    assert psnr(grey(0), grey(255)) == 0.0


def test_an_image_is_at_no_distance_from_itself():
    assert l1(grey(77), grey(77)) == 0.0
    assert psnr(grey(77), grey(77)) == math.inf
    assert not np.asarray(difference(grey(77), grey(77))).any()


def test_a_uniform_shift_has_its_own_size_as_distance():
    shift = 51 / 255
    assert l1(grey(100), grey(151)) == pytest.approx(shift)
    assert psnr(grey(100), grey(151)) == pytest.approx(-20 * math.log10(shift))


def test_the_difference_is_the_same_in_both_directions_and_not_amplified():
    forth, back = difference(grey(100), grey(151)), difference(grey(151), grey(100))
    assert np.asarray(forth).tolist() == np.asarray(back).tolist()
    assert set(np.asarray(forth).ravel().tolist()) == {51}


def test_arrays_and_pictures_are_the_same_thing():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    picture = l1(Image.fromarray(x), Image.fromarray(y))
    assert l1(x, y) == picture
    assert l1(x / 255, y / 255) == pytest.approx(picture)


@pytest.mark.parametrize("distance", [l1, psnr, ssim, difference])
def test_images_of_different_size_are_refused(distance):
    with pytest.raises(ShapefirstError, match="differ in size"):
        distance(grey(0, (4, 4)), grey(0, (8, 8)))


def naive_ssim(x, y):
    """Wang et al.'s equations, pixel by pixel: weights of an 11 x 11 Gaussian of 1.5 pixels, weighted deviations."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            for channel in range(x.shape[2]):
                a, b = (image[row : row + 11, column : column + 11, channel] for image in (x, y))
                mu_a, mu_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mu_a) ** 2).sum(), (weights * (b - mu_b) ** 2).sum()
                covariance = (weights * (a - mu_a) * (b - mu_b)).sum()
                luminance = (2 * mu_a * mu_b + 0.0001) / (mu_a**2 + mu_b**2 + 0.0001)
                values.append(luminance * (2 * covariance + 0.0009) / (var_a + var_b + 0.0009))
    return np.mean(values)


def test_ssim_is_its_equation():
    rng = np.random.default_rng(0)
    x = rng.random((14, 17, 3))
    for y in (rng.random(x.shape), x**2, 1 - x, np.clip(x + rng.normal(0, 0.1, x.shape), 0, 1)):
        assert ssim(x, y) == pytest.approx(naive_ssim(x, y))
        assert ssim(x, y) == pytest.approx(ssim(y, x))


def test_ssim_sees_structure_rather_than_brightness():
    x = np.random.default_rng(0).random((32, 32, 3)) * 0.8
    assert ssim(x, x) == pytest.approx(1)
    assert ssim(x, 0.8 - x) < 0 < ssim(x, x.mean() + 0 * x) < ssim(x, x + 0.1) < 1
    assert ssim(grey(0, (16, 16)), grey(255, (16, 16))) == pytest.approx(0.0001, rel=1e-3)  # C1 alone


def test_ssim_needs_room_for_its_window():
    with pytest.raises(ShapefirstError, match="at least 11 pixels"):
        ssim(grey(0, (10, 30)), grey(0, (10, 30)))
