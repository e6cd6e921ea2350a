"""Scores of images: against a reference image, against a prompt, and of one set of images against another.

reference    L1, PSNR, SSIM of an image to a reference image
frechet      distance between two sets of features
alignment    the protocol of scores against prompts; clip, vqa and vlm hold those that need a transformers model
"""

from shapefirst.metrics.alignment import Alignment
from shapefirst.metrics.frechet import Moments, frechet_distance
from shapefirst.metrics.reference import difference, l1, psnr, ssim

__all__ = ["Alignment", "Moments", "difference", "frechet_distance", "l1", "psnr", "ssim"]
