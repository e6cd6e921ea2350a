"""Where a prompt's tokens stand, found from the tokenizer's own ids.

    CLIP   [SOS] word ... word [EOS] [pad] ... [pad]     77 positions; Stable Diffusion 1.5 pads with [EOS] itself,
                                                         2.1 with "!"; the two tokenizers of SDXL do one each
    T5     word ... word </s> <pad> ... <pad>            no [SOS]; PixArt-alpha uses 120 positions

"Words" are the paper's semantic tokens, [SEM]. Its [EOS] means the end token together with the padding after it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, TypeAlias

from shapefirst.checks import check_text
from shapefirst.errors import ShapefirstError
from shapefirst.signatures import From, Having, guarded
from shapefirst.words import Span, find_words, folded, spans

__all__ = [
    "ENDLESS",
    "Overflow",
    "Positions",
    "overflow",
    "phrase_positions",
    "positions",
    "preprocessed",
    "room",
    "word_positions",
]

#: More tokens than any text encoder takes: transformers says 1e30 where a tokenizer's files do not name its limit.
ENDLESS: Final = 10**9

Tokenizer: TypeAlias = Annotated[Any, Having("a tokenizer of transformers", ("eos_token_id", "model_max_length"))]


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


@guarded
def preprocessed(pipe: Any, prompt: str) -> str:
    """The prompt as the pipeline's own call hands it to the tokenizer.

    PixArt's lowers its case and cleans it; Stable Diffusion's puts a token for each vector of a textual inversion, so
    that "<toy>" may become "<toy> <toy>_1 <toy>_2".
    """
    check_text(prompt, "The prompt")
    if hasattr(pipe, "maybe_convert_prompt"):
        return str(pipe.maybe_convert_prompt(prompt, pipe.tokenizer))
    if hasattr(pipe, "_text_preprocessing"):
        from shapefirst.families.pixart import cleans_captions  # with torch

        (prompt,) = pipe._text_preprocessing(prompt, clean_caption=cleans_captions())
    return prompt


def room(tokenizer: Any) -> int:
    """How many tokens there is room for in the text encoder, as its tokenizer says; 77 for CLIP.

    Raises:
        ShapefirstError: It does not say.
    """
    limit = int(tokenizer.model_max_length)
    if limit > ENDLESS:
        raise ShapefirstError(
            f"{type(tokenizer).__name__} does not say how many tokens its text encoder takes: set its "
            "model_max_length (77 for CLIP), or write it into tokenizer_config.json."
        )
    return limit


@guarded
def positions(
    tokenizer: Tokenizer,
    prompt: str,
    max_length: Annotated[int, From(1, 100_000)] | None = None,
) -> Positions:
    """Where [SOS], words, [EOS] and padding stand once `prompt` is cut and padded to `max_length` tokens.

    They are told apart by where they stand, not by their ids: [EOS] may also be what the model pads with, or what it
    puts for a letter that it does not know, and a prompt may hold it, or the "!" that others pad with, as a word.

    Args:
        tokenizer: A CLIP or T5 tokenizer of transformers.
        prompt: One prompt, as the tokenizer is given it: `shapefirst.prompts.tokens.preprocessed(pipe, prompt)`.
        max_length: By default the tokenizer's own limit.

    Raises:
        ShapefirstError: The tokenizer ends a prompt with no [EOS], pads in front of it, or does not say how many tokens
            there is room for; the prompt is no text, or holds a textual inversion that is not spelled out.
    """
    ids, limit = _encode(tokenizer, prompt).input_ids, _limit(tokenizer, max_length)
    if tokenizer.eos_token_id is None or ids[-1:] != [tokenizer.eos_token_id]:
        raise ShapefirstError(
            f"{type(tokenizer).__name__} does not end a prompt with [EOS], as the tokenizers of CLIP and T5 do: "
            "what is said about [EOS] does not apply to this model."
        )
    first, end = int(ids[0] == tokenizer.bos_token_id), min(len(ids), limit) - 1
    return Positions(
        sos=tuple(range(first)), sem=tuple(range(first, end)), eos=(end,), padding=tuple(range(end + 1, limit))
    )


def overflow(tokenizer: Any, prompt: str, max_length: int | None = None) -> Overflow:
    """How long `prompt` is against what the text encoder takes, and the words that get cut.

    Arguments as of `positions`. Without a limit there is nothing to cut.
    """
    ids, limit = _encode(tokenizer, prompt).input_ids, max_length or int(tokenizer.model_max_length)
    # A cut prompt keeps its first limit - 1 tokens and the end token.
    cut = ids[limit - 1 : -1] if len(ids) > limit else []
    return Overflow(tokens=len(ids), limit=limit, cut=tokenizer.decode(cut).strip())


def word_positions(
    tokenizer: Any, prompt: str, max_length: int | None = None
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The words of `prompt` in order, each with the positions of its tokens; () for a word that is cut off.

    A word may be several tokens, and punctuation is none (see `shapefirst.words`). A textual inversion is one word,
    with as many tokens as it has vectors. Arguments and errors as of `phrase_positions`.
    """
    tokens, added = _read(tokenizer, prompt, max_length)
    words = {span: span for span in spans(_heard(prompt, added), [one.letters for one in added])}
    words |= {one.letters: one.whole for one in added if one.is_word}
    return tuple((prompt[slice(*word)], _within(tokens, words[word])) for word in sorted(words))


