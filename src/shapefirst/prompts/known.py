"""What an embedded model was never taught, of a prompt: said where it is given, as its picture would not say it."""

from __future__ import annotations

import warnings
from typing import Any

from shapefirst.errors import shortened
from shapefirst.prompts.prompt import parse_phrases
from shapefirst.signatures import Name, guarded
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS, unknown_words

__all__ = ["VocabularyWarning", "WordsWatch", "unseen"]

_SENTENCES = "It knows sentences such as 'a red car above a wooden house'; `shapefirst models {}` lists its words."


class VocabularyWarning(UserWarning):
    """A prompt asks an embedded model for more than it knows."""


@guarded
def unseen(text: str, model: Name = "pocket") -> str:
    """What of a prompt an embedded model never saw in training, in a sentence or two; "" where it saw all of it.

    One or two words by themselves, as negative prompts have them, need be no sentence.
    """
    short, sentences = shortened(text), _SENTENCES.format(model)
    if text.strip() and not any(map(str.isalpha, text)):
        return f"{short!r} has no word for {model} to draw."
    if unknown := unknown_words(text):
        listed = ", ".join(repr(shortened(word)) for word in unknown[:5]) + " and others" * (len(unknown) > 5)
        return f"{model} never saw {listed} (in {short!r}). {sentences}"
    phrases = parse_phrases(text)
    known = all(attribute in ATTRIBUTES and noun in NOUNS for attribute, noun in phrases)
    if len(text.split()) > 2 and not (1 <= len(phrases) <= 2 and known):
        return f"{model} never saw a sentence such as {short!r}, though all of its words. {sentences}"
    return ""


class WordsWatch:
    """A forward pre-hook of the text encoder of such a model, which warns of prompts that hold more than it knows."""

    def __init__(self, tokenizer: Any, model: str) -> None:
        self._tokenizer, self._model = tokenizer, model

    def __call__(self, encoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if getattr(ids, "ndim", 0) != 2:
            return
        for text in dict.fromkeys(self._tokenizer.batch_decode(ids, skip_special_tokens=True)):
            if said := unseen(text, self._model):
                warnings.warn(said, VocabularyWarning, stacklevel=1)
