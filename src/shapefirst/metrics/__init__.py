"""Distances between images: what a cheaper way of sampling changed."""

from shapefirst.metrics.reference import difference, l1, psnr, ssim

__all__ = ["difference", "l1", "psnr", "ssim"]
