"""PromptSet, S-PromptSet, captions and plain text: what is read, what is drawn, what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shapefirst.errors import ShapefirstError
from shapefirst.files import content_of
from shapefirst.prompts import (
    Prompt,
    as_lines,
    compbench,
    every_phrase,
    lines,
    make_pairs,
    mixed,
    parse_phrases,
    parse_prompts,
    read_captions,
    read_pairs,
    read_prompts,
    sample,
)
from shapefirst.prompts.lines import read_text
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS, TEXTURES

COLOUR = "a green bench and a red car\r\na brown cat and a red orange\r\nA black cat is inside a white toilet.\r\n"
TEXTURE = "a wooden spoon and rubber gloves\na fluffy teddy bear and a glass jar\n"
COMPLEX = "The red hat was on top of the coat rack.\nThe cold snow fell.\nThe cold snow fell.\n"


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a green bench and a red car", (("green", "bench"), ("red", "car"))),
        ("an orange cat", (("orange", "cat"),)),
        ("a red orange and a plastic glass", (("red", "orange"), ("plastic", "glass"))),
        ("rubber gloves and A Wooden Spoon.", (("rubber", "gloves"), ("wooden", "spoon"))),
        ("a fluffy teddy bear on the left of a glass jar", (("fluffy", "teddy bear"), ("glass", "jar"))),
        ("A black cat is inside a white toilet.", ()),
        ("a black and white cat", ()),
        ("a red black ladder", ()),
        ("a dog and a red cat", ()),
        ("a red", ()),
        ("", ()),
    ],
)
def test_phrases_are_read_from_prompts_of_noun_phrases_alone(text, phrases):
    assert parse_phrases(text) == phrases


def test_every_attribute_meets_every_noun():
    prompts = every_phrase()
    assert len({prompt.text for prompt in prompts}) == len(ATTRIBUTES) * len(NOUNS)
    assert {prompt.source for prompt in prompts} == {"colour", "texture"}
    assert sum(prompt.source == "texture" for prompt in prompts) == len(TEXTURES) * len(NOUNS)
    assert every_phrase(["red", "shiny "], ["car"]) == [
        Prompt("a red car", (("red", "car"),), "colour"),
        Prompt("a shiny car", (("shiny", "car"),), "text"),
    ]


@pytest.mark.parametrize("lists", [([], ["car"]), (["red"], []), (["red", " "], ["car"])])
def test_an_empty_word_is_refused(lists):
    with pytest.raises(ShapefirstError, match="empty"):
        every_phrase(*lists)


def test_what_pocket_writes_is_read_again():
    assert all(parse_phrases(prompt.text) == prompt.phrases for prompt in every_phrase())


def test_promptset_takes_the_phrases_of_colour_and_texture_files_and_the_lines_of_complex_ones(file):
    prompts = compbench([file("c", COLOUR)], [file("t", TEXTURE)], [file("x", COMPLEX)])
    by_source = {source: [p.text for p in prompts if p.source == source] for source in ("colour", "texture", "complex")}
    assert by_source == {
        "colour": ["a green bench", "a red car", "a brown cat", "a red orange"],
        "texture": ["a wooden spoon", "a rubber gloves", "a fluffy teddy bear", "a glass jar"],
        "complex": ["The red hat was on top of the coat rack.", "The cold snow fell."],
    }


def test_promptset_draws_what_is_asked_for(file):
    sizes = {"colour": 2, "texture": 1, "complex": 1}
    files = {"colour": [file("c", COLOUR)], "texture": [file("t", TEXTURE)], "complex": [file("x", COMPLEX)]}
    drawn = compbench(**files, sizes=sizes, seed=1)
    assert [p.source for p in drawn] == ["colour", "colour", "texture", "complex"]
    assert drawn == compbench(**files, sizes=sizes, seed=1)
    assert len({tuple(compbench(**files, sizes=sizes, seed=seed)) for seed in range(10)}) > 1


def test_new_combinations_fill_up_only_what_is_missing(file):
    files = {"colour": [file("c", COLOUR)], "texture": [file("t", TEXTURE)]}
    prompts = compbench(**files, sizes={"colour": 10, "texture": 4, "complex": 0}, combine=True)
    assert compbench(**files) == [p for p in prompts if p in compbench(**files)]
    assert sum(p.source == "colour" for p in prompts) == 10
    assert sum(p.source == "texture" for p in prompts) == 4
    assert len({p.text for p in prompts}) == len(prompts)
    assert {p.phrases[0][0] for p in prompts if p.source == "colour"} == {"green", "red", "brown"}


def test_promptset_says_what_is_wrong_with_its_files(file):
    with pytest.raises(ShapefirstError, match="at least one of"):
        compbench()
    with pytest.raises(ShapefirstError, match="no texture phrase"):
        compbench(texture=[file("c", COLOUR)])
    with pytest.raises(ShapefirstError, match="no prompt in"):
        compbench(complex=[file("empty", "\n")])


@given(st.lists(st.integers()), st.integers(0, 30), st.integers(0, 30), st.integers(0, 9))
def test_a_smaller_draw_is_part_of_a_larger_one_in_the_same_order(items, size, more, seed):
    small, large = (sample(enumerate(items), n, seed) for n in (size, size + more))
    assert len(small) == min(size, len(items))
    assert small == [item for item in large if item in small]
    assert sample(items, None, seed) == items


@given(st.integers(0, 100), st.integers(1, 100))
@settings(deadline=None, max_examples=30)
def test_pairs_share_neither_noun_nor_attribute_and_none_comes_twice(seed, count):
    prompts = every_phrase(["red", "blue", "glass"], ["car", "cat", "glass"])
    pairs = make_pairs(prompts, count, seed)
    for pair in pairs:
        assert not set(pair.source.phrases[0]) & set(pair.target.phrases[0])
    assert len(set(pairs)) == len(pairs)
    assert pairs == make_pairs(prompts, 100, seed)[:count]


def test_every_prompt_is_a_source_once_before_one_is_again():
    prompts = every_phrase(["red", "blue"], ["car", "cat", "dog"])
    assert {pair.source for pair in make_pairs(prompts)} == set(prompts)
    assert len(make_pairs(prompts, 10**6)) == len(prompts) * 2  # the other colour's other nouns: all there are


def test_freer_prompts_are_paired_by_their_words():
    prompts = parse_prompts(["The dog sat on the bench.", "Two dogs in the rain", "A horse on the moon"])
    horse = prompts[2].text
    assert all(horse in (pair.source.text, pair.target.text) for pair in make_pairs(prompts, 9))
    assert len(make_pairs(prompts, 9)) == 4


@pytest.mark.parametrize(
    ("texts", "count", "message"),
    [
        (["a red car"], None, "only 1"),
        (["a red car", "a red car"], None, "only 1"),
        (["a red car", "a red cat", "a blue car"][:2], None, "No two of the prompts"),
        (["a red car", "a blue cat"], 0, "at least 1"),
    ],
)
def test_impossible_pairs_are_refused(texts, count, message):
    with pytest.raises(ShapefirstError, match=message):
        make_pairs(parse_prompts(texts), count)


def test_captions_from_csv(file):
    for column in ("prompt", "caption"):
        path = file("captions.csv", f'\ufeffimage_id,{column}\n1,"A dog,\nsitting. "\n1,A second one\n2,A cat.\n3,\n')
        assert {p.text for p in read_captions(path)} <= {"A dog, sitting.", "A second one", "A cat."}
        assert len(read_captions(path)) == 2
        assert len(read_captions(path, 1)) == 1
    assert len(read_captions(file("plain.csv", "caption\nA dog\nA cat\nA dog\n"))) == 3


def test_captions_from_the_official_json(file):
    annotations = [{"image_id": i // 5, "id": i, "caption": f"Caption {i}"} for i in range(20)]
    path = file("captions_val2014.json", json.dumps({"images": [], "annotations": annotations}))
    captions = read_captions(path)
    assert [int(p.text.split()[1]) // 5 for p in captions] == [0, 1, 2, 3]
    assert {p.source for p in captions} == {"coco"}
    assert captions == read_captions(path)
    assert len({tuple(read_captions(path, seed=seed)) for seed in range(10)}) > 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no caption"),
        ("prompt\n", "no caption"),
        ("words\nA dog\n", "no column"),
        ('prompt\n"A dog\n', "not CSV"),
        ("{", "not JSON"),
        ('{"captions": []}', "annotations"),
        ("[1]", "entry 1 lacks a prompt, caption or text: 1"),
        ('{"annotations": []}', "no caption"),
        (b"prompt\n\xff\n", "not UTF-8"),
        ("caption\nA dog\n".encode("utf-16"), "not UTF-8"),
        ("caption\nA dog\n".encode("utf-16-le"), "no column"),
        ("id,caption\n1,A dog, sitting\n", "row 1 has 3 of the header's 2 cells"),
        ("id,caption\n1,A dog\n2\n", "row 2 has 1 of the header's 2 cells"),
        ("caption\n" + "a" * 200_000, "not CSV"),
        ("caption\nA dog\n" + "a " * 6000, "caption of row 2.*11,999 characters"),
        ("[" * 200_000, "not JSON"),
        ('{"annotations": [{"image_id": ' + "1" * 5000 + "}]}", "not JSON"),
        ('{"annotations": {"a": 1}}', "annotations"),
        ('{"annotations": [3]}', "annotation 1 lacks MS-COCO's image_id and caption: 3"),
        ('{"annotations": [{"image_id": 1, "bbox": [1, 2]}]}', "annotation 1 lacks"),
        ('{"annotations": [{"caption": "A dog"}]}', "annotation 1 lacks"),
        ('{"images": [{"cocoid": 1, "sentences": [{"tokens": ["a", "dog"]}]}]}', "image 1 lacks sentences"),
        ('{"images": [{"cocoid": 1, "sentences": [{"raw": ["a"]}]}]}', 'image 1 has ."a"'),
        ('{"images": [{"file_name": "1.jpg"}]}', "image 1 lacks sentences"),
        ('{"caption": "A dog"}\n{"caption": \n', "not JSON"),
        ('{"caption": "A dog"}\n{"title": "A cat"}\n', "entry 2 lacks a prompt, caption or text"),
        ('{"caption": "A dog"}\n{"caption": 3}\n', "entry 2 has 3 where"),
        ('{"caption": "A dog"}\n' + "[" * 200_000, "not JSON"),
        ('["A dog", "A cat"]', "entry 1 lacks"),
        ("id\ttext\n1\tA dog\t2\n", "row 1 has 3 of the header's 2 cells"),
    ],
)
def test_bad_caption_files_are_refused(file, content, message):
    with pytest.raises(ShapefirstError, match=message):
        read_captions(file("captions", content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "Prompt\tCategory\nA dog\tanimals\nA cat, too\tanimals\n"),
        ("a.tsv", 'id\tcaption\n1\t"A dog"\n2\t"A cat, too"\n'),
        ("a.csv", 'id,text\n1,A dog\n2,"A cat, too"\n'),
        ("a.jsonl", '{"prompt": "A dog"}\n\n{"prompt": "A cat, too", "id": 2}\n'),
        ("a.ndjson", '{"id": 1, "text": "A dog"}\r\n{"id": 2, "text": "A cat, too"}'),
        ("a.json", '[{"caption": "A dog", "image_id": 3}, {"caption": "A cat, too"}]'),
        ("a.json", '{"images": [{"sentences": [{"raw": "A dog"}]}, {"sentences": [{"raw": "A cat, too"}]}]}'),
        ("a", '\ufeffCAPTION\r\nA dog\r\n"A cat, too"\r\n'),
    ],
)
def test_captions_come_in_many_files(file, name, content):
    path = file(name, content)
    assert [prompt.text for prompt in read_captions(path)] == ["A dog", "A cat, too"]
    with pytest.raises(ShapefirstError, match=r"`shapefirst prompts coco` makes lines of captions"):
        read_prompts(path)


def test_a_line_with_a_tab_is_no_prompt(file):
    with pytest.raises(ShapefirstError, match=r"Line 1 of .* has a tab in it, as a table or pairs"):
        read_prompts(file("pairs.tsv", "a red car\ta blue cat\n"))


def test_one_sentence_of_each_photograph_of_karpathys(file):
    images = [{"sentences": [{"raw": f"{a} {b}"} for b in range(5)]} for a in range(6)]
    found = read_captions(file("dataset_coco.json", json.dumps({"dataset": "coco", "images": images})))
    assert [prompt.text[0] for prompt in found] == list("012345")


def test_a_single_line_of_json_lines_is_one_caption(file):
    assert [prompt.text for prompt in read_captions(file("a.jsonl", '{"prompt": "A dog"}'))] == ["A dog"]


def test_a_pipe_is_read_to_its_end_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_prompts, read_pairs, read_captions):
        with pytest.raises(ShapefirstError, match=r"There is no"):
            read(tmp_path / "pipe")
    command = f"sleep 0.3; echo a cat > {tmp_path / 'pipe'}"
    open_end = os.open(tmp_path / "pipe", os.O_RDWR)  # as a shell has opened what it substitutes
    with subprocess.Popen(["sh", "-c", command]) as writer:
        threading.Timer(0.6, lambda: (writer.wait(), os.close(open_end))).start()
        assert read_prompts(tmp_path / "pipe") == ["a cat"]


def test_a_file_without_end_is_read_to_a_bound(monkeypatch):
    monkeypatch.setattr(lines, "_LARGEST", 10_000)
    with pytest.raises(ShapefirstError, match="more than"):
        read_prompts("/dev/zero")


@pytest.mark.parametrize("line", ["[" + " " * 100_000 + "x", "[" + "1, " * 100_000 + "x"])
def test_a_line_of_any_length_is_refused_at_once(file, line):
    with pytest.raises(ShapefirstError, match="a prompt at most 10,000"):
        read_prompts(file("a.txt", line))
    path = file("a.json", coco("A dog", line.replace(" ", "")))
    with pytest.raises(ShapefirstError, match="a prompt at most 10,000") if "1" in line else nullcontext():
        read_captions(path)


def coco(*captions):
    """MS-COCO's JSON, a photograph for each caption; what is no ASCII is escaped, as half an emoji can only be."""
    return json.dumps({"annotations": [{"image_id": i, "caption": caption} for i, caption in enumerate(captions)]})


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        (None, "null"),
        (["one", "two"], '["one", "two"]'),
        (["a", "dog", "."], '["a", "dog", "."]'),
        ([], "[]"),
        (3, "3"),
        (1.5, "1.5"),
        (float("nan"), "NaN"),
        (True, "true"),
        ({"raw": "A dog", "tokens": []}, '{"raw": "A dog", "tokens": []}'),
        ([["A dog"]], '[["A dog"]]'),
        ("None", '"None"'),
        ("['one', 'two']", "\"['one', 'two']\""),
    ],
)
def test_what_is_no_text_becomes_no_prompt(file, caption, found):
    path = file("captions.json", coco("A dog", "A cat", caption))
    with pytest.raises(ShapefirstError) as refused:
        read_captions(path)
    where = (
        f"Cannot read captions from {str(path)!r}: annotation 3 has {found} where the text of one caption should be."
    )
    assert str(refused.value) == where


