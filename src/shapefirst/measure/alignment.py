"""How well an image shows what a prompt says: one protocol for all scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from PIL import Image

from shapefirst.errors import ShapefirstError
from shapefirst.measure.intervals import ANY, SHARE, SIGNED, Range
from shapefirst.prompts import Prompt

__all__ = ["Alignment", "check_pairs", "range_of"]

#: Unit -> what a score in it can be.
RANGES: Final = {
    "cosine x 100": Range(-100.0, 100.0),
    "cosine": SIGNED,
    "probability": SHARE,
    "score 1 to 5": Range(1.0, 5.0),
}


class Alignment(Protocol):
    """A score of images against prompts; more is better.

    Attributes:
        title: What it is, for tables: "CLIPScore (openai/clip-vit-base-patch16)".
        unit: What its numbers are: "cosine x 100", "probability".
    """

    title: str
    unit: str

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> np.ndarray:
        """(B,) float64: how well each image shows the prompt beside it.

        Raises:
            ShapefirstError: The numbers of images and prompts differ.
        """
        ...


def range_of(alignment: Alignment) -> Range:
    """What a score can be, as its unit says; of an unknown one anything."""
    return RANGES.get(alignment.unit, ANY)


def check_pairs(images: Sequence[object], others: Sequence[object], called: str = "prompts") -> None:
    """Raise ShapefirstError unless there is one of ``others`` beside every image."""
    if len(images) != len(others):
        raise ShapefirstError(
            f"There are {len(images)} images and {len(others)} {called}: each image is scored with the one beside it."
        )
