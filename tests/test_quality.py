"""The judge and the figures of the model card: intervals against closed forms, verdicts against known scenes."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from shapefirst.measure.judge import Judge, Sighting
from shapefirst.training.card import TABLE_HEAD, renew, table_rows
from shapefirst.training.judge import augment
from shapefirst.training.quality import Figure, fresh_held_out, fresh_scenes, judged, judged_pairs, level, share
from shapefirst.world.scenes import place
from shapefirst.world.vocabulary import ATTRIBUTES, HELD_OUT, NOUNS


def test_wilson_interval_solves_its_defining_equation():
    """The bounds are the p with |p_hat - p| = z sqrt(p (1 - p) / n) (Wilson 1927)."""
    figure = share("x", [True] * 45 + [False] * 5)
    for p in (figure.low, figure.high):
        assert abs(0.9 - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / 50), rel=1e-6)
    assert figure.value == 0.9
    assert share("x", [True] * 20).low < 1 < share("x", [True] * 20).high + 1e-9


def test_level_is_the_mean_with_the_normal_interval():
    figure = level("x", [1.0, 2.0, 3.0, 4.0], "dB")
    sem = math.sqrt(5 / 3) / 2
    assert (figure.value, figure.low, figure.high) == pytest.approx((2.5, 2.5 - 1.96 * sem, 2.5 + 1.96 * sem))


def test_a_missed_bar_is_said_in_the_table():
    rows = table_rows([Figure("a", 0.9, 10, 0.8, 0.95, bar=0.93), Figure("b", 32.0, 10, 31.5, 32.5, "dB", 31.0)])
    assert "(missed)" in rows[0]
    assert "90.0%" in rows[0]
    assert "(missed)" not in rows[1]
    assert "32.00 dB" in rows[1]


def test_figures_measured_anew_take_the_place_of_the_old_ones_alone(tmp_path):
    old, new = (Figure("a", value, 10, 0.0, 1.0) for value in (0.25, 0.75))
    (tmp_path / "MODEL_CARD.md").write_text(
        "\n".join(["# A card\n", TABLE_HEAD, *table_rows([old]), "\n## Limits\n| a |"])
    )
    (tmp_path / "figures.json").write_text('{"hardware": "", "seed": 3, "preset": "cpu", "figures": []}')
    renew(tmp_path, [new, new])
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert card == "\n".join(["# A card\n", TABLE_HEAD, *table_rows([new, new]), "\n## Limits\n| a |"])
    record = json.loads((tmp_path / "figures.json").read_text())
    assert (record["seed"], record["preset"], record["figures"][0]["value"]) == (3, "cpu", 0.75)


def test_single_objects_are_scored_by_noun_attribute_and_both():
    rng = np.random.default_rng(0)
    scenes = [place([("red", "cat")], None, rng)] * 4
    nothing = torch.zeros(1)
    seen = [(("red", "cat"),), (("red", "car"),), (("blue", "cat"),), (("blue", "car"),)]
    noun, attribute, both = judged("t", [Sighting(o, nothing) for o in seen], scenes)
    assert (noun.value, attribute.value, both.value) == (0.5, 0.5, 0.25)


def test_pairs_are_scored_by_presence_binding_and_place():
    rng = np.random.default_rng(0)
    scenes = [place([("red", "cat"), ("blue", "car")], "above", rng)] * 4
    nothing = torch.zeros(1)
    seen = [
        (("red", "cat"), ("blue", "car")),
        (("blue", "car"), ("red", "cat")),  # swapped places
        (("blue", "cat"), ("red", "car")),  # swapped attributes
        (("red", "cat"),),
    ]
    nouns, bound, placed = judged_pairs("t", [Sighting(o, nothing) for o in seen], scenes)
    assert (nouns.value, bound.value, placed.value) == (0.75, 0.5, 0.25)


def test_fresh_held_out_scenes_go_round_all_held_out_combinations():
    scenes = fresh_held_out(len(HELD_OUT), 0)
    assert {(s.objects[0].attribute, s.objects[0].noun) for s in scenes} == HELD_OUT
    assert fresh_scenes(3, 1) == fresh_scenes(3, 1)


def test_the_judge_comes_back_from_the_disk_and_answers_in_the_vocabulary(tmp_path):
    torch.manual_seed(0)
    judge = Judge().eval()
    judge.save(tmp_path)
    again = Judge.load(tmp_path)
    images = [Image.fromarray(np.random.default_rng(0).integers(0, 256, (s, s, 3), np.uint8)) for s in (64, 128)]
    for verdict, same in zip(judge.look(images), again.look(images), strict=True):
        assert torch.allclose(verdict.features, same.features, atol=2e-2)  # float16 on disk
        assert verdict.objects[0][1] in NOUNS
        assert verdict.objects[0][0] in ATTRIBUTES
    (tmp_path / "config.json").write_text('{"nouns": ["dragon"], "attributes": ["red"]}')
    with pytest.raises(ValueError, match="another vocabulary"):
        Judge.load(tmp_path)


def test_augmentation_keeps_shape_and_is_reproducible():
    x = torch.rand(4, 3, 64, 64)
    first, second = (augment(x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == x.shape
    assert torch.equal(first, second)
    assert not torch.equal(first, x)
