"""The tokens of a prompt dropped, kept, replaced or switched on a stock pipeline.

    with edit(pipe, eos_of="a blue bird"):                      # its words and the [EOS] of another prompt (F4)
        pipe("a red mushroom")
    with edit(pipe, keep=["[EOS]", "[PAD]"]):                   # nothing but [EOS] and padding (A2)
        pipe("a red mushroom")
    with edit(pipe, drop="red", fill="empty", steps=range(25)):  # one word, in the first 25 steps (A3)
        pipe("a red mushroom")

What the denoiser is given in the text branch is changed, and nothing else: neither the null branch nor the pooled
embeddings that some models have besides, nor which padding a mask hides (T5). `substitute` is for keys or values alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeAlias

import torch

from shapefirst.attention.hook import AttentionHook, DenoiserCall, Edit
from shapefirst.errors import ShapefirstError, said
from shapefirst.families import family_of
from shapefirst.families.layout import denoiser_of
from shapefirst.guidance.hook import Reentrant
from shapefirst.prompts.edits import blank, mask_of, noise
from shapefirst.prompts.reading import Reading
from shapefirst.signatures import From, guarded

__all__ = ["Fill", "edit", "texts_of"]

#: What stands where tokens were dropped.
Fill: TypeAlias = Literal["zeros", "noise", "empty"]
#: What the paper calls [EOS].
END: Final = ("[EOS]", "[PAD]")


@guarded
def edit(
    pipe: Any,
    *,
    drop: str | Sequence[str] | None = None,
    keep: str | Sequence[str] | None = None,
    replace: Mapping[str, str] | None = None,
    eos_of: str | None = None,
    fill: Fill = "zeros",
    seed: Annotated[int, From(0)] = 0,
    steps: Collection[Annotated[int, From(0)]] | None = None,
    prompts: str | Sequence[str] | None = None,
) -> AbstractContextManager[None]:
    """Within the block, the denoiser of `pipe` is given other tokens in place of some of the prompt's.

    Say one of `drop`, `keep`, `replace` and `eos_of`. Tokens are named by words of the prompt, "mushroom" or "fire
    truck", or as "[SOS]", "[SEM]" (all words), "[EOS]" (the end token) and "[PAD]" (the padding behind it); what the
    paper calls [EOS] is the last two. Blocks nest, the inner one changes what the outer one has made.

    Args:
        pipe: A pipeline that runs both branches in one batch and whose tokens are known: Stable Diffusion, SDXL, SD 3,
            PixArt.
        drop: The tokens that go.
        keep: The tokens that stay; all others go.
        replace: Word -> the word whose token is to stand in its place, as the text encoder reads it in the same prompt
            with that word exchanged. Only these tokens change: [EOS] still says the old word.
        eos_of: Another prompt, whose [EOS] and padding stand in place of the prompt's (arXiv 2405.15330, 3.2): the n-th
            for the n-th, its last for any more.
        fill: What stands in place of the tokens that go: zeros, Gaussian noise of their mean and variance, or the
            tokens that the empty prompt has there.
        seed: Of the noise; image i has ``seed + i``.
        steps: In these steps only, counted from 0; by default in all.
        prompts: The prompts, where the pipeline is called with embeddings.

    Raises:
        UnsupportedPipelineError: As for `record`.
        ShapefirstError: None or several of the four are said; in the first step, a word does not occur in the prompt,
            there are no such tokens (T5 has no [SOS]), or the prompt is not known.
    """
    asked = {"drop": drop, "keep": keep, "replace": replace, "eos_of": eos_of}
    given = [name for name, value in asked.items() if value is not None]
    if len(given) != 1 or (eos_of is None and not asked[given[0]]):
        said_now = " and ".join(given) or "none"
        raise ShapefirstError(f"edit() takes one of drop=, keep=, replace= and eos_of=, not {said_now}.")
    change = _Change(drop=_listed(drop), keep=_listed(keep), replace=replace or {}, eos_of=eos_of, fill=fill, seed=seed)
    denoiser = denoiser_of(pipe)
    texts = None if prompts is None else _listed(prompts)
    only = None if steps is None else frozenset(steps)

    def begin() -> tuple[None, Callable[[], None]]:
        block = _Editing(pipe, change, only, texts)
        leave = partial(AttentionHook.enter(pipe, denoiser, block).leave, block)

        def end() -> None:
            leave()
            block.warn_if_idle()

        return None, end

    return Reentrant(begin, "An edit", "write `with edit(pipe, ...):` above the pipeline's call.")


def texts_of(call: DenoiserCall, told: Sequence[str] | None, images: int, function: str) -> list[str]:
    """The prompt of each of so many images: what a block was told, or the pipeline was called with.

    Raises:
        ShapefirstError: Neither says it, or the images are not so many of each.
    """
    texts = call.texts if told is None else told
    if not texts:
        raise ShapefirstError(
            f"The prompt is not known where a pipeline is given embeddings: say {function}(pipe, prompts=...), too."
        )
    if images % len(texts):
        raise ShapefirstError(f"There are {images} images, which are not as many of each of {len(texts)} prompts.")
    return [text for text in texts for _ in range(images // len(texts))]


@dataclass(frozen=True)
class _Change:
    """What an `edit` block does."""

    drop: tuple[str, ...]
    keep: tuple[str, ...]
    replace: Mapping[str, str]
    eos_of: str | None
    fill: Fill
    seed: int


@dataclass(eq=False)
class _Editing(Edit):
    """An `edit` block, and the other embeddings that it has asked for."""

    pipe: Any
    change: _Change
    steps: frozenset[int] | None
    texts: tuple[str, ...] | None
    others: dict[str, torch.Tensor] = field(default_factory=dict)
    readings: dict[tuple[str, int], Reading] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)  # steps

    def warn_if_idle(self) -> None:
        """Say so where none of the steps that it is for has come."""
        if self.seen and self.steps and not self.seen & self.steps:
            warnings.warn(
                f"edit(steps=...) changed nothing: none of its steps is among the {max(self.seen) + 1} that were "
                "sampled, which are counted from 0.",
                stacklevel=4,
            )

    def edited(self, call: DenoiserCall, embeddings: torch.Tensor) -> torch.Tensor:
        self.seen.add(call.step)
        if self.steps is not None and call.step not in self.steps:
            return embeddings
        texts = texts_of(call, self.texts, len(embeddings), "edit")
        readings = [self._reading(text, embeddings.shape[1]) for text in texts]
        if self.change.replace or self.change.eos_of is not None:
            return self._exchanged(embeddings, readings)
        return self._emptied(embeddings, readings)

    def _emptied(self, embeddings: torch.Tensor, readings: Sequence[Reading]) -> torch.Tensor:
        """Without the tokens that are to go."""
        change, length = self.change, embeddings.shape[1]
        names = change.drop or change.keep
        places = [one.places(*names) for one in readings]
        if not any(places):
            to_do = "drop" if change.drop else "keep"
            raise ShapefirstError(f"{readings[0].no_such(*names)}: nothing to {to_do}.")
        if change.keep:
            places = [tuple(sorted(set(range(length)) - set(few))) for few in places]
        if change.fill == "noise":
            return noise(embeddings, places, range(change.seed, change.seed + len(embeddings)))
        if change.fill == "zeros":
            return blank(embeddings, places)
        return torch.where(mask_of(places, length).to(embeddings.device), self._other("", embeddings), embeddings)

    def _exchanged(self, embeddings: torch.Tensor, readings: Sequence[Reading]) -> torch.Tensor:
        """With the tokens of other prompts in place of some: the n-th for the n-th, and the last for any more."""
        changed = embeddings.clone()
        for b, reading in enumerate(readings):
            for other, mine, theirs in self._exchanges(reading):
                source = self._other(other.prompt, embeddings)
                parts = (reading.places_by_tokenizer(*mine), other.places_by_tokenizer(*theirs))
                for here, there in zip(*parts, strict=True):
                    for n, place in enumerate(here if there else ()):
                        changed[b, place] = source[there[min(n, len(there) - 1)]]
        return changed

    def _exchanges(self, reading: Reading) -> list[tuple[Reading, Sequence[str], Sequence[str]]]:
        """The other prompts, and which tokens of theirs come in place of which."""
        if self.change.eos_of is not None:
            return [(self._reading(self.change.eos_of, reading.length), END, END)]
        return [
            (self._reading(reading.exchanged(word, new), reading.length), (word,), (new,))
            for word, new in self.change.replace.items()
        ]

    def _reading(self, text: str, length: int) -> Reading:
        """The same one in every step: it keeps where its tokens stand."""
        return self.readings.setdefault((text, length), Reading(self.pipe, text, length))

    def _other(self, text: str, like: torch.Tensor) -> torch.Tensor:
        """(L, D), the embeddings of another prompt, encoded once."""
        if text not in self.others:
            with torch.inference_mode(False), torch.no_grad():
                self.others[text] = family_of(self.pipe).encode(self.pipe, [text], None, 1).text[0]
        other = self.others[text].to(like)
        if other.shape != like.shape[1:]:
            raise ShapefirstError(
                f"The embeddings of {said(text)} are of shape {tuple(other.shape)}, the prompt's "
                f"{tuple(like.shape[1:])}: call the pipeline with its own length of prompts."
            )
        return other


def _listed(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if names is None else (names,) if isinstance(names, str) else tuple(names)
