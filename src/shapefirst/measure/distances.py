"""Images against reference images of the same seeds, and sets of them against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from shapefirst.measure.reference import l1, psnr, ssim

__all__ = ["Distances", "Similarity", "distances_of", "frechet_of_few", "mean_psnr"]


class Similarity(Protocol):
    """Image-CLIP similarity.

    Attributes:
        title: What it is, for tables.
    """

    title: str

    def score(self, images: Sequence[Image.Image], references: Sequence[Image.Image]) -> np.ndarray:
        """(B,): how alike each image and the one beside it are."""
        ...


@dataclass(frozen=True)
class Distances:
    """Of B images to their references.

    Attributes:
        l1: (B,), mean absolute difference, in [0, 1].
        psnr: (B,), in dB, infinite for identical images.
        ssim: (B,), in [-1, 1].
        similarity: (B,), image-CLIP similarity.
    """

    l1: np.ndarray
    psnr: np.ndarray
    ssim: np.ndarray
    similarity: np.ndarray

    def row(self, i: int) -> dict[str, float | None]:
        """The distances of image i for a tidy table, which has no infinity: None is an identical image's PSNR."""
        decibels = float(self.psnr[i])
        return {
            "l1": float(self.l1[i]),
            "psnr": decibels if math.isfinite(decibels) else None,
            "ssim": float(self.ssim[i]),
            "similarity": float(self.similarity[i]),
        }


def distances_of(images: Sequence[Image.Image], references: Sequence[Image.Image], similarity: Similarity) -> Distances:
    """The distances of the images to the references beside them.

    Raises:
        ShapefirstError: Images and references differ in size.
    """
    pairs = list(zip(images, references, strict=True))
    return Distances(
        l1=np.array([l1(a, b) for a, b in pairs]),
        psnr=np.array([psnr(a, b) for a, b in pairs]),
        ssim=np.array([ssim(a, b) for a, b in pairs]),
        similarity=np.asarray(similarity.score(images, references), dtype=np.float64),
    )


def mean_psnr(decibels: np.ndarray) -> float:
    """The PSNR of the mean squared error over the images: unlike the mean PSNR it is finite if one image differs."""
    error = float(np.mean(10 ** (-np.asarray(decibels) / 10)))
    return -10 * math.log10(error) if error else math.inf


def frechet_of_few(first: np.ndarray, second: np.ndarray) -> float:
    """`metrics.frechet.frechet_distance` of two sets of n features (n, d), in n^2 d operations: for resampling.

    With centred features A_i / sqrt(n - 1) the covariances are A_i^T A_i, and the root of their product has the
    trace sum of the singular values of A_1 A_2^T, which is n x n however large d is.
    """
    means = [x.mean(axis=0) for x in (first, second)]
    centred = [(x - mean) / math.sqrt(len(x) - 1) for x, mean in zip((first, second), means, strict=True)]
    if len(first) > first.shape[1]:  # the same products, from d rows
        centred = [np.linalg.qr(a, mode="r") for a in centred]
    a, b = centred
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return float(np.square(means[0] - means[1]).sum() + np.square(a).sum() + np.square(b).sum() - 2 * root)