@pytest.mark.parametrize(
    "cell",
    ["None", "nan", "NULL", "True", "['one', 'two']", '["one"]', "[]", "{'raw': 'A dog'}", "[101, 7592]", "3", "-1.5"],
)
def test_nor_does_a_cell_in_which_a_program_wrote_no_text(file, cell):
    quoted = cell.replace('"', '""')
    path = file("captions.csv", f'image_id,caption\n1,A dog\n2," {quoted} "\n')
    with pytest.raises(ShapefirstError, match=r"captions\.csv': row 2 has .* where the text of one caption should be"):
        read_captions(path)


@pytest.mark.parametrize("photograph", [None, True, 1.5, [1], {"id": 1}])
def test_a_photograph_that_has_no_name_is_not_taken_for_another_one(file, photograph):
    path = file("captions.json", json.dumps({"annotations": [{"image_id": photograph, "caption": "A dog"}] * 2}))
    with pytest.raises(ShapefirstError, match=r"annotation 1 has .* for its image_id"):
        read_captions(path)


def test_blank_captions_are_skipped_and_no_line_is_a_photograph(file):
    assert [p.text for p in read_captions(file("a.json", coco("A dog", "", " \n", "#", "A cat")))] == ["A dog", "A cat"]
    rows = "image_id,caption\nline 1,A dog\n,A cat\n,A bird\nline 1,A dog\n"
    assert sorted(p.text for p in read_captions(file("a.csv", rows))) == ["A bird", "A cat", "A dog"]


