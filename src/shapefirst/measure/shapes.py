"""From attention maps and images to masks, and how well two masks agree.

    F1(A, B)  = 2 |A and B| / (|A| + |B|)          1 = the same pixels, 0 = none in common
    IoU(A, B) = |A and B| / |A or B|

A map becomes a mask by Otsu's threshold, the one that leaves the least variance within the two classes (Otsu 1979,
IEEE Trans. SMC 9(1), 62-66): no scale to be set, as attention maps have none.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shapefirst.errors import ShapefirstError, imported
from shapefirst.measure.rgb import AnyPicture, numbers_of, unit
from shapefirst.signatures import From, guarded

__all__ = ["binarise", "f1", "iou", "otsu", "resize", "silhouette_of"]

Mask = NDArray[np.bool_]
Map = NDArray[np.floating]
Side: TypeAlias = Annotated[int, From(1, 16_384)]  # pixels


@guarded
def otsu(values: np.ndarray) -> float:
    """The threshold that maximises w_0 w_1 (m_0 - m_1)^2, of all there are: classes of share w and mean m.

    It lies half-way between two neighbouring values. For values that are all the same it is that value. Needs skimage.
    """
    levels, counts = np.unique(numbers_of(values, "Values", np.float64), return_counts=True)
    if len(levels) == 1:
        return float(levels[0])
    # Every value is a bin of its own: those of equal width, which it makes by itself, would blur a peaked map.
    below = imported("skimage.filters", "Masks are found").threshold_otsu(hist=(counts, levels))
    return float((below + levels[np.searchsorted(levels, below) + 1]) / 2)


@guarded
def binarise(maps: Map, threshold: float | None = None) -> Mask:
    """Where a map exceeds a threshold, by default each map's own by Otsu. A constant map has no shape: all false.

    Args:
        maps: (..., H, W).
        threshold: One for all maps.

    Returns:
        (..., H, W).
    """
    maps = np.asarray(maps)
    if threshold is not None:
        return maps > threshold
    flat = maps.reshape(-1, *maps.shape[-2:])
    return np.stack([one > otsu(one) for one in flat]).reshape(maps.shape)


@guarded
def f1(mask: Mask, reference: Mask) -> NDArray[np.float64]:
    """The F1-score of each of (...) masks, 1 for two empty ones.

    Args:
        mask: (..., H, W), of booleans.
        reference: The same, or (H, W) for all.

    Raises:
        ShapefirstError: The two differ in size.
    """
    both, total = _counts(mask, reference)
    return np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1))


@guarded
def iou(mask: Mask, reference: Mask) -> NDArray[np.float64]:
    """The intersection over the union of each of (...) masks, 1 for two empty ones. Arguments as of :func:`f1`."""
    both, total = _counts(mask, reference)
    return np.where(total == 0, 1.0, both / np.maximum(total - both, 1))


@guarded
def resize(maps: Map, size: tuple[Side, Side]) -> NDArray[np.float32]:
    """Maps (..., h, w) at ``size`` = (height, width), bilinear: no new extremes, averaged where they get smaller."""
    maps = numbers_of(maps, "A map", np.float32)
    height, width = size
    flat = maps.reshape(-1, *maps.shape[-2:])
    resized = [np.asarray(Image.fromarray(m).resize((width, height), Image.Resampling.BILINEAR)) for m in flat]
    return np.stack(resized).reshape(*maps.shape[:-2], height, width)


def silhouette_of(image: AnyPicture) -> Mask:
    """(H, W): where objects stand in a picture of pocket's world, found from the picture alone.

    The caption has no say, so that a picture of something else than it asks for is measured for what it shows, and
    objects of any paint are treated alike. What is known is the world: its backgrounds (wall and floor) change from row
    to row only and reach the left and right border, which objects do not. So a row's background is the median of its
    border pixels, two a side, and of the two rows above and below, which outvotes an object that comes close; a median
    keeps the floor's edge. A pixel belongs to an object if its colour, in RGB in [0, 1], is further from its row's
    background than Otsu's threshold over the picture; distances above 0.3 count as 0.3, else a strong paint would draw
    the threshold above a pale one beside it. ``tests/test_shapes.py`` compares with the world's own masks.

    Parts whose paint is the colour of the wall behind them are lost, as they are to the eye: shiny metal before stone.

    Args:
        image: RGB, or an array (H, W, 3) of uint8 or of floats in [0, 1].
    """
    x = unit(image)
    border = np.pad(x[:, [0, 1, -2, -1]], ((2, 2), (0, 0), (0, 0)), mode="edge")
    rows = np.stack([np.median(border[i : i + 5].reshape(-1, 3), axis=0) for i in range(len(x))])
    distance = np.linalg.norm(x - rows[:, None], axis=-1)
    return binarise(np.minimum(distance, 0.3))


def _counts(mask: Mask, reference: Mask) -> tuple[np.ndarray, np.ndarray]:
    """|A and B| and |A| + |B|."""
    a, b = np.asarray(mask, bool), np.asarray(reference, bool)
    if a.shape[-2:] != b.shape[-2:]:
        raise ShapefirstError(f"The masks to compare differ in size: {a.shape[-2:]} and {b.shape[-2:]}.")
    return (a & b).sum((-2, -1)), a.sum((-2, -1)) + b.sum((-2, -1))
