"""Frechet distance between the Gaussians that have the moments of two sets of features.

    d^2 = |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))

With Inception-v3 features this is the FID of Heusel et al. 2017 (arXiv 1706.08500); with other features it is a number
of its own, to be named after them. It is biased upwards for small n, the more so the larger d is: compare only sets of
equal size. The trace of the root needs no root of a non-symmetric matrix: C_1 C_2 has the eigenvalues of the symmetric
C_1^(1/2) C_2 C_1^(1/2).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from shapefirst.errors import ShapefirstError
from shapefirst.measure.npz import read_npz
from shapefirst.measure.rgb import numbers_of
from shapefirst.signatures import Place, guarded

__all__ = ["Gaussian", "Moments", "frechet_distance", "read_gaussian"]

LARGEST: Final = 1e100  # of which squares and sums are finite
CLEARLY: Final = 1e-4  # of the largest value: rounding, also of float32, is less


class _Normal:
    """What both kinds of statistics have."""

    covariance: Any

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric root of the covariance, (d, d)."""
        values, vectors = np.linalg.eigh(self.covariance)
        return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


@dataclass(frozen=True)
class Gaussian(_Normal):
    """What the distance is taken of, where no features are at hand.

    Attributes:
        mean: (d,) float64.
        covariance: (d, d) float64.
    """

    mean: np.ndarray
    covariance: np.ndarray


@dataclass(frozen=True)
class Moments(_Normal):
    """Sums over n features of d numbers each, all that the distance needs; those of two sets add up.

    Attributes:
        count: n.
        total: (d,) float64, the sum of x.
        products: (d, d) float64, the sum of x x^T.
    """

    count: int
    total: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, features: Any) -> Moments:
        """Of (n, d) features, an array or a tensor on the CPU.

        Raises:
            ShapefirstError: They are not (n, d), or not finite.
        """
        x = numbers_of(features, "Features", np.float64)
        if x.ndim != 2:
            raise ShapefirstError(f"Features have the shape (n, d), not {x.shape}: one row for each image.")
        if not np.isfinite(x).all():
            raise ShapefirstError("Some of the features are not finite: look for images that failed.")
        return cls(len(x), x.sum(axis=0), x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        """Of both sets together, as if they had been one from the start."""
        _check_width(self.total, other.total)
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    def __sub__(self, part: Moments) -> Moments:
        """Of the set without a part of it."""
        _check_width(self.total, part.total)
        return Moments(self.count - part.count, self.total - part.total, self.products - part.products)

    @property
    def mean(self) -> np.ndarray:
        """(d,)."""
        return self.total / self.count

    @property
    def covariance(self) -> np.ndarray:
        """(d, d), with n - 1 in the denominator as in the FID.

        Raises:
            ShapefirstError: There are fewer than two features.
        """
        if self.count < 2:
            raise ShapefirstError(f"A covariance needs at least 2 images, and there is only {self.count}.")
        return (self.products - np.outer(self.total, self.total) / self.count) / (self.count - 1)


def frechet_distance(first: Any, second: Any) -> float:
    """d^2 of the module's equation, at least 0; symmetric.

    Args:
        first: ``Moments``, a ``Gaussian``, or (n, d) features. It remembers its root: of many distances to one set,
            make that the first.
        second: The same of another set, with the same d.

    Raises:
        ShapefirstError: The two differ in d, or one has fewer than two features.
    """
    a, b = (m if isinstance(m, Moments | Gaussian) else Moments.of(m) for m in (first, second))
    _check_width(a.mean, b.mean)
    c_1, c_2, root = a.covariance, b.covariance, a.root
    # Rounding leaves eigenvalues that should be 0 slightly below it.
    eigenvalues = np.linalg.eigvalsh(root @ c_2 @ root).clip(min=0)
    squared = np.square(a.mean - b.mean).sum() + np.trace(c_1) + np.trace(c_2) - 2 * np.sqrt(eigenvalues).sum()
    return max(0.0, float(squared))


@guarded
def read_gaussian(path: Path | Place) -> Gaussian:
    """The statistics of a reference set from an .npz with ``mu`` and ``sigma``, as FID programs keep them.

    Raises:
        ShapefirstError: The file cannot be read, is damaged, or does not hold a mean and a covariance.
    """
    try:
        mean, covariance = read_npz(path, ("mu", "sigma"))
    except ShapefirstError as error:
        raise ShapefirstError(
            f"{str(error).removesuffix('.')}: give an .npz with mu (d numbers) and sigma (d x d)."
        ) from error
    if any(part.dtype.kind not in "fiu" for part in (mean, covariance)):
        wrong = f"mu and sigma are {mean.dtype} and {covariance.dtype}, not real numbers"
    else:
        mean, covariance = mean.astype(np.float64), covariance.astype(np.float64)
        wrong = _wrong_with(mean, covariance)
    if wrong:
        raise ShapefirstError(f"The statistics in {str(path)!r} are no mean and covariance ({wrong}): make them again.")
    return Gaussian(mean, covariance)


def _wrong_with(mean: np.ndarray, covariance: np.ndarray) -> str:
    """Why no features have these moments, to more than rounding; "" where some have."""
    if mean.ndim != 1 or not mean.size or covariance.shape != mean.shape * 2:
        return f"mu and sigma have the shapes {mean.shape} and {covariance.shape}, not (d,) and (d, d)"
    if not all((np.abs(x) < LARGEST).all() for x in (mean, covariance)):
        return "some of mu and sigma are not finite, or far too large"
    if np.abs(covariance - covariance.T).max() > CLEARLY * np.abs(covariance).max():
        return "sigma is not symmetric"
    eigenvalues = np.linalg.eigvalsh(covariance)
    lowest, highest = eigenvalues[[0, -1]]
    return f"sigma has a negative eigenvalue, {lowest:.3g}" if lowest < -CLEARLY * abs(highest) else ""


def _check_width(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ShapefirstError(
            f"Features of {len(a)} and of {len(b)} numbers cannot be compared: use one extractor for both."
        )