TEXTS = [
    "a 😀 and a 👩‍👩‍👧",
    "סוס על הירח",
    "مرحبا بالعالم",
    "e\u0301 und é",
    "हिन्दी 奶酪",
    "[a] dog, 'None' of them",
    "1984",
    "{x}",
]


def test_any_writing_is_read_as_it_stands(file):
    assert [p.text for p in read_captions(file("a.json", coco(*TEXTS[:-2])))] == TEXTS[:-2]
    assert read_prompts(file("a.txt", "\n".join(TEXTS))) == TEXTS
    pairs = read_pairs(file("a.tsv", "\n".join(f"{text}\t{text}" for text in TEXTS)))
    assert [pair.target.text for pair in pairs] == TEXTS


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("a dog \ud83d", r"is not UTF-8 text: 'a dog \\ud83d'"),
        ("\ude00 a dog", r"is not UTF-8 text: '\\ude00 a dog'"),
        ("a\0dog", r"control character U\+0000: 'a\\x00dog'"),
        ("a\x1b[31mdog", r"control character U\+001B"),
        ("a dog\x7f", r"control character U\+007F"),
        ("don\x92t", r"control character U\+0092: 'don\\x92t'"),
    ],
)
def test_half_an_emoji_and_control_characters_are_refused_where_they_stand(file, wrong, why):
    with pytest.raises(ShapefirstError, match=f"The caption of annotation 2 of .*a.json' .*{why}"):
        read_captions(file("a.json", coco("A cat", wrong)))
    if "\ud800" <= max(wrong) <= "\udfff":
        return  # no file of text can hold it
    with pytest.raises(ShapefirstError, match=f"The caption of row 2 of .*{why}|line contains NUL"):
        read_captions(file("a.csv", f"caption\nA cat\n{wrong}\n"))
    with pytest.raises(ShapefirstError, match=f"Line 3 of .*a.txt' .*{why}"):
        read_prompts(file("a.txt", f"# two\nA cat\n{wrong}\n"))
    with pytest.raises(ShapefirstError, match=f"Line 2 of .*a.tsv' .*{why}"):
        read_pairs(file("a.tsv", f"A cat\tA dog\nA bird\t{wrong}\n"))


