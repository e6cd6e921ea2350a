"""Scores against prompts: each against a direct computation, on tiny random models of the classes that users load."""

import copy

import numpy as np
import pytest
import scorers
import torch
from PIL import Image

from shapefirst.errors import ModelError, ShapefirstError
from shapefirst.measure.clip import Clip, ClipScore, ClipSimilarity, load_clip
from shapefirst.measure.vlm import DESCRIBE, VlmScore, load_vlm
from shapefirst.measure.vqa import VqaScore, load_vqa, questions
from shapefirst.prompts import Prompt

PROMPTS = [
    Prompt.of(("green", "bench"), "colour"),
    Prompt("a red car and a green bench", (("red", "car"), ("green", "bench"))),
    Prompt("a car"),
    Prompt("a red bench in a park, on a very long afternoon, " * 4),
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(scorers.clip_folder(tmp_path_factory.mktemp("clip")), device="cpu", called="tiny")


@pytest.fixture(scope="module", params=["blip", "vilt"])
def vqa(request, tmp_path_factory):
    folder = getattr(scorers, f"{request.param}_folder")(tmp_path_factory.mktemp(request.param))
    return load_vqa(folder, device="cpu")


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    loaded = load_vlm(scorers.llava_folder(tmp_path_factory.mktemp("llava")), device="cpu")
    return VlmScore(loaded._model, loaded._processor, "tiny", max_new_tokens=12)  # it never comes to an end by itself


def pixels(image, size=scorers.SIZE):
    """What the tiny CLIP is given of one image: shortest side resized, centre cut out, normalised with 0.5 and 0.25."""
    image = image.convert("RGB")
    scale = size / min(image.size)
    image = image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    x = np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.float32) / 255
    return torch.from_numpy((x - 0.5) / 0.25).permute(2, 0, 1)[None]


def cosine(x, y):
    return float((x @ y.T).squeeze() / (x.norm() * y.norm()))


def test_clipscore_is_the_scaled_cosine_of_the_model_s_own_embeddings(clip):
    images = scorers.pictures(4)
    expected = []
    for image, prompt in zip(images, PROMPTS, strict=True):
        tokens = clip.tokenizer([prompt.text], truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            out = clip.model(**tokens, pixel_values=pixels(image))
        expected.append(100 * cosine(out.text_embeds, out.image_embeds))
    alignment = ClipScore(clip)
    scores = alignment.score(images, PROMPTS)
    assert scores.dtype == np.float64
    assert scores == pytest.approx(expected, abs=1e-3)
    assert min(expected) < 0 or np.ptp(expected) > 1  # neither clipped nor constant
    assert (alignment.title, alignment.unit) == ("CLIPScore (tiny)", "cosine x 100")


def test_negative_cosines_are_not_clipped(clip):
    images, model = scorers.pictures(4), copy.deepcopy(clip.model)
    with torch.no_grad():
        model.visual_projection.weight.neg_()
    turned = ClipScore(Clip("turned", model, clip.tokenizer, clip.processor)).score(images, PROMPTS)
    assert turned == pytest.approx(-ClipScore(clip).score(images, PROMPTS), abs=1e-3)
    assert np.abs(turned).min() > 0.01


def test_scores_do_not_depend_on_the_batch(clip):
    images, small = scorers.pictures(4), Clip("tiny", clip.model, clip.tokenizer, clip.processor, batch_size=1)
    assert ClipScore(small).score(images, PROMPTS) == pytest.approx(ClipScore(clip).score(images, PROMPTS), abs=1e-3)


def test_clip_similarity_is_the_cosine_of_image_features(clip):
    x, y = scorers.pictures(3), scorers.pictures(3, seed=1)
    with torch.no_grad():
        features = [[clip.model.vision_model(pixels(im)).pooler_output for im in images] for images in (x, y)]
        pairs = [[clip.model.visual_projection(f) for f in pair] for pair in zip(*features, strict=True)]
    assert ClipSimilarity(clip).score(x, y) == pytest.approx([cosine(a, b) for a, b in pairs], abs=1e-5)
    assert ClipSimilarity(clip).score(x, x) == pytest.approx(1)


def test_a_folder_without_a_preprocessor_config_is_prepared_for_as_openai_does(tmp_path):
    clip = load_clip(scorers.clip_folder(tmp_path, preprocessor=False), device="cpu")
    image = Image.new("RGB", (20, 40), (255, 0, 0))
    given = clip.processor(images=[image], return_tensors="pt")["pixel_values"]
    assert given.shape == (1, 3, scorers.SIZE, scorers.SIZE)
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]
    assert given[0, :, 3, 5].tolist() == pytest.approx(expected, abs=1e-4)


