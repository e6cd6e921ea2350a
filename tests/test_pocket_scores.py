"""Pocket's scores on renders, whose content is known; and which scores a model is studied by."""

import numpy as np
import pytest
import scorers
import torch
import transformers
from PIL import Image

from shapefirst.errors import ModelError, ShapefirstError
from shapefirst.measure.clip import load_clip
from shapefirst.measure.judging import JudgeScore, can_judge, load_judge
from shapefirst.measure.scores import alignments_for, features_for, similarity_for
from shapefirst.models import locate
from shapefirst.prompts import Prompt
from shapefirst.world.scenes import render, sample_scene
from shapefirst.world.vocabulary import ATTRIBUTES, NOUNS


def prompt_of(scene):
    return Prompt(scene.caption, tuple((o.attribute, o.noun) for o in scene.objects), "pocket")


@pytest.fixture(scope="module")
def singles():
    rng = np.random.default_rng(77_000_001)
    scenes = [sample_scene(rng, pair=False) for _ in range(24)]
    return [Image.fromarray(render(s)[0]) for s in scenes], [prompt_of(s) for s in scenes]


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(77_000_002)
    scenes = [sample_scene(rng, pair=True) for _ in range(16)]
    return [Image.fromarray(render(s)[0]) for s in scenes], [prompt_of(s) for s in scenes]


@pytest.fixture(scope="module")
def judge():
    return load_judge(locate("pocket") / "judge")


class Certain:
    """A judge whose logits are given: log-probabilities of (noun, attribute, second noun, second attribute)."""

    def __init__(self, *questions):
        self.logits = [torch.tensor(q).log()[None] for q in questions]

    def see(self, images):
        yield tuple(q.expand(len(images), -1) for q in self.logits), torch.zeros(len(images), 1)


def distribution(size, **shares):
    """Of ``size`` classes, those named "_3" get their share and the others the rest in equal parts."""
    named = {int(name[1:]): share for name, share in shares.items()}
    rest = (1 - sum(named.values())) / (size - len(named))
    return [named.get(i, rest) for i in range(size)]


IMAGE = Image.new("RGB", (64, 64))
N, A = len(NOUNS), len(ATTRIBUTES)


@pytest.mark.parametrize(("part", "expected"), [("both", 0.9 * 0.6), ("noun", 0.9), ("attribute", 0.6)])
def test_one_phrase_is_judged_by_the_first_place(part, expected):
    judge = Certain(
        distribution(N, _3=0.9), distribution(A, _5=0.6), distribution(N + 1, _7=0.8), distribution(A + 1, _2=0.7)
    )
    prompt = Prompt.of((ATTRIBUTES[5], NOUNS[3]), "colour")
    assert JudgeScore(judge, part).score([IMAGE], [prompt]) == pytest.approx([expected])


@pytest.mark.parametrize(
    ("part", "expected"),
    [("both", (0.9 * 0.6 + 0.8 * 0.7) / 2), ("noun", (0.9 + 0.8) / 2), ("attribute", (0.6 + 0.7) / 2)],
)
@pytest.mark.parametrize("turned", [False, True])
def test_two_phrases_may_stand_in_either_order_but_each_with_its_own_attribute(part, expected, turned):
    judge = Certain(
        distribution(N, _3=0.9), distribution(A, _5=0.6), distribution(N + 1, _7=0.8), distribution(A + 1, _2=0.7)
    )
    phrases = [(ATTRIBUTES[5], NOUNS[3]), (ATTRIBUTES[2], NOUNS[7])]
    text = " and ".join(f"a {a} {n}" for a, n in phrases)
    prompt = Prompt(text, tuple(phrases[::-1] if turned else phrases))
    assert JudgeScore(judge, part).score([IMAGE], [prompt]) == pytest.approx([expected])
    if part == "both":
        swapped = Prompt(text, ((ATTRIBUTES[2], NOUNS[3]), (ATTRIBUTES[5], NOUNS[7])))
        assert JudgeScore(judge).score([IMAGE], [swapped])[0] < 0.1


def test_renders_score_high_with_their_own_caption_and_low_with_another(judge, singles, pairs):
    for images, prompts in (singles, pairs):
        others = prompts[1:] + prompts[:1]
        for part in ("both", "noun", "attribute"):
            alignment = JudgeScore(judge, part)
            own, other = alignment.score(images, prompts), alignment.score(images, others)
            assert own.shape == (len(images),)
            assert own.mean() > 0.8  # on pairs the judge is right, and less sure of it
            assert other.mean() < 0.3
            assert 0 <= min(own.min(), other.min()) <= max(own.max(), other.max()) <= 1