def test_half_an_emoji_beside_its_other_half_is_whole(file):
    content = '{"annotations": [{"image_id": 1, "caption": "a \\ud83d\\ude00"}]}'
    assert [p.text for p in read_captions(file("a.json", content))] == ["a 😀"]


def test_marks_of_byte_order_are_no_text_wherever_they_stand(file):
    assert read_prompts(file("a.txt", "\ufeffa dog\n\ufeffa cat\n")) == ["a dog", "a cat"]
    assert [p.text for p in read_captions(file("a.json", "\ufeff" + coco("A dog")))] == ["A dog"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "shift-jis"])
def test_text_in_another_encoding_is_refused(file, encoding):
    path = file("a.txt", ("café\n" if encoding in ("latin-1", "cp1252") else "チーズ\n").encode(encoding))
    with pytest.raises(ShapefirstError, match=r"a\.txt.*(it is not UTF-8 text, so save it as such|control character)"):
        read_prompts(path)


def test_lines_end_where_every_editor_ends_them(file):
    assert read_prompts(file("a.txt", "a\r\nb\rc\n\nd \u2028 e\nf")) == ["a", "b", "c", "d \u2028 e", "f"]
    assert as_lines(parse_prompts(["d \u2028 e"])) == "d e\n"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (json.dumps({"annotations": [{"image_id": 1, "caption": "A dog"}]}, indent=1), "JSON is in .* not prompts"),
        (json.dumps(["A dog"]), "JSON is in"),
        ('{"caption": "A dog"}\n{"caption": "A cat"}\n', "JSON is in"),
        ("image_id,prompt\n1,A dog\n", "A table is in .* not prompts"),
        ('"caption"\nA dog\n', "A table is in"),
        ("id\tCaption\n1\tA dog\n", "A table is in"),
        ("A dog\nNone\n", "Line 2 of .* is no prompt"),
        ("A dog\n\n['A cat', 'A bird']\n", "Line 3 of .* is no prompt"),
        ("A dog\nnan\n", "Line 2"),
        ("A dog\n" + "a " * 5001, "Line 2 .* has 10,001 characters"),
    ],
)
def test_data_in_place_of_lines_is_refused(file, content, why):
    with pytest.raises(ShapefirstError, match=why):
        read_prompts(file("a.txt", content))
    if not content.startswith("A dog"):
        with pytest.raises(ShapefirstError, match=r"no pair|not pairs"):
            read_pairs(file("a.txt", content))


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=4), st.sampled_from(["json", "csv", "text"])
)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_says_is_a_prompt_of_its_own_words_or_refused(tmp_path, texts, kind):
    path = tmp_path / "captions"
    rows = io.StringIO(newline="")
    csv.writer(rows).writerows([["caption"], *([text] for text in texts)])
    content = {"json": coco(*texts), "csv": rows.getvalue(), "text": "\n".join(texts)}[kind]
    path.write_text(content, encoding="utf-8", newline="")
    try:
        found = read_prompts(path) if kind == "text" else [p.text for p in read_captions(path)]
    except ShapefirstError as error:
        said = str(error)
    else:
        said = ""
        words = ["".join(text.replace("\ufeff", "").split()) for text in texts]
        if kind == "text":
            assert all("".join(text.split()) in "".join(words) for text in found)
        else:
            assert ["".join(text.split()) for text in found] == [word for word in words if word.strip("#")]
        assert as_lines(parse_prompts(found)).encode()
    assert "\n" not in said


