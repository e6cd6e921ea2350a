"""Where a prompt's tokens stand, found from the tokenizer's own ids.

    CLIP   [SOS] word ... word [EOS] [pad] ... [pad]     77 positions; Stable Diffusion 1.5 pads with [EOS] itself,
                                                         2.1 with "!"; the two tokenizers of SDXL do one each
    T5     word ... word </s> <pad> ... <pad>            no [SOS]; PixArt-alpha uses 120 positions

"Words" are the paper's semantic tokens, [SEM]. Its [EOS] means the end token together with the padding after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from shapefirst.errors import ShapefirstError

__all__ = ["Overflow", "Positions", "overflow", "phrase_positions", "positions", "word_positions"]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


@dataclass(frozen=True)
class Positions:
    """Positions, counted from 0, of each kind of token in a prompt padded to full length.

    Attributes:
        sos: The start token: one position for CLIP, none for T5.
        sem: The words.
        eos: The first end token.
        padding: Everything after it.
    """

    sos: tuple[int, ...]
    sem: tuple[int, ...]
    eos: tuple[int, ...]
    padding: tuple[int, ...]

    @property
    def paper_eos(self) -> tuple[int, ...]:
        """What the paper calls [EOS]: the end token and its padding."""
        return self.eos + self.padding


@dataclass(frozen=True)
class Overflow:
    """What does not fit into a text encoder.

    Attributes:
        tokens: The prompt's tokens, with the special ones.
        limit: How many there is room for.
        cut: The end of the prompt that the model does not see, as the tokenizer spells it; "" if all fits.
    """

    tokens: int
    limit: int
    cut: str


def positions(tokenizer: Any, prompt: str, max_length: int | None = None) -> Positions:
    """Where [SOS], words, [EOS] and padding stand once `prompt` is cut and padded to `max_length` tokens.

    Args:
        tokenizer: A CLIP or T5 tokenizer of transformers.
        prompt: One prompt.
        max_length: By default the tokenizer's own limit.

    Raises:
        ShapefirstError: The tokenizer ends a prompt with no [EOS].
    """
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id not in tokenizer("").input_ids:
        raise ShapefirstError(
            f"{type(tokenizer).__name__} does not end a prompt with [EOS], as the tokenizers of CLIP and T5 do: "
            "what is said about [EOS] does not apply to this model."
        )
    length = max_length or tokenizer.model_max_length
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True).input_ids
    words = 1 if ids[0] == tokenizer.bos_token_id else 0
    # The first one: CLIP's padding may have the same id.
    end = ids.index(tokenizer.eos_token_id, words)
    return Positions(
        sos=tuple(range(words)),
        sem=tuple(range(words, end)),
        eos=(end,),
        padding=tuple(range(end + 1, len(ids))),
    )


def overflow(tokenizer: Any, prompt: str, max_length: int | None = None) -> Overflow:
    """How long `prompt` is against what the text encoder takes, and the words that get cut."""
    limit = max_length or tokenizer.model_max_length
    ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
    # A cut prompt keeps its first limit - 1 tokens and the end token.
    cut = ids[limit - 1 : -1] if len(ids) > limit else []
    return Overflow(tokens=len(ids), limit=limit, cut=tokenizer.decode(cut, skip_special_tokens=True).strip())


def word_positions(
    tokenizer: Any, prompt: str, max_length: int | None = None
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The words of `prompt` in order, each with the positions of its tokens; () for a word that is cut off.

    A word may be several tokens, and punctuation is none. Arguments as of `positions`.

    Raises:
        ShapefirstError: The tokenizer cannot tell which letters a token stands for (see `phrase_positions`).
    """
    spans = _spans(tokenizer, prompt, max_length)
    return tuple((word[0], _within(spans, *word.span())) for word in _WORD.finditer(prompt))


def phrase_positions(tokenizer: Any, prompt: str, phrase: str, max_length: int | None = None) -> tuple[int, ...]:
    """The positions of the tokens of one or more whole words, where they first occur; upper and lower case are alike.

    `phrase_positions(tokenizer, "a red fire truck", "fire truck")` gives (3, 4) for CLIP; () if the words are cut off.

    Raises:
        ShapefirstError: `phrase` does not occur in `prompt`, or the tokenizer is one of transformers' slow ones, which
            do not tell which letters a token stands for.
    """
    words = r"\s+".join(map(re.escape, phrase.split()))
    found = re.search(rf"(?<!\w){words}(?!\w)", prompt, re.IGNORECASE) if words else None
    if found is None:
        raise ShapefirstError(f"The words {phrase!r} do not occur in the prompt {prompt!r}.")
    return _within(_spans(tokenizer, prompt, max_length), *found.span())


def _spans(tokenizer: Any, prompt: str, max_length: int | None) -> list[tuple[int, int]]:
    """First letter and the one after the last, of each token that fits; the same twice for special tokens."""
    if not getattr(tokenizer, "is_fast", False):
        raise ShapefirstError(
            f"{type(tokenizer).__name__} does not tell which letters a token stands for: load the fast tokenizer."
        )
    length = max_length or tokenizer.model_max_length
    encoded = tokenizer(prompt, max_length=length, truncation=True, return_offsets_mapping=True)
    return [(start, end) for start, end in encoded.offset_mapping]


def _within(spans: list[tuple[int, int]], start: int, end: int) -> tuple[int, ...]:
    """The tokens that have a letter in [start, end)."""
    return tuple(i for i, (first, last) in enumerate(spans) if first < last and first < end and last > start)
