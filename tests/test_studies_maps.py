"""The studies of attention maps: planted maps give known answers, and each study runs on every kind of pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from alphabets import bytes_of_clip, reading_with, with_inversion
from conftest import KINDS
from PIL import Image

from shapefirst.attention.recording import kl_divergence, record, substitute
from shapefirst.drawing.overlays import heat, overlay
from shapefirst.errors import ShapefirstError
from shapefirst.findings.finding import DoesNotApply, Finding
from shapefirst.measure.shapes import iou
from shapefirst.prompts import Pair, Prompt
from shapefirst.prompts.tokens import positions
from shapefirst.sampling.loop import denoise, encode, generators
from shapefirst.studies import a5_maps_of_keys, a7_switched_maps, f1_shape_first, f3_sos_attention
from shapefirst.studies.maps import Followed, Word, course, follow_words, shape_in, shape_of, step_at, words_of
from shapefirst.studies.subject import Meter, Subject
from shapefirst.studies.switching import encode_pairs

pytestmark = pytest.mark.usefixtures("few_will_do")

PROMPTS = [
    Prompt.of(("red", "car"), "colour"),
    Prompt.of(("wooden", "cup"), "texture"),
    Prompt("a red cat and a red dog", (("red", "cat"), ("red", "dog")), "complex"),
    Prompt("birds on the old bridge"),
]
PAIRS = [Pair(PROMPTS[0], PROMPTS[1]), Pair(PROMPTS[1], PROMPTS[2]), Pair(PROMPTS[3], PROMPTS[0])]
N = 5
SIXTEEN = 16
SKETCHED = pytest.mark.usefixtures("sketched")  # of what draws its charts in another test
GREY = Image.new("RGB", (16, 16), (128, 128, 128))


def subject_of(pipe: Any, name: str = "tiny", steps: int = N, **options: Any) -> Subject:
    return Subject(name, pipe, {}, steps=steps, batch_size=3, meter=Meter(), **options)


def blob(row: int, column: int, side: int = 5) -> np.ndarray:
    """A map with a bright square on a dim ground that is not quite even."""
    values = np.linspace(0.0, 0.05, SIXTEEN * SIXTEEN, dtype=np.float32).reshape(SIXTEEN, SIXTEEN)
    values[row : row + side, column : column + side] += 1
    return values


def moves_at(step: int, num_steps: int) -> np.ndarray:
    """A map that is at one place before a step, and at another one from then on."""
    return np.stack([blob(1, 1) if i < step else blob(9, 9) for i in range(num_steps)])


def check_page(finding: Finding, rows: int) -> None:
    """What a report needs: equal columns, charts with words, pictures with something on them."""
    assert {len(column) for column in finding.table.values()} == {rows}
    for chart in finding.charts:
        assert chart.svg.startswith("<svg")
        assert "n = " in chart.caption
        assert chart.alt
        assert "nan" not in chart.alt
    for summary in finding.summaries:
        assert all(len(row) == len(summary.columns) for row in summary.rows)
        assert summary.rows
    for picture in finding.pictures:
        assert len(set(picture.image.convert("L").get_flattened_data())) > 10


# --- words and maps -------------------------------------------------------------------------------------------------


def test_the_words_of_a_prompt_and_where_they_stand(make_pipe):
    tokenizer = make_pipe("sd-epsilon").tokenizer  # every letter is a token

    def found(prompt: Prompt) -> list[tuple[str, str, tuple[int, ...]]]:
        at = positions(tokenizer, prompt.text)
        return [(w.role, w.text, w.places) for w in words_of(tokenizer, prompt, at)]

    assert found(PROMPTS[0]) == [
        ("article", "a", (1,)),
        ("attribute", "red", (2, 3, 4)),
        ("noun", "car", (5, 6, 7)),
        ("[SOS]", "[SOS]", (0,)),
        ("[EOS]", "[EOS]", (8,)),
    ]
    # The second "red" is that of the dog.
    assert [w[2] for w in found(PROMPTS[2]) if w[0] == "attribute"] == [(2, 3, 4), (12, 13, 14)]
    assert [w[1] for w in found(PROMPTS[2]) if w[0] == "noun"] == ["cat", "dog"]
    # A noun that is also the attribute.
    orange = found(Prompt.of(("orange", "orange"), "colour"))
    assert [w[2] for w in orange if w[0] in ("attribute", "noun")] == [tuple(range(3, 9)), tuple(range(9, 15))]
    # Nothing known: the last word with content, and the article.
    assert [w[:2] for w in found(Prompt("birds on the old bridge of it"))][:2] == [
        ("article", "the"),
        ("noun", "bridge"),
    ]
    # Cut off: 75 letters fit.
    long = Prompt("cat " + "x" * 100 + " a red dog", (("red", "dog"),))
    assert found(long)[0][:2] == ("noun", "x" * 100)


def test_words_without_a_start_token_and_prompts_without_words(make_pipe):
    tokenizer = make_pipe("pixart").tokenizer
    words = words_of(tokenizer, PROMPTS[0], positions(tokenizer, PROMPTS[0].text))
    assert [(w.role, w.places) for w in words[1:]] == [("attribute", (1, 2, 3)), ("noun", (4, 5, 6)), ("[EOS]", (7,))]
    with pytest.raises(ShapefirstError, match="no word"):
        words_of(tokenizer, Prompt("..."), positions(tokenizer, "..."))


def test_a_noun_may_be_a_textual_inversion_or_in_any_spelling(make_pipe, tmp_path):
    pipe = with_inversion(reading_with(make_pipe(), bytes_of_clip(tmp_path)), "<cat-toy>", 3)

    def nouns(prompt: Prompt) -> list[tuple[str, tuple[int, ...]]]:
        subject = subject_of(pipe)
        words = words_of(pipe.tokenizer, subject.as_read(prompt), subject.positions([prompt])[0])
        return [(w.text, w.places) for w in words if w.role == "noun"]

    assert nouns(Prompt("a photo of a <cat-toy>")) == [("<cat-toy>", (10, 11, 12))]
    assert nouns(Prompt("a <cat-toy> and a red car", (("red", "car"),))) == [("car", (12, 13, 14))]
    spelled = Prompt("a red_t\u2010shirt, cafe\u0301", (("red", "T-Shirt"), ("", "caf\u00e9")))
    shirt, cafe = nouns(spelled)
    assert shirt == ("t\u2010shirt", tuple(range(6, 15)))  # its hyphen is three bytes
    assert cafe == ("cafe\u0301", tuple(range(16, 21)))  # and its last letter two


@pytest.mark.parametrize("kind", ["sd-epsilon", "pixart"])
def test_followed_maps_are_those_of_the_readable_loop(make_pipe, kind):
    pipe = make_pipe(kind)
    subject, seeds = subject_of(pipe), [3, 4, 5, 6]
    words = [words_of(pipe.tokenizer, p, at) for p, at in zip(PROMPTS, subject.positions(PROMPTS), strict=True)]
    followed = follow_words(subject, subject.encode(PROMPTS), seeds, words, previews=[1], shown=4)

    plain = subject.sample(subject.encode(PROMPTS), seeds)
    assert [image.tobytes() for image in followed.images] == [image.tobytes() for image in plain]
    assert set(followed.previews) == {(i, 1) for i in range(4)}
    with record(pipe, size=16) as maps:  # one by one, rather than three at a time
        list(denoise(pipe, encode(pipe, PROMPTS[3].text), num_inference_steps=N, generator=generators([6])))
    noun = next(i for i, w in enumerate(words[3]) if w.text == "bridge")
    for step in range(N):
        wanted = sum(maps.text[step][0, place] for place in words[3][noun].places) / 6
        np.testing.assert_allclose(followed.maps[3][noun][step], wanted, atol=1e-5)


def test_a_step_for_a_share():
    assert [step_at(50, share) for share in (0, 0.02, 0.2, 0.5, 1)] == [0, 1, 10, 25, 49]
    assert [step_at(4, share) for share in (0, 0.02, 0.2, 0.5, 1)] == [0, 1, 1, 2, 3]
    assert step_at(1, 0.2) == 0


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_the_course_of_a_planted_map(moved):
    masks = shape_of([Word("noun", "cup", (1,))], [moves_at(moved, N)])
    seen = np.zeros((SIXTEEN, SIXTEEN), bool)
    seen[9:14, 9:14] = True
    one = course("noun", "cup", masks, seen)
    expected = [float(step >= moved) for step in range(N)]  # the two squares share no pixel
    assert one.settled == moved
    np.testing.assert_array_equal(one.last, [expected, expected])
    np.testing.assert_array_equal(one.seen, one.last)
    assert np.isnan(course("noun", "cup", masks, None).seen).all()


def test_a_map_that_comes_and_goes_settles_when_it_stays():
    masks = shape_of([Word("noun", "cup", (1,))], [np.stack([blob(9, 9), blob(1, 1), blob(9, 9), blob(9, 9)])])
    assert course("noun", "cup", masks, None).settled == 2


def test_several_nouns_are_one_shape():
    words = [Word("noun", "cat", (1,)), Word("attribute", "red", (2,)), Word("noun", "dog", (3,))]
    shape = shape_of(words, [blob(1, 1)[None], blob(6, 6)[None], blob(9, 9)[None]])
    assert shape.sum() == 2 * 25
    assert not shape[0, 6, 6]


def test_the_shape_in_a_picture_at_the_maps_size():
    picture = np.full((64, 64, 3), 0.8, np.float32)
    picture[16:48, 24:40] = (0.1, 0.2, 0.9)
    expected = np.zeros((16, 16), bool)
    expected[4:12, 6:10] = True
    np.testing.assert_array_equal(shape_in(Image.fromarray(np.uint8(255 * picture)), (16, 16)), expected)


def test_an_overlay_is_orange_where_the_map_is_high_and_leaves_its_picture_alone():
    before = GREY.tobytes()
    drawn = np.asarray(overlay(GREY, blob(2, 2)), int)
    assert drawn.shape == (192, 192, 3)
    assert GREY.tobytes() == before
    red, blue = drawn[54, 54, 0], drawn[54, 54, 2]  # in the middle of the square
    assert red > blue + 80
    low = drawn[150, 150]
    assert np.ptp(low) < 25  # next to no colour where there is next to no attention
    flat = np.asarray(overlay(GREY, np.ones((4, 4))), int)
    assert np.ptp(flat) == 0  # a constant map has neither heat nor border


def test_heat_grows_lighter_with_the_map_and_shows_the_picture_through():
    ramp = np.tile(np.linspace(0, 1, 16, dtype=np.float32), (16, 1))
    lightness = np.asarray(heat(GREY, ramp).convert("L"), int)[96]
    assert (np.diff(lightness) >= -1).all()
    assert lightness[-1] - lightness[0] > 80
    violet, yellow = (np.asarray(heat(GREY, ramp), int)[96, at] for at in (0, -1))
    assert violet[2] > violet[1]
    assert yellow[0] > yellow[2] + 40
    dark = np.asarray(heat(Image.new("RGB", GREY.size), ramp), int)
    assert (dark < np.asarray(heat(GREY, ramp), int)).all()


# --- F1 -------------------------------------------------------------------------------------------------------------


@SKETCHED
@pytest.mark.parametrize(("moved", "verdict"), [(1, "replicates"), (4, "replicates"), (5, "does not replicate")])
def test_f1_says_whether_the_shape_stands_at_a_fifth(make_pipe, moved, verdict):
    subject = subject_of(make_pipe(), steps=20)  # a fifth: 4 steps done
    words = [[Word("noun", "cup", (1,)), Word("[EOS]", "[EOS]", (2,))]] * 4
    maps = [[moves_at(moved, 20), moves_at(10, 20)]] * 4
    finding = f1_shape_first.shape_finding(subject, PROMPTS, words, Followed([GREY] * 4, maps))
    assert [claim.verdict for claim in finding.claims] == [verdict, verdict]
    assert finding.claims[0].found.estimate == float(moved <= 4)
    assert finding.claims[1].found.estimate == (1.0 if moved <= 4 else -1.0)
    assert bool(finding.claims[0].hypothesis) == (verdict != "replicates")
    (by_word,) = (s for s in finding.summaries if s.columns[0] == "word")
    assert {row[0]: row[2].split()[0] for row in by_word.rows} == {"noun": str(5 * moved), "[EOS]": "50"}


def drawn_at(row: int, column: int) -> Image.Image:
    """A picture of 64 pixels with a blue square where ``blob(row, column)`` has its own."""
    picture = np.full((64, 64, 3), 200, np.uint8)
    picture[4 * row : 4 * row + 20, 4 * column : 4 * column + 20] = (20, 40, 220)
    return Image.fromarray(picture)


def on_pocket(make_pipe: Any, maps: list[np.ndarray], places: list[tuple[int, int]], previews: list[Any]) -> Finding:
    """F1 on planted maps, with pictures of squares at these places, and previews of squares at a fifth."""
    subject = subject_of(make_pipe(), "pocket", steps=10)
    steps = sorted({step_at(10, share) for share in f1_shape_first.SHARES})
    seen = {(i, step): drawn_at(*place) for i, place in enumerate(previews) for step in steps}
    followed = Followed([drawn_at(*place) for place in places], [[m] for m in maps], seen)
    return f1_shape_first.shape_finding(subject, PROMPTS[:2], [[Word("noun", "cup", (1,))]] * 2, followed)


@SKETCHED
def test_f1_takes_the_picture_for_the_truth_where_it_can_be_read(make_pipe):
    """The maps agree with the pictures in the last step only, the previews from the start."""
    a, b = (9, 9), (1, 1)
    maps = [np.stack([blob(*other)] * 9 + [blob(*own)]) for own, other in ((a, b), (b, a))]
    finding = on_pocket(make_pipe, maps, [a, b], previews=[a, b])
    assert [c.found.estimate for c in finding.claims] == [0, -1, 1, 1]
    assert [c.verdict for c in finding.claims] == ["does not replicate"] * 2 + ["replicates"] * 2
    assert finding.table["f1_image"][9] == 1.0
    assert finding.table["f1_other"][9] == 0.0
    assert "silhouette" in finding.method


@SKETCHED
def test_f1_says_nothing_by_maps_that_do_not_show_the_object(make_pipe):
    """The same map for both prompts, settled from the start, with the shape of neither more than of the other."""
    maps = [np.stack([blob(3, 3, side=9)] * 10)] * 2
    finding = on_pocket(make_pipe, maps, [(1, 1), (9, 9)], previews=[(9, 9), (1, 1)])
    assert finding.claims[0].found.estimate == 1.0  # which the rule alone would take for a replication
    assert [c.verdict for c in finding.claims] == ["inconclusive"] * 3 + ["does not replicate"]
    assert "not shown to follow the object" in finding.claims[0].hypothesis


@SKETCHED
@pytest.mark.parametrize("kind", KINDS)
def test_f1_runs_on_every_kind_of_pipeline(make_pipe, kind):
    subject = subject_of(make_pipe(kind))
    finding = f1_shape_first.run(subject, PROMPTS)
    special = 1 if kind == "pixart" else 2
    words = [3 + special, 3 + special, 6 + special, 2 + special]
    check_page(finding, N * sum(1 + n for n in words))
    assert subject.meter.done == subject.meter.expected == 2 * N * len(PROMPTS)
    last = [f for f, step in zip(finding.table["f1_last"], finding.table["step"], strict=True) if step == N - 1]
    assert set(last) == {1.0}
    assert "last content word" in finding.method
    assert "union" in finding.method


def test_f1_with_silhouettes(make_pipe):
    subject = subject_of(make_pipe(), "pocket")
    finding = f1_shape_first.run(subject, PROMPTS[:3])
    check_page(finding, N * (6 + 6 + 9))
    assert not np.isnan(finding.table["iou_image"]).any()
    assert finding.summaries[0].columns[-1].startswith("F1 of the preview")
    assert len(finding.claims) == 4


# --- F3 -------------------------------------------------------------------------------------------------------------


@SKETCHED
@pytest.mark.parametrize(("share", "verdict"), [(0.97, "replicates"), (0.5, "does not replicate")])
def test_f3_follows_its_rule(make_pipe, share, verdict):
    subject = subject_of(make_pipe())
    sos = share + np.linspace(-0.01, 0.01, 4 * N).reshape(4, N)
    weights = {"sos": sos, "sem": (1 - sos) / 4, "eos": 3 * (1 - sos) / 4}
    tokens = {"sos": np.ones(4, int), "sem": np.full(4, 3), "eos": np.full(4, 73)}
    finding = f3_sos_attention.attention_finding(subject, PROMPTS, weights, tokens)
    assert finding.claims[0].verdict == verdict
    assert finding.claims[0].found.estimate == pytest.approx(share)
    check_page(finding, 4 * 3 * N)
    assert finding.table["weight_per_token"][-1] == pytest.approx(weights["eos"][-1, -1] / 73)


def test_f3_measures_shares(make_pipe):
    subject = subject_of(make_pipe("sd-v"), seed=7)
    finding = f3_sos_attention.run(subject, PROMPTS)
    check_page(finding, 4 * 3 * N)
    assert subject.meter.done == subject.meter.expected
    weight = np.array(finding.table["weight"]).reshape(4, 3, N)
    np.testing.assert_allclose(weight.sum(1), 1, atol=1e-5)
    pipe = subject.pipe
    with record(pipe, size=16) as maps:
        list(denoise(pipe, encode(pipe, PROMPTS[3].text), num_inference_steps=N, generator=generators([10])))
    np.testing.assert_allclose(weight[3, 0], [maps.text[i][0, 0].mean() for i in range(N)], atol=1e-5)


def test_f3_does_not_apply_without_a_start_token(make_pipe):
    with pytest.raises(DoesNotApply, match=r"no \[SOS\]"):
        f3_sos_attention.run(subject_of(make_pipe("pixart")), PROMPTS)


# --- A5 -------------------------------------------------------------------------------------------------------------


def test_a5_measures_what_keys_alone_do_on_the_same_latents(make_pipe):
    pipe = make_pipe("sd-epsilon")
    subject = subject_of(pipe)
    finding = a5_maps_of_keys.run(subject, PAIRS)
    check_page(finding, len(PAIRS) * 3 * N)
    assert subject.meter.done == subject.meter.expected == 3 * N * len(PAIRS)

    # The first step starts from the same noise in two whole runs too. Pair 0, prompts of equal length up to one letter
    # each: the [EOS] of "a red car" are at 8 to 76, those of "a wooden cup" at 11 to 76.
    seed, source, target = 0, encode(pipe, PAIRS[0].source.text), encode(pipe, PAIRS[0].target.text)
    other = source.text.clone()
    for n, place in enumerate(range(8, 77)):
        other[0, place] = target.text[0, min(11 + n, 76)]
    found = []
    with record(pipe, size=16) as maps:
        next(denoise(pipe, source, num_inference_steps=N, generator=generators([seed])))
        found.append(maps.text[0])
    with record(pipe, size=16) as maps, substitute(pipe, other, range(8, 77), values=False):
        next(denoise(pipe, source, num_inference_steps=N, generator=generators([seed])))
        found.append(maps.text[0])
    table = finding.table
    assert table["kl_substituted"][0] == pytest.approx(float(kl_divergence(*found)), rel=1e-3)
    assert table["kl_substituted"][0] > 0
    uniform = kl_divergence(found[0], torch.ones_like(found[0]))
    assert table["kl_uniform"][0] == pytest.approx(float(uniform), rel=1e-3)


@SKETCHED
@pytest.mark.parametrize("kind", KINDS)
def test_a5_keys_of_the_same_prompt_change_nothing(make_pipe, kind):
    subject = subject_of(make_pipe(kind))
    finding = a5_maps_of_keys.run(subject, [Pair(p, p) for p in PROMPTS[:2]])
    check_page(finding, 2 * 3 * N)
    assert np.abs(finding.table["kl_substituted"]).max() < 1e-6
    assert np.min(finding.table["kl_uniform"]) > 1e-6
    assert finding.claims[0].verdict == "replicates"


def test_a5_uniform_is_uniform_over_the_tokens_that_are_seen(make_pipe):
    at = subject_of(make_pipe("pixart")).positions(PROMPTS[:1])
    mask = torch.zeros(1, 120, dtype=torch.long)
    mask[:, :8] = 1  # "a red car" letter by letter, and </s>
    maps = torch.zeros(1, 120, 2, 2)
    maps[:, :8] = 1 / 8
    found = a5_maps_of_keys.divergences(maps, maps, at, mask)
    for values in found.values():
        np.testing.assert_allclose(values, 0, atol=1e-6)
    # Against all 120 it would be log(120 / 8).
    assert a5_maps_of_keys.divergences(maps, maps, at)["tokens"][1] == pytest.approx(np.log(15), rel=1e-3)


@SKETCHED
@pytest.mark.parametrize(("ratio", "verdict"), [(0.2, "replicates"), (3.0, "does not replicate")])
def test_a5_follows_its_rule(make_pipe, ratio, verdict):
    uniform = np.random.default_rng(0).uniform(0.5, 1, (3, N))
    kl = {name: np.stack([ratio * uniform, uniform]) for name in a5_maps_of_keys.OVER}
    finding = a5_maps_of_keys.key_finding(encode_pairs(subject_of(make_pipe()), PAIRS), kl)
    assert finding.claims[0].found.estimate == pytest.approx(ratio)
    assert finding.claims[0].verdict == verdict
    assert finding.summaries[0].rows[0][-1] == (f"{N} of {N}" if ratio < 1 else f"0 of {N}")


# --- A7 -------------------------------------------------------------------------------------------------------------


@SKETCHED
@pytest.mark.parametrize(("step", "verdict"), [(2, "replicates"), (9, "does not replicate")])
def test_a7_follows_its_rule(make_pipe, step, verdict):
    """The map of A's noun moves to B's place before the last step, or never does."""
    own, target = (shape_of([Word("noun", "", (1,))], [blob(*at)[None]]) for at in ((1, 1), (9, 9)))
    followed = Followed([GREY] * 3, [[moves_at(step, N)]] * 3)
    finding = a7_switched_maps.switched_finding(
        encode_pairs(subject_of(make_pipe()), PAIRS),
        [[Word("noun", "cup", (1,))]] * 3,
        followed,
        np.repeat(target, 3, 0),
        np.repeat(own, 3, 0),
        [GREY] * 3,
        [GREY] * 3,
    )
    assert finding.claims[0].verdict == verdict
    assert finding.claims[0].found.estimate == (1.0 if step < N else -1.0)
    assert finding.table["iou_target"][:N] == [float(i >= step) for i in range(N)]
    check_page(finding, 3 * N)


@SKETCHED
@pytest.mark.parametrize("kind", KINDS)
def test_a7_runs_on_every_kind_of_pipeline(make_pipe, kind):
    subject = subject_of(make_pipe(kind))
    finding = a7_switched_maps.run(subject, PAIRS)
    check_page(finding, len(PAIRS) * N)
    assert subject.meter.done == subject.meter.expected == 3 * 2 * N * len(PAIRS)


@SKETCHED
def test_a7_with_nothing_switched_is_the_plain_run(make_pipe):
    """A prompt that keeps its own [EOS] makes its own picture, so that both shapes are its last map."""
    finding = a7_switched_maps.run(subject_of(make_pipe()), [Pair(p, p) for p in PROMPTS[:2]])
    last = np.arange(N - 1, 2 * N, N)
    assert np.array(finding.table["iou_own"])[last].tolist() == [1.0, 1.0]
    assert finding.table["iou_own"] == finding.table["iou_target"]
    assert finding.claims[0].verdict == "does not replicate"


def test_a7_reads_shapes_from_pockets_pictures(make_pipe):
    subject = subject_of(make_pipe(), "pocket")
    finding = a7_switched_maps.run(subject, PAIRS)
    check_page(finding, len(PAIRS) * N)
    assert subject.meter.done == subject.meter.expected == 3 * 2 * N * len(PAIRS)
    # Its own picture of the first pair, read here.
    own = shape_in(subject.sample(subject.encode([PAIRS[0].source]), [0])[0], (16, 16))
    nouns = [
        w for w in words_of(subject.pipe.tokenizer, PROMPTS[0], subject.positions(PROMPTS[:1])[0]) if w.role == "noun"
    ]
    followed = follow_words(subject, a7_switched_maps.encode_pairs(subject, PAIRS[:1]).switched(), [0], [nouns])
    masks = shape_of(nouns, followed.maps[0])
    np.testing.assert_allclose(finding.table["iou_own"][:N], iou(masks, own), atol=1e-9)
