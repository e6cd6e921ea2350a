"""Scores of images: against a reference image, against a prompt, and of one set of images against another.

reference, distances          L1, PSNR, SSIM and similarity of images to reference images
frechet, inception, npz       the distance between two sets of features
alignment                     the protocol of scores against prompts; clip, vqa, vlm and judging are such
judge, shapes                 what can be seen in pictures of the embedded models' world
spectrum                      bands of frequencies
intervals                     means with intervals over prompts, rules and verdicts
rgb                           any picture as 8-bit RGB

It imports ``models`` and ``prompts``. A score more is one file with a class of the protocol ``alignment.Alignment``,
and one entry in ``scores``.
"""

from shapefirst.measure.alignment import Alignment
from shapefirst.measure.frechet import Moments, frechet_distance
from shapefirst.measure.reference import difference, l1, psnr, ssim

__all__ = ["Alignment", "Moments", "difference", "frechet_distance", "l1", "psnr", "ssim"]
