"""Cheaper ways of sampling beside the fully guided one: what each saves, and how far its images move.

Images of the same prompt and seed are compared, so that a distance is the schedule's doing and not chance's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from shapefirst.images.jobs import Result
from shapefirst.measure import l1, psnr

__all__ = ["Comparison", "decibels", "percent"]


@dataclass(frozen=True)
class Comparison:
    """The images of one schedule and the fully guided images of the same prompts and seeds, in the same order."""

    title: str
    results: Sequence[Result]
    reference: Sequence[Result]
    reference_title: str = "Full guidance"

    @property
    def is_reference(self) -> bool:
        """Whether this is the fully guided row itself."""
        return self.results is self.reference

    @cached_property
    def l1(self) -> list[float]:
        """L1 in [0, 1] of each image."""
        return [l1(mine.image, full.image) for mine, full in zip(self.results, self.reference, strict=True)]

    @cached_property
    def psnr(self) -> list[float]:
        """PSNR in dB of each image."""
        return [psnr(mine.image, full.image) for mine, full in zip(self.results, self.reference, strict=True)]

    @property
    def evaluations(self) -> float:
        """Denoiser evaluations per image."""
        return fmean(result.evaluations for result in self.results)

    @property
    def seconds(self) -> float:
        """Seconds per image."""
        return fmean(result.seconds for result in self.results)

    @property
    def evaluations_saved(self) -> float:
        """Share of the fully guided evaluations that this schedule does without."""
        return 1 - self.evaluations / fmean(result.evaluations for result in self.reference)

    @property
    def seconds_saved(self) -> float:
        """Share of the fully guided seconds that this schedule does without; negative where it was slower."""
        return 1 - self.seconds / fmean(result.seconds for result in self.reference)

    @property
    def mean_l1(self) -> float:
        """L1 in [0, 1], averaged over the images."""
        return fmean(self.l1)

    @property
    def mean_psnr(self) -> float:
        """PSNR in dB, averaged over the images that differ from their reference; infinite where none does."""
        finite = [value for value in self.psnr if math.isfinite(value)]
        return fmean(finite) if finite else math.inf


def decibels(value: float) -> str:
    """``27.9 dB``; identical images have no finite one."""
    return "identical" if math.isinf(value) else f"{value:.1f} dB"


def percent(share: float) -> str:
    """``25%``."""
    return f"{100 * share:.0f}%"
