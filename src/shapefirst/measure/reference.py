"""Distance of an image x to a reference image y of the same size, all values in [0, 1].

    L1(x, y)   = mean |x - y|                     0 = identical, 1 = black against white
    PSNR(x, y) = -10 log10( mean (x - y)^2 )      in dB, infinite for identical images
    SSIM(x, y) = mean of  (2 mu_x mu_y + C1) (2 sigma_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (sigma_x^2 + sigma_y^2 + C2))

SSIM compares local means, variances and covariance under a Gaussian window (Wang et al. 2004, IEEE Trans. Image
Processing 13(4), 600-612), with C1 = 0.01^2 and C2 = 0.03^2; 1 = identical. Means run over pixels
and channels. In the paper (arXiv 2405.15330) L1 is the distance to the fully guided image of the same seed.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from shapefirst.errors import ShapefirstError, imported
from shapefirst.measure.rgb import AnyPicture, unit

__all__ = ["difference", "l1", "psnr", "ssim"]

WINDOW, SIGMA = 11, 1.5  # pixels, Wang et al.'s


def l1(image: AnyPicture, reference: AnyPicture) -> float:
    """Mean absolute difference in [0, 1].

    Args:
        image: A PIL image, or an array (height, width, 3), or (height, width) of grey, of uint8 or of floats in [0, 1].
        reference: The same size as ``image``.

    Raises:
        ShapefirstError: The two differ in size, or one is no image as `shapefirst.measure.rgb` takes it.
    """
    x, y = _same_size(image, reference)
    return float(np.abs(x - y).mean())


def psnr(image: AnyPicture, reference: AnyPicture) -> float:
    """Peak signal-to-noise ratio in dB, ``inf`` for identical images. Arguments and errors as in :func:`l1`."""
    x, y = _same_size(image, reference)
    mean_squared_error = float(np.square(x - y).mean())
    return math.inf if mean_squared_error == 0 else -10 * math.log10(mean_squared_error)


def ssim(image: AnyPicture, reference: AnyPicture) -> float:
    """Structural similarity in [-1, 1], over every place where the whole window of 11 pixels lies in the image.

    Arguments as in :func:`l1`; of colour images it is the mean over the channels.

    Raises:
        ShapefirstError: As :func:`l1`, the two are smaller than the window, or skimage is not installed.
    """
    x, y = _same_size(image, reference)
    if min(x.shape[:2]) < WINDOW:
        raise ShapefirstError(f"SSIM needs images of at least {WINDOW} pixels a side, not {x.shape[:2]}.")
    metrics = imported("skimage.metrics", "SSIM is computed")
    wang = {"gaussian_weights": True, "sigma": SIGMA, "use_sample_covariance": False}
    return float(metrics.structural_similarity(x, y, data_range=1, channel_axis=-1, **wang))


def difference(image: AnyPicture, reference: AnyPicture) -> Image.Image:
    """|x - y| as an 8-bit RGB image, not amplified: black where the two agree. Errors as in :func:`l1`."""
    x, y = _same_size(image, reference)
    return Image.fromarray(np.rint(np.abs(x - y) * 255).astype(np.uint8))


def _same_size(image: AnyPicture, reference: AnyPicture) -> tuple[np.ndarray, np.ndarray]:
    x, y = unit(image), unit(reference)
    if x.shape != y.shape:
        raise ShapefirstError(f"The images to compare differ in size: {x.shape} and {y.shape}.")
    return x, y