def test_phrases_are_read_from_the_text_where_they_are_not_given(judge, pairs):
    images, prompts = pairs
    assert all(map(can_judge, prompts))
    read = JudgeScore(judge).score(images, [Prompt(p.text) for p in prompts])
    assert read == pytest.approx(JudgeScore(judge).score(images, prompts))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt.of(("green", "bench"), "colour"), "does not know 'bench' in 'a green bench'"),
        (Prompt.of(("turquoise", "car"), "colour"), "does not know 'turquoise'"),
        (Prompt("a dog runs across a meadow"), "one or two noun phrases"),
        (Prompt("three", (("red", "car"),) * 3), "one or two noun phrases"),
    ],
)
def test_prompts_that_the_judge_cannot_read_are_refused(judge, prompt, words):
    with pytest.raises(ShapefirstError, match=words):
        JudgeScore(judge).score([IMAGE], [prompt])
    assert not can_judge(prompt)


def test_bad_parts_numbers_and_folders_are_refused(judge, tmp_path):
    with pytest.raises(ShapefirstError, match="no part 'verb'"):
        JudgeScore(judge, "verb")
    with pytest.raises(ShapefirstError, match="1 images and 0 prompts"):
        JudgeScore(judge).score([IMAGE], [])
    with pytest.raises(ModelError, match=r"judge in .* cannot be loaded"):
        load_judge(tmp_path)


def test_pocket_is_studied_by_its_own_clip_first_and_by_its_judge(singles):
    images, prompts = singles
    alignments = alignments_for("pocket", device="cpu")
    assert list(alignments) == ["clipscore", "judge", "judge-noun", "judge-attribute"]
    assert list(alignments_for("pocket", device="cpu", judge=False)) == ["clipscore"]
    others = prompts[1:] + prompts[:1]
    for alignment in alignments.values():
        assert alignment.title
        assert alignment.unit
        assert alignment.score(images, prompts).mean() > alignment.score(images, others).mean()
    assert "pocket" in alignments["clipscore"].title


def test_pocket_s_clip_sees_what_it_was_trained_on(singles):
    """The preparation of images is that of its training: 64 pixels, [-1, 1]."""
    images, _ = singles
    clip = alignments_for("pocket", device="cpu")["clipscore"].clip
    given = clip.processor(images=[images[0]], return_tensors="pt")["pixel_values"]
    expected = torch.from_numpy(np.array(images[0])).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert torch.allclose(given, expected, atol=1e-5)


def test_a_clip_needs_no_auto_class_of_images(monkeypatch):
    """In transformers 5.4 to 5.17 AutoImageProcessor is a placeholder where there is no torchvision."""
    monkeypatch.setattr(transformers, "AutoImageProcessor", None)
    clip = load_clip(locate("pocket") / "clip", device="cpu")
    assert clip.of_images([Image.new("RGB", (64, 64))]).shape == (1, clip.model.config.projection_dim)


def test_one_clip_is_loaded_for_all_scores():
    clip = alignments_for("pocket", device="cpu")["clipscore"].clip
    assert similarity_for("pocket", device="cpu").clip is clip


def test_features_of_pocket_are_the_judge_s(singles):
    images, _ = singles
    title, features = features_for("pocket", device="cpu")
    found = features(images)
    assert "judge" in title
    assert found.shape == (24, 256)
    judge = load_judge(locate("pocket") / "judge")
    assert found == pytest.approx(torch.stack([v.features for v in judge.look(images)]).numpy())
    assert features([]).shape == (0, 256)


def test_other_models_are_studied_by_the_clip_and_the_models_that_are_named(tmp_path_factory):
    names = ("clip", "blip", "llava")
    clip, blip, llava = (getattr(scorers, f"{n}_folder")(tmp_path_factory.mktemp(n)) for n in names)
    alignments = alignments_for("sd15", clip=str(clip), vqa=str(blip), vlm=str(llava), device="cpu")
    assert list(alignments) == ["clipscore", "vqa", "vlm"]
    assert list(alignments_for("sd15", clip=str(clip), device="cpu")) == ["clipscore"]
    title, features = features_for("sd15", str(clip), "cpu")
    assert str(clip) in title
    assert features(scorers.pictures(3)).shape == (3, 8)


def test_without_network_the_default_clip_is_asked_for_by_name(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="hf download openai/clip-vit-base-patch16"):
        alignments_for("sd15", device="cpu")


@pytest.mark.parametrize(("part", "place"), [("attribute", 0), ("noun", 1)])
def test_the_judge_s_score_follows_its_verdict(judge, singles, part, place):
    """The word that scores highest of all is what the judge says it sees, and the scores of all words add up to 1."""
    images, _ = singles
    verdict = judge.look(images[:1])[0].objects[0]
    words = (ATTRIBUTES, NOUNS)[place]
    phrases = [tuple(word if i == place else verdict[i] for i in (0, 1)) for word in words]
    scores = JudgeScore(judge, part).score(images[:1] * len(words), [Prompt.of(p, "colour") for p in phrases])
    assert words[int(scores.argmax())] == verdict[place]
    assert scores.sum() == pytest.approx(1)
