"""Where tokens stand, for CLIP and T5."""

from __future__ import annotations

import copy
import json
import unicodedata

import pytest
from alphabets import TEXTS, bytes_of_clip, ids_read, pieces_of_t5, reading_with, with_inversion
from hypothesis import example, given
from transformers import CLIPTokenizer

from shapefirst.errors import ShapefirstError
from shapefirst.images.jobs import cut_text
from shapefirst.prompts.tokens import Positions, overflow, phrase_positions, positions, preprocessed, word_positions
from shapefirst.sampling.loop import encode
from shapefirst.words import folded


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


# --- real prompts ---------------------------------------------------------------------------------------------------

PROMPTS = (
    "a red car",
    "1girl, long_hair, (red:1.3), [blue], BREAK, masterpiece",
    "a red car!!! ! a dog!",
    "cafe\u0301 cr\u00e8me, हिन्दी शब्द, it’s",
    "a\nred\t\tcar \r\n \u00a0 dog",
    "🙂 a 👨\u200d👩 car 🙂",
    "a <|endoftext|> car",
    "<|startoftext|> red <|endoftext|>",
    "!?.,",
    " ",
    "a red car, " * 20,
    "हिन्दी " * 20,
)


@pytest.fixture(scope="module")
def by_bytes(tmp_path_factory):
    return bytes_of_clip(tmp_path_factory.mktemp("bytes"), limit=10_000)


@pytest.fixture(scope="module")
def every_tokenizer(by_bytes, tmp_path_factory):
    """CLIP's, padding with [EOS] and with "!"; one that knows few letters; and T5's."""
    few = clip_tokenizer(tmp_path_factory.mktemp("few"), "!", limit=10_000)
    return (by_bytes, bytes_of_clip(tmp_path_factory.mktemp("!"), "!", 10_000), few, pieces_of_t5(10_000))


@given(text=TEXTS)
@example(text="long_hair")
@example(text="ʼ it's ʼ")
@example(text="a <|endoftext|> !a! </s> <pad>")
def test_every_word_is_found_again_where_it_first_stands(every_tokenizer, text):
    for tokenizer in every_tokenizer:
        first = {}
        for word, places in word_positions(tokenizer, text):
            assert places
            assert phrase_positions(tokenizer, text, word) == first.setdefault(folded(word), places)


@given(text=TEXTS)
@example(text="cafe\u0323\u0301 İß \u1100\u1161\u11a8 \uac01")
def test_the_tokens_of_a_word_spell_it_and_nothing_else(by_bytes, text):
    """CLIP reads NFC in lower case, letter by letter, whatever was typed."""
    tokens = by_bytes.convert_ids_to_tokens(by_bytes(text).input_ids)
    for word, places in word_positions(by_bytes, text):
        assert places == tuple(range(places[0], places[-1] + 1))
        spelled = by_bytes.backend_tokenizer.decoder.decode([tokens[i].removesuffix("</w>") for i in places])
        assert spelled == "".join(letter.lower() for letter in unicodedata.normalize("NFC", word))


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_positions_are_those_of_what_the_text_encoder_is_given(make_pipe, tmp_path, prompt, pad):
    """[EOS], "!" and letters that are not known may be anywhere in a prompt."""
    for tokenizer in (bytes_of_clip(tmp_path, pad), clip_tokenizer(tmp_path, pad)):
        pipe = reading_with(make_pipe(), tokenizer)
        ids, at = ids_read(pipe, prompt), positions(tokenizer, prompt)
        assert at.sos + at.sem + at.eos + at.padding == tuple(range(77)) == tuple(range(len(ids)))
        assert [ids[i] for i in at.sos + at.eos] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
        assert [ids[i] for i in at.padding] == [tokenizer.pad_token_id] * len(at.padding)
        own = tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        assert [ids[i] for i in at.sem] == own[:75]
        assert (overflow(tokenizer, prompt).cut != "") == (len(own) > 75)


