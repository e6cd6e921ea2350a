"""Distances between images: what a cheaper way of sampling changed."""

from shapefirst.metrics.reference import difference, l1, psnr

__all__ = ["difference", "l1", "psnr"]