@given(st.binary(max_size=60))
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_give_prompts_or_one_sentence(tmp_path, content):
    path = tmp_path / "bytes"
    path.write_bytes(content)
    for read in (read_prompts, read_pairs, read_captions):
        try:
            found = read(path)
        except ShapefirstError as error:
            found = str(error)
        assert found
        assert "\n" not in found


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ShapefirstError, match=r"absent\.csv': No such file"):
        read_captions(tmp_path / "absent.csv")


def test_prompts_and_pairs_are_read_as_they_were_written(file):
    prompts = every_phrase(["red", "blue"], ["car", "cat"])
    assert parse_prompts(read_prompts(file("prompts.txt", as_lines(prompts)))) == [
        Prompt(prompt.text, prompt.phrases) for prompt in prompts
    ]
    pairs = make_pairs(prompts)
    again = read_pairs(file("pairs.tsv", "# source\ttarget\n" + as_lines(pairs)))
    assert [(p.source.text, p.target.text) for p in again] == [(p.source.text, p.target.text) for p in pairs]
    assert as_lines([Prompt("# 1  dog\n runs")]) == "1 dog runs\n"


@pytest.mark.parametrize(
    ("content", "message"), [("a cat\n", "no pair of prompts"), ("a\tb\tc\n", "no pair"), ("", "no pair in")]
)
def test_a_line_that_is_no_pair_is_refused(file, content, message):
    with pytest.raises(ShapefirstError, match=message):
        read_pairs(file("pairs.tsv", content))


