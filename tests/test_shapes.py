"""Masks from maps, how masks agree, and silhouettes of renders whose mask is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageFilter

from shapefirst.errors import ShapefirstError
from shapefirst.measure.shapes import binarise, f1, iou, otsu, resize, silhouette_of

laws = settings(deadline=None, max_examples=100)
numbers = arrays(np.int64, array_shapes(max_dims=1, max_side=12), elements=st.integers(-9, 9))
masks = arrays(bool, (4, 5))


@given(numbers)
@laws
def test_otsu_is_the_best_of_all_thresholds(values):
    def within(threshold):
        classes = (values[values > threshold], values[values <= threshold])
        return sum(c.size * c.var() for c in classes if c.size)

    distinct = np.unique(values)
    if distinct.size == 1:
        assert otsu(values) == values[0]
    else:
        thresholds = (distinct[1:] + distinct[:-1]) / 2
        assert otsu(values) in thresholds
        assert within(otsu(values)) == pytest.approx(min(map(within, thresholds)), abs=1e-9)


@given(numbers, st.integers(1, 100), st.integers(-100, 100))
@laws
def test_a_mask_does_not_depend_on_the_scale_of_its_map(values, scale, shift):
    values = values[None].astype(float)
    mask, again = binarise(values), binarise(values * scale + shift)
    halves = [
        float(np.var(values[m]) * m.sum() + np.var(values[~m]) * (~m).sum()) for m in (mask, again) if 0 < m.mean() < 1
    ]
    assert len(set(np.round(halves, 6))) <= 1  # equally good, where rounding breaks a tie another way
    assert mask.any() == again.any()


def test_every_map_has_its_own_threshold():
    left, faint = np.zeros((2, 4, 6))
    left[:, :3] = 1
    faint[1, 1] = 1e-6
    found = binarise(np.stack([[left, faint], [faint, left]]))
    assert found.shape == (2, 2, 4, 6)
    assert np.array_equal(found[0, 0], left > 0)
    assert np.array_equal(found[0, 1], faint > 0)
    assert not binarise(left, 1.0).any()


def test_a_constant_map_has_no_shape():
    assert not binarise(np.full((3, 3), 0.3)).any()


@given(masks, masks)
@laws
def test_f1_and_iou_are_symmetric_and_bound_to_each_other(a, b):
    score, overlap = float(f1(a, b)), float(iou(a, b))
    assert (score, overlap) == (float(f1(b, a)), float(iou(b, a)))
    assert 0 <= overlap <= score <= 1
    assert score == pytest.approx(2 * overlap / (1 + overlap))
    assert (score == 1) == np.array_equal(a, b)


def test_f1_is_the_mean_of_precision_and_recall():
    a, b = np.zeros((2, 4, 4), bool)
    a[:2], b[1:] = True, True  # 8 and 12 pixels, 4 in common
    precision, recall = 4 / 8, 4 / 12
    assert f1(a, b) == pytest.approx(2 / (1 / precision + 1 / recall))
    assert iou(a, b) == pytest.approx(4 / 16)
    assert f1(np.stack([a, b]), b).tolist() == pytest.approx([0.4, 1])


def test_masks_of_different_size_are_refused():
    with pytest.raises(ShapefirstError, match="differ in size"):
        f1(np.zeros((4, 4), bool), np.zeros((8, 8), bool))


def test_maps_are_resized_without_new_extremes():
    maps = np.random.default_rng(0).random((2, 3, 4, 6))
    larger = resize(maps, (20, 30))
    assert larger.shape == (2, 3, 20, 30)
    assert larger.dtype == np.float32
    assert maps.min() - 1e-6 <= larger.min() <= larger.max() <= maps.max() + 1e-6
    assert np.allclose(resize(maps, (4, 6)), maps)
    assert np.allclose(resize(larger, (1, 1))[..., 0, 0], larger.mean((-2, -1)), atol=0.05)


@pytest.fixture(scope="module")
def scenes():
    """200 of the world's scenes, a quarter of them with two objects: image and true mask."""
    from shapefirst.world.scenes import render, sample_scene

    rng = np.random.default_rng(0)
    drawn = [render(sample_scene(rng, pair=i % 4 == 0)) for i in range(200)]
    return [(image, masks.max(0) > 127) for image, masks in drawn]


def test_silhouettes_of_renders_are_their_masks(scenes):
    scores = [float(f1(silhouette_of(image), mask)) for image, mask in scenes]
    assert np.mean(scores) > 0.93
    assert np.quantile(scores, 0.1) > 0.85


def test_silhouettes_stand_a_blurred_and_noisy_picture(scenes):
    """As a picture comes out of an autoencoder."""
    rng = np.random.default_rng(1)
    scores = []
    for image, mask in scenes:
        blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.6))) / 255
        noisy = np.clip(blurred + rng.normal(0, 0.03, blurred.shape), 0, 1)
        scores.append(float(f1(silhouette_of(noisy), mask)))
    assert np.mean(scores) > 0.9
    assert np.quantile(scores, 0.1) > 0.8


def test_a_silhouette_is_the_same_for_pictures_and_arrays(scenes):
    image = scenes[0][0]
    found = silhouette_of(Image.fromarray(image))
    assert np.array_equal(found, silhouette_of(image))
    assert np.array_equal(found, silhouette_of(image / 255))
    assert not silhouette_of(np.tile(np.linspace(0, 1, 64)[:, None, None], (1, 64, 3)).round()).any()
