"""Distances to a reference image: exact on images whose distance is known."""

import math

import numpy as np
import pytest
from PIL import Image

from shapefirst.errors import ShapefirstError
from shapefirst.metrics import difference, l1, psnr


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


@pytest.mark.parametrize("distance", [l1, psnr, difference])
def test_images_of_different_size_are_refused(distance):
    with pytest.raises(ShapefirstError, match="differ in size"):
        distance(grey(0, (4, 4)), grey(0, (8, 8)))
