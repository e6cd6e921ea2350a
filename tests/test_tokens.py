"""Where tokens stand, for CLIP and T5."""

from __future__ import annotations

import pytest

from shapefirst.tokens import overflow, positions


def test_clip(make_pipe):
    """The test tokenizer makes a token of every letter."""
    found = positions(make_pipe().tokenizer, "a cat")
    assert found.sos == (0,)
    assert found.sem == (1, 2, 3, 4)
    assert found.eos == (5,)
    assert found.padding == tuple(range(6, 77))  # with the id of [EOS] itself, as in Stable Diffusion 1.5
    assert found.paper_eos == tuple(range(5, 77))


def test_clip_padded_with_another_token(make_pipe):
    """Stable Diffusion 2 pads with "!"."""
    import copy

    tokenizer = copy.deepcopy(make_pipe().tokenizer)
    tokenizer.pad_token = "a"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert positions(tokenizer, "a cat") == positions(make_pipe().tokenizer, "a cat")


def test_t5(make_pipe):
    found = positions(make_pipe("pixart").tokenizer, "a cat")
    assert found.sos == ()
    assert found.sem == (0, 1, 2, 3)
    assert found.eos == (4,)
    assert found.padding == tuple(range(5, 120))


@pytest.mark.parametrize(("kind", "start"), [("sd-epsilon", 1), ("pixart", 0)])
def test_the_empty_prompt_has_no_words(make_pipe, kind, start):
    found = positions(make_pipe(kind).tokenizer, "")
    assert (found.sem, found.eos) == ((), (start,))


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_positions_cover_every_token_once(make_pipe, kind):
    for prompt in ("", "a cat", "b" * 300):
        for length in (None, 10):
            tokenizer = make_pipe(kind).tokenizer
            found = positions(tokenizer, prompt, length)
            everything = found.sos + found.sem + found.eos + found.padding
            assert everything == tuple(range(length or tokenizer.model_max_length))


def test_what_does_not_fit_is_named(make_pipe):
    tokenizer = make_pipe().tokenizer
    fits = " ".join("a" * 75)
    assert overflow(tokenizer, fits).cut == ""
    assert (overflow(tokenizer, fits).tokens, overflow(tokenizer, fits).limit) == (77, 77)

    long = overflow(tokenizer, fits + " red dog")
    assert (long.tokens, long.cut) == (83, "red dog")
    assert positions(tokenizer, fits + " red dog") == positions(tokenizer, fits)
    assert overflow(make_pipe("pixart").tokenizer, "b" * 130, 120).tokens == 131
