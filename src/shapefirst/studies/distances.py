"""What dropping the text changed: images against the fully guided ones of the same seeds, for F6 and F7."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from shapefirst.metrics.reference import l1, psnr, ssim
from shapefirst.studies.finding import DoesNotApply
from shapefirst.studies.subject import Subject

__all__ = [
    "Distances",
    "Similarity",
    "check_guidance",
    "features_of",
    "frechet_of_few",
    "mean_psnr",
    "measure",
    "similarity_of",
    "steps_at",
]


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


def measure(images: Sequence[Image.Image], references: Sequence[Image.Image], similarity: Similarity) -> Distances:
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


def steps_at(shares: Iterable[float], steps: int) -> list[int]:
    """The numbers of steps that these shares of the run are, rounded as ``TextSchedule`` rounds them, each once."""
    return sorted({math.floor(share * steps + 0.5) for share in shares})


def check_guidance(subject: Subject) -> None:
    """Refuse a guidance scale at which there is nothing to drop.

    Raises:
        DoesNotApply: At w <= 1 a run evaluates the text branch alone.
    """
    if subject.guidance_scale <= 1:
        raise DoesNotApply(
            f"At guidance scale {subject.guidance_scale:g} no step has a null branch, so no evaluation can be saved "
            "by dropping the text: use a scale above 1."
        )


def similarity_of(subject: Subject) -> Similarity:
    """The image-CLIP similarity that suits the subject."""
    from shapefirst.studies.scores import similarity_for

    return similarity_for(subject.name, subject.clip, subject.scoring_device)


def features_of(subject: Subject) -> tuple[str, Any]:
    """What the features are called, and (images -> (n, d)) that makes them."""
    from shapefirst.studies.scores import features_for

    return features_for(subject.name, subject.clip, subject.scoring_device)


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