def test_positions_are_those_of_what_t5_is_given(make_pipe):
    pipe = make_pipe("pixart")
    for prompt in (*PROMPTS, "red </s> car <pad>"):
        ids, at = (
            ids_read(pipe, prompt, use_resolution_binning=False),
            positions(pipe.tokenizer, preprocessed(pipe, prompt), 120),
        )
        assert len(ids) == 120
        assert ids[at.eos[0]] == pipe.tokenizer.eos_token_id
        assert [ids[i] for i in at.padding] == [pipe.tokenizer.pad_token_id] * len(at.padding)
        mask = encode(pipe, prompt).text_mask[0]
        assert mask.nonzero().flatten().tolist() == [*at.sem, *at.eos]


def test_stable_diffusion_2_pads_with_what_a_prompt_may_say(tmp_path):
    """Its tokenizer's files: two of them name a token to pad with, and the second is right."""
    bytes_of_clip(tmp_path)
    config = {"tokenizer_class": "CLIPTokenizer", "pad_token": "<|endoftext|>", "model_max_length": 77}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.pad_token_id, tokenizer.model_max_length) == (0, 77)
    assert tokenizer("a!! b").input_ids[2:4] == [0, 0]
    assert positions(tokenizer, "a!! b") == Positions((0,), (1, 2, 3, 4), (5,), tuple(range(6, 77)))
    assert word_positions(tokenizer, "a!! b!") == (("a", (1,)), ("b", (4,)))
    assert overflow(tokenizer, "a!! b!", 4).cut == "!b !"


def test_a_literal_end_token_is_no_word_but_can_be_found(by_bytes):
    prompt = "a <|endoftext|> b"
    assert word_positions(by_bytes, prompt) == (("a", (1,)), ("b", (3,)))
    assert phrase_positions(by_bytes, prompt, "<|endoftext|>") == (2,)


def test_a_word_of_letters_that_the_tokenizer_does_not_know_keeps_its_places(tmp_path):
    tokenizer = clip_tokenizer(tmp_path, "<|endoftext|>")
    assert tokenizer("caf\u00e9").input_ids.count(tokenizer.eos_token_id) > 1
    assert positions(tokenizer, "caf\u00e9 dog").eos == (6,)
    assert word_positions(tokenizer, "caf\u00e9 dog") == (("caf\u00e9", (1, 2, 3, 4)), ("dog", (5,)))
    assert "dog" in overflow(tokenizer, "dog " * 75 + "\u00e9 dog").cut


def test_t5_writes_the_blank_into_a_piece_which_is_no_letter():
    tokenizer = pieces_of_t5()
    prompt = "A cafe\u0301, 🙂dog \t red_car हिन्दी"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    found = {word: [tokens[i] for i in places] for word, places in word_positions(tokenizer, prompt)}
    assert found == {
        "A": ["<unk>"],
        "cafe\u0301": ["▁caf", "é"],
        "dog": ["d", "o", "g"],
        "red": ["▁red"],
        "car": ["c", "a", "r"],
        "हिन्दी": ["<unk>"],
    }
    assert tokens.count("▁") == 3  # before "A", the picture and the last word
    assert phrase_positions(tokenizer, "a red car", "red car") == (1, 2)


# --- textual inversion ----------------------------------------------------------------------------------------------


@pytest.fixture
def inverted(make_pipe, tmp_path):
    return with_inversion(reading_with(make_pipe(), bytes_of_clip(tmp_path)), "<cat-toy>", 3)


