"""What the studies of attention maps share: which words to follow, their maps over a run, and pictures of them.

A word's map at a step is the cross-attention weight of its tokens (their mean), averaged over heads and layers. Its
mask is that map binarised by Otsu's threshold: the "shape" of arXiv 2405.15330.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from PIL import Image

from shapefirst.attention.recording import record
from shapefirst.errors import ShapefirstError
from shapefirst.measure.intervals import settled
from shapefirst.measure.shapes import Mask, binarise, f1, iou, resize, silhouette_of
from shapefirst.prompts import Prompt
from shapefirst.prompts.tokens import Positions, word_positions
from shapefirst.sampling.loop import Embeddings, decode
from shapefirst.studies.subject import Subject, part
from shapefirst.words import folded, words_in

__all__ = [
    "EARLY",
    "ROLES",
    "SETTLED",
    "SIZE",
    "Followed",
    "Role",
    "Word",
    "WordCourse",
    "course",
    "follow_words",
    "followable",
    "nouns_of",
    "shape_in",
    "shape_of",
    "step_at",
    "words_of",
]

#: Longer side of the maps in pixels.
SIZE: Final = 16
#: The share of the steps that counts as "the first few": 10 of 50.
EARLY: Final = 0.2
#: A map has settled once its IoU with the last one stays at or above this.
SETTLED: Final = 0.8

Role: TypeAlias = Literal["noun", "attribute", "article", "[SOS]", "[EOS]"]
ROLES: Final[tuple[Role, ...]] = ("noun", "attribute", "article", "[SOS]", "[EOS]")

_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True)
class Word:
    """A word of a prompt, or one of its special tokens.

    Attributes:
        role: What it does in the prompt. "[EOS]" is the first one, which closes the prompt.
        text: As spelled in the prompt.
        places: The positions of its tokens, at least one.
    """

    role: Role
    text: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Followed:
    """Images and the maps of words on the way to them: 1 KiB for each image, word and step.

    Attributes:
        images: B.
        maps: For each image, for each of its words, (N, h, w), the word's map in the N steps.
        previews: (image, step) -> the clean image that the step predicts, where asked for.
    """

    images: list[Image.Image]
    maps: list[list[np.ndarray]]
    previews: dict[tuple[int, int], Image.Image] = field(default_factory=dict)


@dataclass(frozen=True)
class WordCourse:
    """How one mask comes to its final form.

    Attributes:
        role: A word's role, or "shape": the masks of all nouns of the prompt, united.
        text: The word.
        masks: (N, h, w).
        last: (2, N), F1-score and IoU of each step's mask with the last step's.
        seen: (2, N), likewise with the shape in the final image; nan where that is not known.
        settled: The first step from which the IoU with the last stays at or above ``SETTLED``.
    """

    role: str
    text: str
    masks: Mask
    last: np.ndarray
    seen: np.ndarray
    settled: int


def words_of(tokenizer: Any, prompt: Prompt, at: Positions) -> list[Word]:
    """The words to follow: nouns, attributes and their articles, then [SOS] (if there is one) and the first [EOS].

    Where no phrase is known of the prompt, or none is found in it, its last content word counts as the noun.

    Raises:
        ShapefirstError: The prompt has no word, or those that it has are cut off.
    """
    length = sum(map(len, (at.sos, at.sem, at.eos, at.padding)))
    spelled = word_positions(tokenizer, prompt.text, length)
    lower = [folded(word) for word, _ in spelled]

    def word(role: Role, first: int, count: int = 1) -> Word:
        here = spelled[first : first + count]
        return Word(role, " ".join(w for w, _ in here), tuple(dict.fromkeys(p for _, places in here for p in places)))

    words: list[Word] = []
    start = 0
    for attribute, noun in prompt.phrases:
        a, b = words_in(attribute), words_in(noun)
        first = next((i for i in range(start, len(lower)) if lower[i : i + len(a) + len(b)] == a + b), None)
        if first is None:
            continue
        if first > 0 and lower[first - 1] in _ARTICLES:
            words.append(word("article", first - 1))
        if a:
            words.append(word("attribute", first, len(a)))
        words.append(word("noun", first + len(a), len(b)))
        start = first + len(a) + len(b)
    if not any(w.role == "noun" and w.places for w in words):
        seen = [i for i, (_, places) in enumerate(spelled) if places]
        if not seen:
            raise ShapefirstError(f"The prompt {prompt.text!r} has no word whose attention could be followed.")
        articles = [i for i in seen if lower[i] in _ARTICLES]
        # The name of a textual inversion may be several words to those who do not know its tokenizer.
        content = [i for i in seen if any(w.removesuffix("s") in prompt.content for w in words_in(lower[i]))]
        words = [*(word("article", i) for i in articles[:1]), word("noun", (content or seen)[-1])]
    if at.sos:
        words.append(Word("[SOS]", "[SOS]", at.sos))
    words.append(Word("[EOS]", "[EOS]", at.eos))
    return [w for w in words if w.places]


def followable(subject: Subject, prompts: Sequence[Prompt], at: Sequence[Positions]) -> list[list[Word]]:
    """``words_of`` each of n prompts, whose tokens stand ``at`` these positions."""
    return [
        words_of(subject.pipe.tokenizer, subject.as_read(prompt), one) for prompt, one in zip(prompts, at, strict=True)
    ]


def nouns_of(words: Sequence[Word]) -> list[Word]:
    """The nouns among them, at least one."""
    return [word for word in words if word.role == "noun"]


def follow_words(
    subject: Subject,
    embeddings: Embeddings,
    seeds: Sequence[int],
    words: Sequence[Sequence[Word]],
    *,
    previews: Collection[int] = (),
    shown: int = 0,
) -> Followed:
    """Sample with the maps of some words recorded; the images are those that are sampled without.

    Args:
        subject: What is sampled.
        embeddings: B rows.
        seeds: B.
        words: For each of B prompts, the words to follow.
        previews: Steps to keep previews of...
        shown: ...of the first so many images.
    """
    gathered: list[list[list[np.ndarray]]] = [[[] for _ in mine] for mine in words]
    images: list[Image.Image] = []
    seen: dict[tuple[int, int], Image.Image] = {}
    with record(subject.pipe, size=SIZE) as recorded:
        for here in subject.batches(len(seeds)):
            step = None
            for step in subject.steps_of(part(embeddings, here), seeds[here]):
                maps = recorded.text.pop(step.index).numpy()
                for i, one in enumerate(maps, here.start):
                    for word, kept in zip(words[i], gathered[i], strict=True):
                        kept.append(one[list(word.places)].mean(0))
                few = range(here.start, min(shown, here.stop))
                if few and step.index in previews:
                    for i, preview in zip(few, decode(subject.pipe, step.x0[: len(few)]), strict=True):
                        seen[i, step.index] = preview
            assert step is not None  # a batch has at least one image, and a run at least one step
            images += decode(subject.pipe, step.x_next)
    return Followed(images, [[np.stack(kept) for kept in mine] for mine in gathered], seen)


def shape_of(words: Sequence[Word], maps: Sequence[np.ndarray]) -> Mask:
    """(N, h, w): the shape of what a prompt is about, in each step: the masks of its nouns, united."""
    masks = [binarise(m) for word, m in zip(words, maps, strict=True) if word.role == "noun"]
    united: Mask = np.logical_or.reduce(masks)
    return united


def course(role: str, text: str, masks: Mask, seen: Mask | None) -> WordCourse:
    """The course of these masks (N, h, w), towards their last and towards the shape that is seen (h, w)."""
    last = np.stack([f1(masks, masks[-1]), iou(masks, masks[-1])])
    truth = np.full_like(last, np.nan) if seen is None else np.stack([f1(masks, seen), iou(masks, seen)])
    return WordCourse(role, text, masks, last, truth, int(settled(last[1:], SETTLED)[0]))


def shape_in(image: Image.Image, size: tuple[int, int]) -> Mask:
    """The true shape in a picture of pocket's world at a map's size (h, w): pixels that are mostly object."""
    return resize(silhouette_of(image).astype(np.float32), size) > 0.5


def step_at(num_steps: int, share: float) -> int:
    """The step that follows when this share of them is done; the last for 1."""
    return min(num_steps - 1, max(round(share * num_steps), int(share > 0)))
