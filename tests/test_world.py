"""The world is reproducible, its captions are true, its masks are the silhouettes, and held-out things stay out."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shapefirst.world.vocabulary import ATTRIBUTES, COLOURS, HELD_OUT, NOUNS, RELATIONS, TEXTURES, unknown_words

pytest.importorskip("resvg_py", reason="the world needs the 'train' extra")
from shapefirst.world import renders as data
from shapefirst.world.scenes import SIZE, Scene, place, render, sample_scene

seeds = st.integers(0, 2**32 - 1)


def test_the_vocabulary_is_as_large_as_promised():
    assert len(NOUNS) >= 40
    assert len(COLOURS) >= 10
    assert len(TEXTURES) == 8
    assert len(set(ATTRIBUTES) | set(NOUNS)) == len(ATTRIBUTES) + len(NOUNS)


def test_every_noun_and_attribute_loses_some_but_few_combinations():
    by_attribute, by_noun = Counter(a for a, _ in HELD_OUT), Counter(n for _, n in HELD_OUT)
    assert set(by_attribute) == set(ATTRIBUTES)
    assert max(by_noun.values()) <= 2
    assert max(by_attribute.values()) <= 4


@settings(max_examples=100, deadline=None)
@given(seeds)
def test_training_scenes_hold_no_held_out_combination_and_no_noun_twice(seed):
    scene = sample_scene(np.random.default_rng(seed))
    assert not {(o.attribute, o.noun) for o in scene.objects} & HELD_OUT
    assert len({o.noun for o in scene.objects}) == len(scene.objects)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_the_relation_of_the_caption_holds_between_the_centres(seed):
    scene = sample_scene(np.random.default_rng(seed), pair=True)
    a, b = scene.objects
    holds = {
        "and": a.x < b.x,
        "on the left of": a.x < b.x,
        "on the right of": a.x > b.x,
        "above": a.y < b.y,
        "below": a.y > b.y,
    }
    assert set(holds) == set(RELATIONS)
    assert holds[scene.relation]
    assert scene.caption == f"a {a.attribute} {a.noun} {scene.relation} a {b.attribute} {b.noun}"
    assert not unknown_words(scene.caption)


def test_reading_order_is_by_place_not_by_mention():
    scene = place([("red", "cat"), ("blue", "car")], "on the right of", np.random.default_rng(0))
    assert [o.noun for o in scene.in_reading_order()] == ["car", "cat"]
    assert data.labels_of(scene) == [NOUNS.index("car"), 4, NOUNS.index("cat"), 0]


def test_rendering_is_a_function_of_the_scene():
    scene = sample_scene(np.random.default_rng(3))
    first, second = render(scene), render(scene)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_the_mask_is_where_the_object_changes_the_background():
    def scene(attribute: str, noun: str) -> Scene:
        return Scene(place([(attribute, noun)], None, np.random.default_rng(5)).objects, None, "mint", False)

    empty = render(Scene((), None, "mint", False))[0].astype(int)
    for noun in ("heart", "truck", "umbrella"):
        image, masks = render(scene("black", noun))
        changed = np.abs(image.astype(int) - empty).max(-1) > 60
        agreement = (changed & (masks[0] > 127)).sum() / (changed | (masks[0] > 127)).sum()
        assert agreement > 0.9, noun


@pytest.mark.parametrize("colour", COLOURS)
def test_a_colour_is_the_nearest_paint_of_what_is_drawn(colour):
    image, masks = render(place([(colour, "heart")], None, np.random.default_rng(1)))
    seen = image[masks[0] == 255].mean(0)
    nearest = min(COLOURS, key=lambda c: np.abs(seen - COLOURS[c]).sum())
    assert nearest == colour


def test_textures_are_further_apart_than_their_own_variation():
    """Every texture differs from every other attribute on the same object by more than a shade."""
    images = {a: render(place([(a, "shirt")], None, np.random.default_rng(2)))[0].astype(float) for a in ATTRIBUTES}
    for texture in TEXTURES:
        for other in ATTRIBUTES:
            if other != texture:
                assert np.abs(images[texture] - images[other]).mean() > 4, (texture, other)


def test_the_same_seed_renders_the_same_training_set_in_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "_SHARD", 2)
    one, two = data.make(5, seed=7, workers=1), data.make(5, seed=7, workers=2)
    assert np.array_equal(one.images, two.images)
    assert one.captions == two.captions
    assert one.images.shape == (5, SIZE, SIZE, 3)
    data.store(one, tmp_path)
    again = data.read(tmp_path)
    assert np.array_equal(again.images, one.images)
    assert again.captions == one.captions
    assert again.labels.equal(one.labels)
    assert again.where.equal(one.where)
    assert one.where.equal(two.where)


def test_where_an_object_is_said_to_be_is_its_paint_and_nothing_elsewhere():
    rng = np.random.default_rng(3)
    for _ in range(20):
        scene = sample_scene(rng, pair_probability=1.0)
        masks = render(scene)[1]
        where = data.where_of(scene, masks)
        assert where.shape == (16, 16)
        for number, thing in enumerate(scene.in_reading_order(), 1):
            alone, _ = render(replace(scene, objects=(thing,)))
            other, _ = render(replace(scene, objects=tuple(o for o in scene.objects if o is not thing)))
            painted = np.abs(alone.astype(int) - other).sum(-1).reshape(16, 4, 16, 4).mean((1, 3)) > 0
            assert painted[where == number].all()
            rows, columns = np.nonzero(where == number)
            assert abs(rows.mean() * 4 + 2 - thing.y) < thing.size / 4
            assert abs(columns.mean() * 4 + 2 - thing.x) < thing.size / 4


def test_unknown_words_are_named_once_and_in_order():
    assert unknown_words("A red Dragon on the left of a dragon, in spring") == ["dragon", "in", "spring"]
    assert unknown_words("a fluffy elephant above the metallic key") == []
    assert unknown_words("A_RED car, cafe\u0301, हिन्दी") == ["cafe\u0301", "हिन्दी"]
