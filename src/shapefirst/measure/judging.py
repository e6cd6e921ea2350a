"""The judge as a score: the probability that it gives to what the prompt asks for.

    one phrase (a, n)     p(image) = p_1(n) p_1(a)                               of the first object in reading order
    two phrases           p(image) = max over the two orders of the mean of p_1(n) p_1(a) and p_2(n') p_2(a')

p_1 and p_2 are the judge's softmax outputs for the first and the second place (the second has an outcome "none", which
counts as wrong). Either order is right, since the studies do not ask on which side an object stands, but the same order
holds for both phrases: each attribute has to be with its own noun. ``part`` "noun" or "attribute" takes that factor
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image

from shapefirst.errors import ModelError, ShapefirstError, first_line
from shapefirst.measure.alignment import check_pairs
from shapefirst.measure.judge import Judge
from shapefirst.prompts import Prompt, parse_phrases
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS

__all__ = ["JudgeScore", "can_judge", "load_judge"]

Part = Literal["both", "noun", "attribute"]

_TITLES: Final[dict[str, str]] = {"both": "Judge", "noun": "Judge: noun", "attribute": "Judge: attribute"}


class JudgeScore:
    """The alignment by pocket's judge, in [0, 1]; see the module.

    Args:
        judge: A trained judge.
        part: What of a phrase has to be right.
    """

    unit = "probability"

    def __init__(self, judge: Judge, part: Part = "both") -> None:
        if part not in _TITLES:
            raise ShapefirstError(f"There is no part {part!r} of a phrase; there are {', '.join(_TITLES)}.")
        self.title = _TITLES[part]
        self._judge, self._part = judge, part

    def score(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> np.ndarray:
        """(B,) float64.

        Raises:
            ShapefirstError: The numbers of images and prompts differ, or the judge does not know a word of a prompt.
        """
        check_pairs(images, prompts)
        wanted = [_classes(prompt) for prompt in prompts]
        parts = zip(*(logits for logits, _ in self._judge.see(images)), strict=True)
        seen = [torch.cat(question).double().softmax(-1).numpy() for question in parts]
        scores = np.empty(len(images))
        for i, phrases in enumerate(wanted):
            right = np.array([[self._probability(seen, place, i, phrase) for phrase in phrases] for place in (0, 1)])
            scores[i] = right[0, 0] if len(phrases) == 1 else max(np.trace(right), np.trace(right[::-1])) / 2
        return scores

    def _probability(self, seen: list[np.ndarray], place: int, i: int, phrase: tuple[int, int]) -> float:
        attribute, noun = phrase
        of_noun, of_attribute = seen[2 * place][i, noun], seen[2 * place + 1][i, attribute]
        return float({"both": of_noun * of_attribute, "noun": of_noun, "attribute": of_attribute}[self._part])


def _classes(prompt: Prompt) -> list[tuple[int, int]]:
    """The judge's (attribute, noun) classes of each phrase."""
    phrases = prompt.phrases or parse_phrases(prompt.text)
    if not 1 <= len(phrases) <= 2:
        raise ShapefirstError(
            f"The judge scores prompts of one or two noun phrases such as 'a red car', not {prompt.text!r}: "
            "use prompts of pocket's world, whose words `shapefirst models pocket` lists."
        )
    for attribute, noun in phrases:
        for word, known in ((attribute, ATTRIBUTES), (noun, NOUNS)):
            if word not in known:
                raise ShapefirstError(
                    f"The judge does not know {word!r} in {prompt.text!r}: `shapefirst models pocket` lists its words."
                )
    return [(ATTRIBUTES.index(attribute), NOUNS.index(noun)) for attribute, noun in phrases]


def can_judge(prompt: Prompt) -> bool:
    """Whether the prompt is of one or two phrases of pocket's words."""
    try:
        _classes(prompt)
    except ShapefirstError:
        return False
    return True


def load_judge(folder: Path) -> Judge:
    """The judge that lies in ``folder``. Raises ModelError where it is missing or made for another vocabulary."""
    try:
        return Judge.load(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"The judge in {folder} cannot be loaded: {first_line(error)}. Get or train that model again."
        ) from error
