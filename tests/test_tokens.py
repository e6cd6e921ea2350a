"""Where tokens stand, for CLIP and T5."""

from __future__ import annotations

import json

import pytest
from transformers import CLIPTokenizer

from shapefirst.errors import ShapefirstError
from shapefirst.tokens import Positions, overflow, phrase_positions, positions, word_positions


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


def clip_tokenizer(folder, pad, limit=77):
    """CLIP's BPE with merges for "cat" and "dog", and "!" in the first place, as OpenAI's has it."""
    letters = "abcdefghijklmnopqrstuvwxyz',"
    merges = ["c a", "ca t</w>", "d o", "do g</w>", "do g"]
    tokens = ["!", "!</w>", *letters, *(f"{c}</w>" for c in letters), *("".join(m.split()) for m in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return CLIPTokenizer(*files, pad_token=pad, model_max_length=limit)


def test_both_tokenizers_of_sdxl_put_a_prompt_in_the_same_places(tmp_path):
    """The first pads with [EOS], the second, like Stable Diffusion 2.1, with "!" (id 0); a prompt may say "!" too."""
    first, second = clip_tokenizer(tmp_path, "<|endoftext|>"), clip_tokenizer(tmp_path, "!")
    assert (first.pad_token_id, second.pad_token_id) == (first.eos_token_id, 0)
    for prompt in ("", "cat!", "! a dog", "dog " * 90):
        assert positions(first, prompt) == positions(second, prompt)
    assert positions(second, "cat!") == Positions((0,), (1, 2), (3,), tuple(range(4, 77)))


def test_words_are_found_with_all_their_tokens(tmp_path):
    tokenizer = clip_tokenizer(tmp_path, "!")
    assert tokenizer.tokenize("a cat, dogs") == ["a</w>", "cat</w>", ",</w>", "dog", "s</w>"]
    assert word_positions(tokenizer, "A  Cat, dogs") == (("A", (1,)), ("Cat", (2,)), ("dogs", (4, 5)))
    assert phrase_positions(tokenizer, "a cat, dogs", "Dogs") == (4, 5)
    assert phrase_positions(tokenizer, "dogs cat dog", "dog") == (4,)  # whole words only
    assert phrase_positions(tokenizer, "a dogs  cat", "dogs cat") == (2, 3, 4)


def test_words_that_are_cut_off_have_no_place(tmp_path):
    tokenizer = clip_tokenizer(tmp_path, "!", limit=4)
    assert word_positions(tokenizer, "a dogs cat") == (("a", (1,)), ("dogs", (2,)), ("cat", ()))
    assert word_positions(tokenizer, "a dogs cat", 6)[1:] == (("dogs", (2, 3)), ("cat", (4,)))
    assert phrase_positions(tokenizer, "a dogs cat", "cat") == ()


def test_words_of_t5(make_pipe):
    tokenizer = make_pipe("pixart").tokenizer
    assert word_positions(tokenizer, "a red cat", 8) == (("a", (0,)), ("red", (1, 2, 3)), ("cat", (4, 5, 6)))
    assert phrase_positions(tokenizer, "a red cat", "red") == (1, 2, 3)


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_every_word_token_belongs_to_one_word(make_pipe, kind):
    tokenizer, prompt = make_pipe(kind).tokenizer, "a red cat above a blue house"
    found = [position for _, places in word_positions(tokenizer, prompt) for position in places]
    assert tuple(found) == positions(tokenizer, prompt).sem


@pytest.mark.parametrize("phrase", ["dog", "ca", "", "cat a"])
def test_words_that_do_not_occur_are_refused(make_pipe, phrase):
    with pytest.raises(ShapefirstError, match="do not occur"):
        phrase_positions(make_pipe().tokenizer, "a cat", phrase)


class Words:
    """A tokenizer that ends no prompt."""

    is_fast = False
    bos_token_id, model_max_length = None, 8

    def __init__(self, end):
        self.eos_token_id = end

    def __call__(self, prompt, **_):
        return type("Encoded", (), {"input_ids": [5] * len(prompt.split())})


def test_a_tokenizer_without_an_end_is_refused():
    for end in (None, 7):
        with pytest.raises(ShapefirstError, match=r"Words does not end a prompt with \[EOS\]"):
            positions(Words(end), "a cat")


def test_a_tokenizer_that_hides_its_letters_is_refused():
    with pytest.raises(ShapefirstError, match="fast tokenizer"):
        word_positions(Words(7), "a cat")
