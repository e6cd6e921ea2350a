"""What pocket-dit and the models for the studies of causes have of their own: a T5, a transformer, coloured noise."""

import json
import random
import shutil

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file
from torch import nn

from shapefirst.models import load
from shapefirst.models.catalogue import NOISE_FILTER, POCKET
from shapefirst.training import denoiser, language, noise
from shapefirst.training.stage import run_stage
from shapefirst.training.stages import CURRICULA, MAKES, adopt
from shapefirst.world.scenes import sample_scene
from shapefirst.world.vocabulary import ATTRIBUTES, HELD_OUT, NOUNS, RELATIONS

SENTINELS = list(range(900, 916))


@pytest.fixture(scope="module")
def tokenizer():
    return language.build_t5_tokenizer()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered")
    run_stage(folder, "pocket", "smoke", 0, "render")
    return folder / "renders"


@pytest.fixture
def begin(rendered, tmp_path):
    """What lies in the folder before a model's second stage."""

    def taken_over(model):
        adopt([(POCKET / part, part, target) for part, target in CURRICULA[model].borrowed], tmp_path)
        shutil.copytree(rendered, tmp_path / "renders")

    return taken_over


def test_pocket_dit_ends_in_a_stock_pixart_pipeline_that_reads_what_it_was_trained_on(begin, tmp_path):
    begin("pocket-dit")
    for stage in CURRICULA["pocket-dit"].stages[:-1]:
        run_stage(tmp_path, "pocket-dit", "smoke", 0, stage)
    from diffusers import PixArtAlphaPipeline

    pipe = PixArtAlphaPipeline.from_pretrained(tmp_path / "weights")
    pipe.set_progress_bar_config(disable=True)
    seen = {}
    pipe.transformer.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    captions = json.loads((tmp_path / MAKES["render"]).read_text())["captions"]
    made = pipe(captions[0], num_inference_steps=1, output_type="np", use_resolution_binning=False)
    assert made.images.shape == (1, 64, 64, 3)

    encoded = load_file(tmp_path / MAKES["encode"])
    length = encoded["states"].shape[1]
    for row, read in ((0, 0), (int(encoded["rows"][0]), 1)):  # the pipeline's batch: the empty prompt, the caption
        mask = encoded["masks"][row]
        assert torch.equal(seen["encoder_attention_mask"][read, :length].bool(), mask)
        assert seen["encoder_attention_mask"][read, length:].sum() == 0
        states = seen["encoder_hidden_states"][read, :length]
        assert torch.allclose(states[mask], encoded["states"][row, mask].float(), atol=2e-2)


def test_the_noise_of_an_equal_snr_model_lies_beside_it_and_is_the_latents_spectrum(begin, tmp_path):
    begin("pocket-equal-snr")
    for stage in CURRICULA["pocket-equal-snr"].stages:
        run_stage(tmp_path, "pocket-equal-snr", "smoke", 0, stage)
    kept = load_file(tmp_path / "weights" / NOISE_FILTER)["filter"]
    latents = load_file(tmp_path / MAKES["encode"])["latents"]
    assert torch.equal(kept, noise.filter_like(latents))
    with pytest.warns(UserWarning, match="starts from white noise"):
        load(tmp_path / "weights")
    assert kept[:, 0, 1].mean() > 3 * kept[:, 8, 8].mean()  # low frequencies are strong in latents, as in images


def test_in_every_band_coloured_noise_has_the_share_of_power_that_the_latents_have():
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(600, 4, 18, 18, generator=g), 3, 1)
    h = noise.filter_like(smooth)
    white = torch.randn(4000, 4, 16, 16, generator=g)
    drawn = noise.coloured(white, h)
    assert drawn.var().item() == pytest.approx(1, abs=0.02)
    power = [torch.fft.fft2(x).abs().square().mean(0) for x in (smooth, drawn)]
    ratios = [(p[:, :2, :2].mean() / p[:, 7:9, 7:9].mean()).item() for p in power]
    assert ratios[0] > 10
    assert ratios[1] == pytest.approx(ratios[0], rel=0.25)
    assert torch.allclose(noise.coloured(drawn, 1 / h), white, atol=1e-3)
    assert noise.coloured(white, None) is white


