"""Scores in what language models say: read where they are stated, nan where they are not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapefirst.measure.answers import parse_score


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Score: 4", 4),
        ("**Score:** 4", 4),
        ("score = 3", 3),
        ("Score: 4.5", 4.5),
        ("Score: 4,5", 4.5),
        ("Score (1-5): 3", 3),
        ("Score: four", 4),
        ("Score: 4/5", 4),
        ("Score: 4 (out of 5)", 4),
        ("Rating: 2 out of 5.", 2),
        ("The score is: 5", 5),
        ("4/5", 4),
        ("4 / 5 stars", 4),
        ("I'd say 3.5/5.", 3.5),
        ("three out of five", 3),
        ("four", 4),
        ("Four.", 4),
        ("4", 4),
        ("  4.  ", 4),
        ("4 stars", 4),
        ("four and a half", 4.5),
        ("4, because the bench is there.", 4),
        ("5. Everything is there.", 5),
        ('{"score": 4, "explanation": "2 of 3 cats"}', 4),
        ('```json\n{"explanation": "2 cats", "score": "3/5"}\n```', 3),
        ("{'score': 2}", 2),
        ("The image shows 3 cats and 2 dogs, so I would rate it 4.", 4),
        ("There are 2 cars. I would give this image a score of 3 out of 5.", 3),
        ("On a scale of 1 to 5, I would rate this a 2 because 3 of the objects are missing.", 2),
        ("I give it a four.", 4),
        ("I would rate this one a 4.", 4),
        ("It deserves a rating of 5.", 5),
        ("1. A red car\n2. A tree\nScore: 3", 3),
        ("First I thought Score: 2, but looking again, Score: 4", 4),
        ("I cannot see the bench well.\nScore: 2", 2),
        ("The description fits.\n\n4", 4),
    ],
)
def test_a_stated_score_is_read(answer, score):
    assert parse_score(answer) == score


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I'm sorry, but I cannot rate this image.",
        "I can’t give a score from 1 to 5 for this.",
        "As an AI model I am unable to evaluate images on a scale of 1 to 5.",
        "There are 2 cats in the picture.",
        "The image shows three apples and one pear.",
        "1. A red car\n2. A tree",
        "Score: 8/10",
        "Score: 80/100",
        "On a scale of 1 to 10, I would rate it 4.",
        "8 out of 10",
        "Score: 7",
        "Score: 0",
        "Score: -3",
        "Score: N/A",
        "Score: 40%",
        "between 3-4",
        "In 2024 the car had 4 wheels.",
        "A green bench stands in a park",
    ],
)
def test_what_is_no_score_is_nan(answer):
    assert math.isnan(parse_score(answer))


@given(
    st.sampled_from([1, 2, 3, 4, 5, 1.5, 4.5]),
    st.sampled_from(["Score: {}", "score={}", '{{"score": {}}}', "{}/5", "**Score: {}/5**", "{}", "I rate it {}."]),
    st.sampled_from(["", "\n", "The image shows 3 cats.\n", "A car, a tree and two benches. "]),
)
def test_the_usual_forms_come_back_after_any_description(score, form, before):
    if form == "{}" and before.endswith(" "):
        before = before.strip() + "\n"
    assert parse_score(before + form.format(score)) == score


@given(st.text(max_size=60))
def test_any_text_gives_a_score_on_the_scale_or_nan(answer):
    score = parse_score(answer)
    assert math.isnan(score) or 1 <= score <= 5
