"""The Frechet distance: exact where it has a closed form, and equal to others' implementations."""

import contextlib
import io
import pickle
import random
import zipfile
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from shapefirst.errors import ShapefirstError
from shapefirst.measure import Moments, frechet_distance
from shapefirst.measure.frechet import read_gaussian
from shapefirst.measure.intervals import jackknife


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
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(50, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6))
    c_1, c_2 = np.cov(x.T), np.cov(y.T)
    assert np.abs(c_1 @ c_2 - c_2 @ c_1).max() > 1
    root = sqrtm(c_1 @ c_2).real
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(c_1 + c_2 - 2 * root)
    assert frechet_distance(x, y) == pytest.approx(expected)
    assert frechet_distance(y, x) == pytest.approx(expected)


def test_it_is_the_fid_of_torchmetrics_with_the_same_features():
    class FirstPixels(torch.nn.Module):
        num_features = 6

        def forward(self, images):
            return images.flatten(1)[:, :6].double() / 255

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (40, 3, 4, 4), dtype=torch.uint8, generator=generator)
    y = torch.randint(50, 200, (30, 3, 4, 4), dtype=torch.uint8, generator=generator)
    theirs = FrechetInceptionDistance(feature=FirstPixels()).set_dtype(torch.float64)
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


DICE = np.random.default_rng(5)
MU = DICE.normal(size=6)
SIGMA = np.cov(DICE.normal(size=(6, 40)))


def test_statistics_of_any_real_numbers_are_read(tmp_path):
    for kind, exact in ((np.float64, 0), (np.float32, 1e-6), (np.float16, 2e-3)):
        np.savez_compressed(tmp_path / "a.npz", mu=MU.astype(kind), sigma=SIGMA.astype(kind), arr_0=np.zeros(9))
        found = read_gaussian(tmp_path / "a.npz")
        np.testing.assert_allclose(found.mean, MU, atol=exact)
        np.testing.assert_allclose(found.covariance, SIGMA, atol=exact)
    np.savez(tmp_path / "a.npz", mu=np.arange(2), sigma=np.array([[3, 1], [1, 2]], np.uint8))
    assert read_gaussian(tmp_path / "a.npz").covariance.tolist() == [[3, 1], [1, 2]]


def test_a_covariance_of_fewer_images_than_numbers_is_one_whatever_rounding_left_of_it(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 200)).astype(np.float32)
    np.savez(tmp_path / "few.npz", mu=x.mean(axis=0), sigma=np.cov(x.T).astype(np.float32))
    assert frechet_distance(read_gaussian(tmp_path / "few.npz"), x) == pytest.approx(0, abs=1e-3)


def _changed(place, value):
    sigma = SIGMA.copy()
    sigma[place] = value
    return sigma


@pytest.mark.parametrize(
    ("mu", "sigma", "why"),
    [
        (np.full(6, np.nan), SIGMA, "not finite"),
        (MU, _changed((0, 0), np.inf), "not finite"),
        (np.full(6, 1e200), SIGMA, "far too large"),
        (MU, _changed((0, 1), 9.0), "not symmetric"),
        (MU, _changed((2, 2), -0.5), "negative eigenvalue"),
        (MU, -SIGMA, "negative eigenvalue"),
        (MU, np.ones((6, 6)) - np.eye(6), "negative eigenvalue, -1"),
        (MU[:5], SIGMA, r"shapes \(5,\) and \(6, 6\)"),
        (MU, SIGMA[:5], r"shapes \(6,\) and \(5, 6\)"),
        (MU[None], SIGMA, "shapes"),
        (MU, SIGMA.ravel(), "shapes"),
        (np.zeros(0), np.zeros((0, 0)), "shapes"),
        (np.float64(1), np.float64(1), "shapes"),
        (MU.astype(complex), SIGMA, "complex128 and float64"),
        (MU.astype(str), SIGMA, "<U"),
        (MU, SIGMA > 0, "bool"),
        (MU.astype("datetime64[s]"), SIGMA, "datetime64"),
        (MU.astype([("x", float)]), SIGMA, "not real numbers"),
        (MU.astype(object), SIGMA, "Object arrays cannot be loaded"),
    ],
)
def test_statistics_that_no_features_have_are_refused(tmp_path, mu, sigma, why):
    np.savez(tmp_path / "broken.npz", mu=mu, sigma=sigma)
    with pytest.raises(ShapefirstError, match=rf"broken\.npz.*{why}"):
        read_gaussian(tmp_path / "broken.npz")


