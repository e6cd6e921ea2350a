"""The Frechet distance: exact where it has a closed form, and equal to others' implementations."""

from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shapefirst.errors import ShapefirstError
from shapefirst.metrics import Moments, frechet_distance
from shapefirst.metrics.frechet import read_gaussian
from shapefirst.statistics import jackknife


def with_moments(mean, covariance, count=40, seed=0):
    """Features that have exactly these moments."""
    d = len(mean)
    x = np.random.default_rng(seed).normal(size=(count, d))
    x -= x.mean(axis=0)
    x @= np.linalg.inv(np.linalg.cholesky(np.cov(x.T)).T)
    return x @ np.linalg.cholesky(covariance).T + mean


def test_gaussians_of_independent_coordinates_have_a_closed_form():
    rng = np.random.default_rng(1)
    (m_1, m_2), (s_1, s_2) = rng.normal(size=(2, 5)), rng.uniform(0.1, 2, size=(2, 5))
    x, y = with_moments(m_1, np.diag(s_1**2)), with_moments(m_2, np.diag(s_2**2), seed=2)
    expected = ((m_1 - m_2) ** 2 + (s_1 - s_2) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected)
    # The same after a common rotation, where the covariances are not diagonal.
    turn, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(expected)


def test_a_set_is_at_no_distance_from_itself_and_a_shift_costs_its_square():
    x = np.random.default_rng(0).normal(size=(30, 4))
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + np.array([3, 0, 0, 4])) == pytest.approx(25)


def test_covariances_that_do_not_commute_agree_with_scipy_s_root():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6))
    c_1, c_2 = np.cov(x.T), np.cov(y.T)
    assert np.abs(c_1 @ c_2 - c_2 @ c_1).max() > 1
    root = linalg.sqrtm(c_1 @ c_2).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c_1 + c_2 - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(y, x) == pytest.approx(expected)


def test_it_is_the_fid_of_torchmetrics_with_the_same_features():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class FirstPixels(torch.nn.Module):
        num_features = 6

        def forward(self, images):
            return images.flatten(1)[:, :6].double() / 255

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (40, 3, 4, 4), dtype=torch.uint8, generator=generator)
    y = torch.randint(50, 200, (30, 3, 4, 4), dtype=torch.uint8, generator=generator)
    theirs = fid.FrechetInceptionDistance(feature=FirstPixels()).set_dtype(torch.float64)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    ours = frechet_distance(FirstPixels()(x), FirstPixels()(y))
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 20), st.integers(0, 20), st.integers(1, 6))
def test_moments_of_parts_are_those_of_the_whole(seed, first, second, d):
    x = np.random.default_rng(seed).normal(size=(first + second, d))
    merged, whole = Moments.of(x[:first]) + Moments.of(x[first:]), Moments.of(x)
    assert merged.count == whole.count == len(x)
    np.testing.assert_allclose(merged.mean, x.mean(axis=0))
    np.testing.assert_allclose(merged.covariance, np.cov(x.T).reshape(d, d), atol=1e-12)


def test_fewer_images_than_features_still_have_a_distance():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5, 30)).astype(np.float32)
    assert 0 < frechet_distance(x, y) < np.inf
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (np.zeros((4, 3)), np.zeros((4, 2)), "3 and of 2 numbers"),
        (np.zeros((1, 3)), np.zeros((4, 3)), "at least 2 images"),
        (np.zeros(3), np.zeros((4, 3)), r"shape \(n, d\)"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(first, second, words):
    with pytest.raises(ShapefirstError, match=words):
        frechet_distance(first, second)


def test_nineteen_of_twenty_intervals_without_a_group_each_hold_the_distance():
    dice = np.random.default_rng(0)
    found = []
    for _ in range(200):
        pairs = [(dice.normal(size=(30, 3)), 0.3 + 1.3 * dice.normal(size=(30, 3))) for _ in range(10)]
        groups = [(Moments.of(a), Moments.of(b)) for a, b in pairs]
        first, second = (reduce(add, side) for side in zip(*groups, strict=True))
        without = [frechet_distance(first - a, second - b) for a, b in groups]
        found.append(jackknife(frechet_distance(first, second), without, 300))
    expected = np.mean([one.estimate for one in found])  # with the bias that 300 images have
    assert 0.9 < np.mean([one.low < expected < one.high for one in found]) < 0.99


def test_statistics_that_are_not_finite_are_refused(tmp_path):
    np.savez(tmp_path / "broken.npz", mu=np.full(3, np.nan), sigma=np.eye(3))
    with pytest.raises(ShapefirstError, match=r"broken\.npz.*not finite"):
        read_gaussian(tmp_path / "broken.npz")
