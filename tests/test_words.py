"""What a word is, and which spellings are one."""

from __future__ import annotations

import re
import unicodedata

import pytest
from alphabets import TEXTS
from hypothesis import example, given
from hypothesis import strategies as st

from shapefirst.words import find_words, folded, spans, words_in


def words(text):
    return [text[start:end] for start, end in spans(text)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1girl, long_hair, (red:1.3) BREAK", ["1girl", "long", "hair", "red", "1", "3", "BREAK"]),
        ("it's O’Neil’s t-shirt", ["it's", "O’Neil’s", "t-shirt"]),
        ("red—blue, red - blue -", ["red", "blue", "red", "blue"]),
        ("caf\u00e9 cafe\u0301", ["caf\u00e9", "cafe\u0301"]),
        ("हिन्दी शब्द", ["हिन्दी", "शब्द"]),
        ("สวัสดี שָׁלוֹם", ["สวัสดี", "שָׁלוֹם"]),
        ("क\u094d\u200dष a\u00adb red\u200e", ["क\u094d\u200dष", "a\u00adb", "red"]),
        ("red\u200bcar", ["red", "car"]),
        ("🙂 👨\u200d👩 ❤\ufe0f !!! \u0301", []),
        ("", []),
    ],
)
def test_words_of_any_script(text, wanted):
    assert words(text) == wanted


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("it’s", "it's"),
        ("it's", "it’s"),
        ("пʼять", "п'ять"),
        ("red–blue", "red-blue"),
        ("well\u2010known", "well-known"),
        ("caf\u00e9", "CAFE\u0301"),
        ("cafe\u0323\u0301", "caf\u1eb9\u0301"),
        ("\uac01", "\u1100\u1161\u11a8"),
        ("Straße", "STRASSE"),
        ("STRASSE", "straße"),
        ("İstanbul", "istanbul"),
        ("İSTANBUL", "i\u0307stanbul"),
        ("ışık", "IŞIK"),
        ("ΟΔΟΣ", "οδος"),
        ("ha\u00adir", "hair"),
        ("नमस\u094d\u200dते", "नमस\u094dते"),
        ("long_hair", "long hair"),
        ("long \n hair", "long_hair"),
        ("(red:1.3)", "(red:1.3)"),
    ],
)
def test_spellings_of_one_phrase(text, phrase):
    assert find_words(text, phrase) == (0, len(text))
    assert find_words(f"ab {text}, x", phrase) == (3, 3 + len(text))


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("caf\u00e9", "cafe"),
        ("cafe\u0301", "cafe"),
        ("\uac01", "\uac00"),
        ("Straße", "stras"),
        ("हिन\u094d", "हिन"),
        ("red\u200dder", "red"),
        ("reddish", "red"),
        ("a cat", " _ "),
        ("a cat", ""),
    ],
)
def test_what_is_a_part_of_a_word_is_not_found(text, phrase):
    assert find_words(text, phrase) is None


def test_what_is_invisible_around_a_phrase_is_no_part_of_it():
    assert find_words("a ❤\ufe0f car", "❤") == (2, 3)
    assert find_words("a \u200ered\u200f car", "RED") == (3, 6)


def test_a_word_comes_before_a_part_of_a_compound():
    assert find_words("a well-known well", "well") == (13, 17)
    assert find_words("a well-known inn", "well") == (2, 6)
    assert find_words("red–blue red-blue", "red-blue") == (9, 17)
    assert find_words("a well-known well known", "well known") == (13, 23)


def test_what_is_set_apart_is_a_word_by_itself():
    text = "a <cat-toy>like toy"
    apart = [(2, 11)]
    assert [text[a:b] for a, b in spans(text, apart)] == ["a", "like", "toy"]
    assert find_words(text, "<cat-toy>", apart) == (2, 11)
    assert find_words(text, "like", apart) == (11, 15)
    assert find_words(text, "toy", apart) == (16, 19)


@given(TEXTS)
@example("ʼ it's 'a")
@example("a\u200bb ab")
@example("i\u0307 ı")
def test_every_word_is_found_where_it_first_stands(text):
    first: dict[str, tuple[int, int]] = {}
    for start, end in spans(text):
        word = text[start:end]
        assert find_words(text, word) == first.setdefault(folded(word), (start, end))


@given(TEXTS)
def test_words_are_the_same_composed_and_decomposed(text):
    assert words_in(unicodedata.normalize("NFC", text)) == words_in(unicodedata.normalize("NFD", text))


@given(st.text(alphabet="ab1 -',.()é\n", max_size=30))
def test_in_latin_they_are_what_the_plain_expression_finds(text):
    assert words(text) == re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text)
