"""Where a prompt's tokens stand, found from the tokenizer's own ids.

    CLIP   [SOS] word ... word [EOS] [pad] ... [pad]     77 positions; Stable Diffusion 1.5 pads with [EOS] itself
    T5     word ... word </s> <pad> ... <pad>            no [SOS]; PixArt-alpha uses 120 positions

"Words" are the paper's semantic tokens, [SEM]. Its [EOS] means the end token together with the padding after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Overflow", "Positions", "overflow", "positions"]


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
    """
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