def test_what_is_asked_about_a_prompt():
    assert questions(PROMPTS[1]) == ["red car?", "green bench?"]
    assert questions(Prompt("A dog runs.")) == ["A dog runs?"]


def direct_yes(vqa, image, question):
    """p(yes) of one question by the models' public interfaces."""
    model, processor = vqa._model, vqa._processor
    inputs = processor(images=image.convert("RGB"), text=question, return_tensors="pt")
    if model.config.model_type == "vilt":
        with torch.no_grad():
            answers = model(**inputs).logits.sigmoid()[0]
        yes, no = (answers[model.config.label2id[word]] for word in ("yes", "no"))
    else:
        out = model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True, output_logits=True)
        answers = out.logits[0][0].softmax(-1)
        yes, no = (answers[processor.tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no"))
    return float(yes / (yes + no))


def test_the_vqa_score_is_the_product_of_yes_over_the_phrases(vqa):
    images = scorers.pictures(3)
    expected = [
        np.prod([direct_yes(vqa, image, question) for question in questions(prompt)])
        for image, prompt in zip(images, PROMPTS[:3], strict=True)
    ]
    assert vqa.score(images, PROMPTS[:3]) == pytest.approx(expected, abs=1e-5)
    assert 0 < min(expected) < max(expected) < 1


def test_the_vqa_score_listens_to_the_question(vqa):
    image = scorers.pictures(1)
    green, red = (vqa.score(image, [Prompt.of((word, "bench"), "colour")])[0] for word in ("green", "red"))
    assert abs(green - red) > 1e-4


def test_the_vqa_score_does_not_depend_on_the_batch(vqa):
    images, one_by_one = scorers.pictures(4), VqaScore(vqa._model, vqa._processor, "tiny", batch_size=1)
    assert vqa.score(images, PROMPTS) == pytest.approx(one_by_one.score(images, PROMPTS), abs=1e-5)


@pytest.mark.parametrize("vqa", ["vilt"], indirect=True)  # which has a fixed list of answers
def test_a_vqa_model_without_yes_is_refused(vqa, monkeypatch):
    monkeypatch.setattr(vqa._model.config, "label2id", {"red": 0})
    with pytest.raises(ShapefirstError, match="no answers yes and no"):
        VqaScore(vqa._model, vqa._processor, "tiny")


def test_the_vlm_is_asked_for_a_description_and_then_for_a_score(vlm):
    images = scorers.pictures(2)
    replies = vlm.ask(images, PROMPTS[:2])
    processor, model = vlm._processor, vlm._model
    for image, reply in zip(images, replies, strict=True):
        said = f"user: <image> {DESCRIBE} assistant: "
        inputs = processor(images=image.convert("RGB"), text=said, return_tensors="pt")
        made = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert reply.description == processor.tokenizer.decode(made, skip_special_tokens=True).strip()
        assert reply.description


def test_the_second_question_holds_description_and_prompt(vlm, monkeypatch):
    heard = []

    def answers(images, talks, longest):
        heard.append([vlm._processor.apply_chat_template(talk, add_generation_prompt=True) for talk in talks])
        return (
            ["two green things"] * len(talks) if len(heard) % 2 else ["Score: 4", "I cannot rate this."][: len(talks)]
        )

    monkeypatch.setattr(vlm, "_answers", answers)
    scores = vlm.score(scorers.pictures(2), PROMPTS[:2])
    assert scores[0] == 4
    assert np.isnan(scores[1])
    for text, prompt in zip(heard[1], PROMPTS, strict=False):
        assert text.index(DESCRIBE) < text.index("two green things") < text.index(prompt.text)
        assert text.count("<image>") == 1


def test_vlm_answers_do_not_depend_on_the_batch(vlm):
    images = scorers.pictures(3)
    one_by_one = VlmScore(vlm._model, vlm._processor, "tiny", batch_size=1, max_new_tokens=12)
    assert one_by_one.ask(images, PROMPTS[:3]) == vlm.ask(images, PROMPTS[:3])


def test_a_vlm_without_a_chat_template_is_refused(vlm, monkeypatch):
    monkeypatch.setattr(vlm._processor, "chat_template", None)
    with pytest.raises(ModelError, match="no chat template"):
        VlmScore(vlm._model, vlm._processor, "tiny")


def refuses(alignment):
    with pytest.raises(ShapefirstError, match="2 images and 1 prompts"):
        alignment.score(scorers.pictures(2), PROMPTS[:1])
    return alignment.score([], []).shape == (0,)


def test_each_image_needs_its_prompt(clip, vqa, vlm):
    assert all(refuses(alignment) for alignment in (ClipScore(clip), vqa, vlm))
    with pytest.raises(ShapefirstError, match="1 images and 2 references"):
        ClipSimilarity(clip).score(scorers.pictures(1), scorers.pictures(2))