@pytest.mark.parametrize(("raw", "expected"), [(b"\xef\xbb\xbfa red car\n", ["a red car"]), (b"a r\xe9d car\n", None)])
def test_stdin_is_utf_8_with_or_without_its_mark(monkeypatch, raw, expected):
    stdin = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", stdin)
    if expected is None:
        with pytest.raises(ShapefirstError, match="Cannot read prompts from stdin: it is not UTF-8 text"):
            read_prompts("-")
    else:
        assert read_prompts("-") == expected


@pytest.mark.parametrize("count", [1, 64, 1000, 10_000])
def test_mixed_prompts_are_distinct_also_when_single_objects_have_run_out(count):
    prompts = mixed(count, seed=3)
    assert len(set(prompts)) == len(prompts) == count
    pairs = [len(parse_phrases(prompt)) == 2 for prompt in prompts]
    assert sum(pairs) == count // 3 if count <= 1000 else sum(pairs) == count - len(ATTRIBUTES) * len(NOUNS)
    assert mixed(count // 2 + 1, seed=3) == prompts[: count // 2 + 1]
    with pytest.raises(ShapefirstError, match="10000"):
        mixed(10_001, seed=0)


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="the kernel's log is not to be read here")
def test_a_log_that_never_ends_is_read_as_far_as_it_goes():
    assert isinstance(read_text(Path("/proc/kmsg"), "the prompts"), str)
    assert content_of(Path("/proc/kmsg")) == b""