@given(st.lists(st.integers(0, 800), min_size=1, max_size=60), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_what_is_hidden_can_be_put_back(words, seed):
    """The law of span corruption: the spans, put where their sentinels stand, make the text again."""
    read, written = language.hide(words, SENTINELS, random.Random(seed))
    spans, last = {}, None
    for token in written:
        if token in SENTINELS:
            last = token
            spans[last] = []
        else:
            spans[last].append(token)
    assert all(spans.values())
    assert spans
    assert [t for token in read for t in spans.get(token, [token])] == words


def test_every_word_of_the_world_is_one_token_and_every_text_comes_back(tokenizer):
    for phrase in (*NOUNS, *ATTRIBUTES, *RELATIONS):
        tokens = tokenizer(phrase).input_ids
        assert len(tokens) == len(phrase.split()) + 1
        assert tokens[-1] == tokenizer.eos_token_id
    for text in ("a zebra, isn't it?", "Photo of 3 dogs (1/2) & more"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert tokenizer("").input_ids == [tokenizer.eos_token_id]


def test_texts_say_only_what_is_so_and_hold_no_combination_that_is_held_out(tokenizer):
    dice, rng = random.Random(0), np.random.default_rng(0)
    for _ in range(300):
        scene = sample_scene(rng)
        text = language.text_about(scene, dice)
        assert text
        assert tokenizer.unk_token_id not in tokenizer(text).input_ids
        assert len(tokenizer(scene.caption).input_ids) <= denoiser.LONGEST
        own = {(o.attribute, o.noun) for o in scene.objects}
        for sentence in text.split(". "):
            words = sentence.split()
            nouns, attributes = [w for w in words if w in NOUNS], [w for w in words if w in ATTRIBUTES]
            assert set(nouns) <= {n for _, n in own}
            if attributes:
                assert set(zip(attributes, nouns, strict=True)) <= own - HELD_OUT


def test_without_padding_no_loss_reaches_a_position_after_the_first_eos(begin, tmp_path, monkeypatch):
    from shapefirst.training import text
    from shapefirst.training.loop import Recipe, TrainingRun

    begin("pocket-plain-padding")
    run_stage(tmp_path, "pocket-plain-padding", "smoke", 0, "teacher")
    from shapefirst.measure.judge import Judge
    from shapefirst.world import renders

    reached = {}

    def one_step(_, learning, loss, recipe, run):
        """The gradient at each position of the text encoder's output, in a step that sees all positions."""
        states = {}
        learning["text"].final_layer_norm.register_forward_hook(
            lambda *a: a[-1].retain_grad() or states.update(x=a[-1])
        )
        loss(0, torch.Generator().manual_seed(0))["loss"].backward()
        reached["x"] = states["x"].grad.abs().sum((0, -1))
        return learning.state_dict()

    monkeypatch.setattr(text, "fit", one_step)
    world = renders.read(tmp_path / "renders")
    given_ = world, Judge.load(tmp_path / "teacher"), Recipe(1, 16, 0.0), TrainingRun(tmp_path, 0, torch.device("cpu"))
    text.train_text(*given_)
    assert reached["x"][20:].sum() > 0
    text.train_text(*given_, padding=False)
    assert reached["x"][20:].sum() == 0
    assert reached["x"].sum() > 0


def test_a_refined_network_reads_and_writes_smaller_patches_as_the_coarse_one_did_larger_ones():
    torch.manual_seed(0)
    coarse = denoiser.build_transformer(24, patch_size=4)
    nn.init.normal_(coarse.proj_out.weight)
    nn.init.normal_(coarse.proj_out.bias)
    fine = denoiser.refined(coarse)
    assert fine.config.patch_size == 2

    own, before = fine.state_dict(), coarse.state_dict()
    changed = {name for name in own if own[name].shape != before[name].shape}
    assert changed == {"pos_embed.proj.weight", "proj_out.weight", "proj_out.bias"}
    assert all(torch.equal(own[name], before[name]) for name in own.keys() - changed)

    # Patches of 4 x 4 that are one of 2 x 2 four times over: all four are read as the whole was.
    small = torch.randn(1, 4, 2, 2)
    read, whole = fine.pos_embed.proj(small.repeat(1, 1, 8, 8)), coarse.pos_embed.proj(small.repeat(1, 1, 8, 8))
    assert torch.allclose(read, whole.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-5)
    # And of the same features the mean of the four is written.
    features = torch.randn(1, 224)
    written = coarse.proj_out(features).view(2, 2, 2, 2, 4).mean((0, 2))
    assert torch.allclose(fine.proj_out(features).view(2, 2, 4), written, atol=1e-5)
    # Where a patch of the one begins, there a patch of the other begins.
    places = fine.pos_embed.pos_embed.view(8, 8, -1)[::2, ::2].flatten(0, 1)
    assert torch.allclose(places, coarse.pos_embed.pos_embed[0], atol=1e-6)