def phrase_positions(tokenizer: Any, prompt: str, phrase: str, max_length: int | None = None) -> tuple[int, ...]:
    """The positions of the tokens of one or more whole words, where they first occur, in whatever spelling.

    `phrase_positions(tokenizer, "a red fire truck", "fire truck")` gives (3, 4) for CLIP; () if the words are cut off.
    Which spellings are alike, and where parts of a compound are found: `shapefirst.words.find_words`.

    Args:
        tokenizer: A CLIP or T5 tokenizer of transformers.
        prompt: As for `positions`.
        phrase: Words, as a user spells them.
        max_length: As for `positions`.

    Raises:
        ShapefirstError: `phrase` does not occur in `prompt`, or the tokenizer is one of transformers' slow ones, which
            do not tell which letters a token stands for; and as for `positions`.
    """
    tokens, added = _read(tokenizer, prompt, max_length)
    apart = [one.letters for one in added]
    found = find_words(_heard(prompt, added), phrase, apart) or find_words(prompt, phrase, apart)
    if found is None:
        raise ShapefirstError(f"The words {phrase!r} do not occur in the prompt {prompt!r}.")
    # Whoever asks for an inversion, or for a part of its name, asks for all of its vectors.
    touched = [one.whole for one in added if one.whole[0] < found[1] and one.whole[1] > found[0]]
    starts, ends = zip(found, *touched, strict=True)
    return _within(tokens, (min(starts), max(ends)))


@dataclass(frozen=True)
class _Added:
    """What was added to a vocabulary and stands in a prompt: a textual inversion, or a literal "<|endoftext|>"."""

    name: str
    vectors: tuple[Span, ...]  #: the letters of each; those of "<toy>_1" and so on stand behind "<toy>"
    is_word: bool

    @property
    def letters(self) -> Span:
        return self.vectors[0]

    @property
    def whole(self) -> Span:
        return self.vectors[0][0], self.vectors[-1][1]


def _encode(tokenizer: Any, prompt: str, **options: Any) -> Any:
    """The prompt's tokens with the special ones, uncut."""
    check_text(prompt, "The prompt")
    encoded = tokenizer(prompt, truncation=False, verbose=False, **options)
    _check_vectors(tokenizer, prompt, encoded.input_ids)
    return encoded


def _limit(tokenizer: Any, max_length: int | None) -> int:
    """How many tokens there is room for, from the first position on."""
    limit = room(tokenizer) if max_length is None else max_length
    if limit < (least := len(tokenizer("").input_ids)):
        raise ShapefirstError(f"An empty prompt takes {least} tokens, and there is room for {limit} only.")
    if getattr(tokenizer, "padding_side", "right") != "right":
        raise ShapefirstError(
            f"{type(tokenizer).__name__} pads in front of the prompt: set its padding_side to 'right'."
        )
    return limit


def _check_vectors(tokenizer: Any, prompt: str, ids: list[int]) -> None:
    """Raise ShapefirstError if a textual inversion of several vectors is there with the first of them alone."""
    added = getattr(tokenizer, "added_tokens_encoder", {})
    names = {number: name for name, number in added.items()}
    for token, following in zip(ids, [*ids[1:], None], strict=True):
        name = names.get(token)
        second = added.get(f"{name}_1")
        if name is not None and name in prompt and second not in (None, following):
            raise ShapefirstError(
                f"{name} has several vectors, for which a pipeline puts as many tokens into the prompt {prompt!r}: "
                "give it as shapefirst.prompts.tokens.preprocessed(pipe, prompt) spells it."
            )


def _read(tokenizer: Any, prompt: str, max_length: int | None) -> tuple[list[Span], list[_Added]]:
    """The letters of each token that fits, none for special ones; and what was added to the vocabulary."""
    if not getattr(tokenizer, "is_fast", False):
        raise ShapefirstError(
            f"{type(tokenizer).__name__} does not tell which letters a token stands for: load the fast tokenizer."
        )
    encoded, limit = _encode(tokenizer, prompt, return_offsets_mapping=True), _limit(tokenizer, max_length)
    tokens = [(start, end) for start, end in encoded.offset_mapping]
    added = _added(tokenizer, prompt, encoded.input_ids, tokens)
    # T5 may put the blank before a word into a token of its own, and has it point to the word's first letter.
    pieces = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    letters = [(0, 0) if set(piece) == {"▁"} else span for piece, span in zip(pieces, tokens, strict=True)]
    return letters[:limit] if len(letters) <= limit else letters[: limit - 1], added


def _added(tokenizer: Any, prompt: str, ids: list[int], tokens: list[Span]) -> list[_Added]:
    known = tokenizer.added_tokens_decoder
    found: list[_Added] = []
    for token, span in zip(ids, tokens, strict=True):
        # A letter that CLIP does not know has the id of [EOS], too.
        if token not in known or folded(prompt[slice(*span)].strip()) != folded(known[token].content):
            continue
        if found and known[token].content == f"{found[-1].name}_{len(found[-1].vectors)}":
            found[-1] = replace(found[-1], vectors=(*found[-1].vectors, span))
        else:
            found.append(_Added(known[token].content, (span,), not known[token].special))
    return found


def _heard(prompt: str, added: list[_Added]) -> str:
    """The prompt as a user wrote it, with blanks for all vectors of an inversion but the first."""
    for one in added:
        prompt = prompt[: one.letters[1]] + " " * (one.whole[1] - one.letters[1]) + prompt[one.whole[1] :]
    return prompt


def _within(tokens: list[Span], letters: Span) -> tuple[int, ...]:
    """The tokens that have one of the letters."""
    start, end = letters
    return tuple(i for i, (first, last) in enumerate(tokens) if first < last and first < end and last > start)