def saved(save, *arrays, **named):
    stream = io.BytesIO()
    save(stream, *arrays, **named)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda path: path.write_bytes(saved(np.save, SIGMA)), "not a zip"),
        (lambda path: path.write_bytes(saved(np.savez, mean=MU, cov=SIGMA)), "no mu and no sigma"),
        (lambda path: path.write_bytes(saved(np.savez, mu=MU)), "no sigma"),
        (lambda path: path.write_bytes(pickle.dumps({"mu": MU, "sigma": SIGMA})), "not a zip"),
        (lambda path: path.write_text("mu, sigma"), "not a zip"),
        (lambda path: path.touch(), "not a zip"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: None, "No such file"),
    ],
)
def test_another_file_than_an_npz_of_statistics_is_refused(tmp_path, content, why):
    path = tmp_path / "file.npz"
    content(path)
    with pytest.raises(ShapefirstError, match=rf"file\.npz.*{why}.*give an \.npz with mu") as refused:
        read_gaussian(path)
    assert "\n" not in str(refused.value)


def _with_header(array, **changes):
    """The bytes of an .npy whose header says something else than is there."""
    stream = io.BytesIO()
    header = {**np.lib.format.header_data_from_array_1_0(array), **changes}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + array.tobytes()


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": (10**12, 10**12)},
        {"shape": (2**40,)},
        {"shape": (10**30,)},
        {"shape": (-6,)},
        {"shape": (7,)},
        {"shape": (5,)},
        {"descr": "<f4"},
        {"descr": "|O"},
        {"descr": "<c16"},
        {"descr": "nonsense"},
        {"shape": "6"},
    ],
)
def test_a_header_that_lies_is_no_statistics(tmp_path, lie):
    with zipfile.ZipFile(tmp_path / "lying.npz", "w") as archive:
        archive.writestr("mu.npy", _with_header(MU, **lie))
        archive.writestr("sigma.npy", saved(np.save, SIGMA))
    with pytest.raises(ShapefirstError, match=r"lying\.npz"):
        read_gaussian(tmp_path / "lying.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damage_is_seen_or_does_no_harm(tmp_path, save):
    """Bytes that flip, are lost, or stand in for others, at any place of the file: 400 times."""
    path = tmp_path / "statistics.npz"
    save(path, mu=MU, sigma=SIGMA)
    whole, dice, refused = path.read_bytes(), random.Random(0), 0
    for turn in range(400):
        content = bytearray(whole)
        if turn % 4 == 0:
            content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        elif turn % 4 == 1:
            for _ in range(dice.randint(2, 30)):
                content[dice.randrange(len(content))] = dice.randrange(256)
        elif turn % 4 == 2:
            del content[dice.randrange(len(content)) :]
        else:
            start = dice.randrange(len(content))
            content[start : start + dice.randint(1, 60)] = dice.randbytes(dice.randint(0, 60))
        path.write_bytes(content)
        try:
            found = read_gaussian(path)
        except ShapefirstError as error:
            refused += 1
            sentence = str(error)
        else:
            sentence = ""
            assert np.array_equal(found.mean, MU)
            assert np.array_equal(found.covariance, SIGMA)
        assert "\n" not in sentence
    assert 200 < refused < 400


def test_any_bit_of_the_file_may_flip(tmp_path):
    """Also the one that turns float64 into float32, after which half of the numbers would be other numbers. Every third
    bit is tried, so that each byte is met."""
    path = tmp_path / "statistics.npz"
    np.savez(path, mu=MU[:2], sigma=SIGMA[:2, :2])
    whole, harmless = path.read_bytes(), 0
    for i in range(0, 8 * len(whole), 3):
        content = bytearray(whole)
        content[i // 8] ^= 1 << i % 8
        path.write_bytes(content)
        with contextlib.suppress(ShapefirstError):
            found = read_gaussian(path)
            assert np.array_equal(found.mean, MU[:2])
            assert np.array_equal(found.covariance, SIGMA[:2, :2])
            harmless += 1
    assert 0 < harmless < 4 * len(whole) / 3  # times of writing, and the like


def test_statistics_of_other_features_are_not_compared(tmp_path):
    np.savez(tmp_path / "a.npz", mu=MU, sigma=SIGMA)
    with pytest.raises(ShapefirstError, match="Features of 6 and of 4 numbers"):
        frechet_distance(read_gaussian(tmp_path / "a.npz"), np.zeros((9, 4)))
