"""Where a prompt's tokens stand in the embeddings that a pipeline makes of it, by name.

    mushroom, red mushroom      a word or several, whatever number of tokens each is
    [SOS]  [SEM]  [EOS]  [PAD]  the start token, all words, the end token, the padding behind it

Stable Diffusion 3 is given the tokens of CLIP and those of T5 one after the other: there a word has places among both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from shapefirst.errors import ShapefirstError, said
from shapefirst.prompts.tokens import phrase_positions, positions, preprocessed, room, word_positions
from shapefirst.words import find_words

__all__ = ["SPECIAL", "Reading"]

#: What is no word of a prompt, and the attribute of `Positions` that it is.
SPECIAL: Final = {"[SOS]": "sos", "[SEM]": "sem", "[EOS]": "eos", "[PAD]": "padding"}


@dataclass(frozen=True)
class Reading:
    """A prompt as a pipeline's text encoders read it.

    Attributes:
        pipe: The pipeline.
        prompt: As the pipeline is given it.
        length: Tokens of its embeddings, L.

    Raises:
        ShapefirstError: On use: a tokenizer that does not tell where its tokens stand; see `prompts.tokens`.
    """

    pipe: Any
    prompt: str
    length: int

    @cached_property
    def _parts(self) -> list[tuple[Any, str, int, int]]:
        """Tokenizer, what it is given, its first position, how many it has."""
        from shapefirst.families import family_of  # with torch

        *others, last = (getattr(self.pipe, name) for name in family_of(self.pipe).tokenizers)
        parts, first = [], 0
        for tokenizer in others:
            parts.append((tokenizer, self._spelled(tokenizer), first, room(tokenizer)))
            first += room(tokenizer)
        if last is not None and first < self.length:
            parts.append((last, self._spelled(last), first, self.length - first))
        return parts

    def _spelled(self, tokenizer: Any) -> str:
        return preprocessed(self.pipe, self.prompt) if tokenizer is self.pipe.tokenizer else self.prompt

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Its words, in order, as spelled in the prompt; those that are cut off are left out."""
        return tuple(word for word, places in self._words[0] if places)

    def word_places(self, n: int) -> tuple[int, ...]:
        """The positions of the n-th of `words`, which may be there more than once, in order."""
        whole = [at for at, (_, places) in enumerate(self._words[0]) if places][n]
        return tuple(
            sorted({place for words in self._words for _, places in words[whole : whole + 1] for place in places})
        )

    @cached_property
    def _words(self) -> list[list[tuple[str, tuple[int, ...]]]]:
        """Of each tokenizer the words with their positions."""
        return [
            [
                (word, tuple(first + place for place in places))
                for word, places in word_positions(tokenizer, text, length)
            ]
            for tokenizer, text, first, length in self._parts
        ]

    def places(self, *names: str) -> tuple[int, ...]:
        """The positions of all that is named, in order.

        Raises:
            ShapefirstError: A word does not occur in the prompt.
        """
        return tuple(sorted({place for part in self.places_by_tokenizer(*names) for place in part}))

    def places_by_tokenizer(self, *names: str) -> list[tuple[int, ...]]:
        """Those among each tokenizer's tokens."""
        if names not in self._found:
            self._found[names] = [
                tuple(sorted({first + place for name in names for place in _places(name, tokenizer, text, length)}))
                for tokenizer, text, first, length in self._parts
            ]
        return self._found[names]

    def no_such(self, *names: str) -> str:
        """That there are no such tokens, as the beginning of a sentence."""
        return f"There is no {' and no '.join(names)} among the tokens of {said(self.prompt)}"

    @cached_property
    def _found(self) -> dict[tuple[str, ...], list[tuple[int, ...]]]:
        """What has been looked for before."""
        return {}

    def exchanged(self, word: str, new: str) -> str:
        """The prompt with another word in place of the one, where it first occurs."""
        found = find_words(self.prompt, word)
        if found is None:
            raise ShapefirstError(f"The words {said(word)} do not occur in the prompt {said(self.prompt)}.")
        return self.prompt[: found[0]] + new + self.prompt[found[1] :]


def _places(name: str, tokenizer: Any, text: str, length: int) -> tuple[int, ...]:
    if name in SPECIAL:
        found: tuple[int, ...] = getattr(positions(tokenizer, text, length), SPECIAL[name])
        return found
    return phrase_positions(tokenizer, text, name, length)