def test_an_inversion_is_one_word_with_a_token_for_each_vector(inverted):
    tokenizer, prompt = inverted.tokenizer, preprocessed(inverted, "a <cat-toy> and red")
    ids = ids_read(inverted, "a <cat-toy> and red")
    vectors = tuple(ids.index(tokenizer.convert_tokens_to_ids(f"<cat-toy>{n}")) for n in ("", "_1", "_2"))
    red = ids.index(tokenizer.convert_tokens_to_ids("r"))
    assert vectors == (2, 3, 4)
    assert word_positions(tokenizer, prompt) == (
        ("a", (1,)),
        ("<cat-toy>", vectors),
        ("and", (5, 6, 7)),
        ("red", (red, red + 1, red + 2)),
    )
    for phrase in ("<cat-toy>", "cat-toy", "toy", preprocessed(inverted, "<cat-toy>")):
        assert phrase_positions(tokenizer, prompt, phrase) == vectors
    assert phrase_positions(tokenizer, prompt, "a <cat-toy> and") == (1, *vectors, 5, 6, 7)
    assert positions(tokenizer, prompt).eos == (red + 3,)
    assert word_positions(tokenizer, prompt, 5)[1:] == (("<cat-toy>", (2, 3)), ("and", ()), ("red", ()))


def test_an_inversion_makes_a_prompt_longer(inverted):
    fits = "a " * 72
    assert cut_text(inverted, f"{fits} <cat-toy>") == ""
    assert cut_text(inverted, f"{fits} a <cat-toy> red").replace(" ", "") == "<cat-toy>_2red"
    assert ids_read(inverted, f"{fits} a <cat-toy> red")[75] == inverted.tokenizer.convert_tokens_to_ids("<cat-toy>_1")


def test_an_inversion_that_is_not_spelled_out_is_refused(inverted):
    for ask in (positions, overflow, word_positions):
        with pytest.raises(ShapefirstError, match=r"<cat-toy> has several vectors.*preprocessed\(pipe, prompt\)"):
            ask(inverted.tokenizer, "a <cat-toy>")


def test_an_inversion_of_one_vector_may_have_any_name(make_pipe, tmp_path):
    pipe = with_inversion(reading_with(make_pipe(), bytes_of_clip(tmp_path)), "cat", 1)
    assert preprocessed(pipe, "a category") == "a category"
    tokens = word_positions(pipe.tokenizer, "a category")
    assert tokens == (("a", (1,)), ("cat", (2,)), ("egory", (3, 4, 5, 6, 7)))
    assert phrase_positions(pipe.tokenizer, "a category", "category") == (2, 3, 4, 5, 6, 7)


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_without_a_limit_is_refused(make_pipe, tmp_path):
    """transformers says 1e30 where a tokenizer's files do not tell."""
    tokenizer = bytes_of_clip(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    endless = CLIPTokenizer.from_pretrained(tmp_path)
    assert endless.model_max_length > 1e29
    for ask in (positions, word_positions):
        with pytest.raises(ShapefirstError, match=r"does not say how many tokens.*model_max_length"):
            ask(endless, "a cat")
        assert ask(endless, "a cat", 77) == ask(tokenizer, "a cat")
    assert overflow(endless, "a cat " * 100).cut == ""
    with pytest.raises(ShapefirstError, match="does not say how many tokens"):
        encode(reading_with(make_pipe(), endless), "a cat")


def test_room_for_less_than_an_empty_prompt_is_refused(by_bytes):
    assert positions(by_bytes, "a cat", 2) == Positions((0,), (), (1,), ())
    with pytest.raises(ShapefirstError, match="takes 2 tokens, and there is room for 1 only"):
        positions(by_bytes, "a cat", 1)
    for limit in (0, -3):
        with pytest.raises(ShapefirstError, match=f"a whole number from 1 to 100000 or None, not {limit}"):
            positions(by_bytes, "a cat", limit)


def test_padding_in_front_is_refused(tmp_path):
    tokenizer = bytes_of_clip(tmp_path)
    tokenizer.padding_side = "left"
    with pytest.raises(ShapefirstError, match="pads in front of the prompt: set its padding_side to 'right'"):
        positions(tokenizer, "a cat")


def test_text_that_is_no_unicode_is_refused(by_bytes):
    for ask in (positions, overflow, word_positions):
        with pytest.raises(ShapefirstError, match=r"The prompt is not UTF-8 text: 'a \\udcff'"):
            ask(by_bytes, "a \udcff")
