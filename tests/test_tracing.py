"""Heat maps are the softmax written out, by word, step, layer and head; edits are what F4 and A1 to A3 do."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import diffusers
import naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import _clip_tokenizer, _t5_tokenizer, _text_encoder
from PIL import Image
from test_attention import NaiveMaps
from test_guidance import PROMPTS, SEEDS, N, W, generate
from tiny.pictures import _sd3_sizes, autoencoder, flow

from shapefirst.attention.editing import edit
from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.blocks import guide
from shapefirst.images import overlays
from shapefirst.images.heat_maps import trace
from shapefirst.images.overlays import write_overlays
from shapefirst.models import load
from shapefirst.prompts.edits import blank, keep_only, noise, switch_eos
from shapefirst.prompts.reading import Reading
from shapefirst.prompts.tokens import phrase_positions, positions
from shapefirst.sampling.loop import denoise, encode, generators

PICTURE = Image.new("RGB", (64, 64), "red")
KINDS = ["sd-epsilon", "pixart", "sdxl"]
STEPS = list(range(N))


@pytest.fixture
def make_pipe(make_pipe):
    return partial(make_pipe, deep=True)


@pytest.fixture
def sd3(tmp_path) -> Any:
    """Two CLIPs and a T5 of one width, of random weights."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    clip, t5 = _clip_tokenizer(tmp_path), _t5_tokenizer()
    sizes = {**_sd3_sizes(), "joint_attention_dim": 64, "sample_size": 16}
    transformer = diffusers.SD3Transformer2DModel(pooled_projection_dim=32, qk_norm="rms_norm", **sizes)
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(),
        scheduler=flow(),
        vae=autoencoder(16),
        text_encoder=_text_encoder(clip, "CLIPTextModelWithProjection"),
        tokenizer=clip,
        text_encoder_2=_text_encoder(clip, "CLIPTextModelWithProjection"),
        tokenizer_2=clip,
        text_encoder_3=T5EncoderModel(
            T5Config(vocab_size=len(t5), d_model=64, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
        ).eval(),
        tokenizer_3=t5,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


# --- tracing


@pytest.mark.parametrize("kind", KINDS)
def test_a_heat_map_is_the_softmax_written_out(make_pipe, kind):
    pipe = make_pipe(kind)
    stock = generate(pipe)
    with NaiveMaps(pipe) as expected, trace(pipe, heads=True) as seen:
        assert torch.equal(generate(pipe), stock)
    length = 120 if kind == "pixart" else 77
    assert (seen.prompts, seen.steps, set(seen.layers)) == (PROMPTS, STEPS, set(expected))
    for image, prompt in enumerate(PROMPTS):
        word = seen.words(image)[-1]
        places = list(phrase_positions(pipe.tokenizer, prompt, word, length))
        row, sides = len(PROMPTS) + image, []
        for name, calls in expected.items():
            for step in STEPS:
                a = calls[step][row][..., places].sum(-1)  # (heads, pixels)
                side = math.isqrt(a.shape[-1])
                sides.append(a.mean(0).view(side, side))
                one = seen.heat_map(word, image=image, steps=[step], layers=[name])
                assert np.allclose(one.values, sides[-1].numpy(), atol=2e-3)
                head = seen.heat_map(word, image=image, steps=[step], layers=[name], heads=[1])
                assert np.allclose(head.values, a[1].view(side, side).numpy(), atol=2e-3)
        largest = max(len(one) for one in sides)
        whole = [F.interpolate(one[None, None], (largest, largest), mode="bilinear")[0, 0] for one in sides]
        assert np.allclose(seen.heat_map(word, image=image).values, torch.stack(whole).mean(0).numpy(), atol=2e-3)


def test_joint_attention_is_the_words_part_of_it(sd3):
    """Of CLIP's tokens and of T5's together; the picture's own part is left out."""
    layers = {f"transformer_blocks.{i}.attn": block.attn for i, block in enumerate(sd3.transformer.transformer_blocks)}
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in layers}

    def see(name: str, attn: Any, args: Any, kwargs: Any, out: Any) -> None:
        def split(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        x, c = kwargs["hidden_states"], kwargs["encoder_hidden_states"]
        q, k = attn.norm_q(split(attn.to_q(x))), attn.norm_k(split(attn.to_k(x)))
        k = torch.cat([k, attn.norm_added_k(split(attn.add_k_proj(c)))], 2)
        a = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(-1)
        kept[name].append(a[1, :, :, x.shape[1] :].mean(0))  # the text branch's one row

    handles = [attn.register_forward_hook(partial(see, name), with_kwargs=True) for name, attn in layers.items()]
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent", "max_sequence_length": 20}
    call |= {"guidance_scale": W, "generator": generators([0])}
    with trace(sd3) as seen:
        sd3("a red cat", **call)
    for handle in handles:
        handle.remove()
    assert list(kept) == seen.layers
    clip = phrase_positions(sd3.tokenizer, "a red cat", "cat", 77)
    t5 = phrase_positions(sd3.tokenizer_3, "a red cat", "cat", 20)
    assert clip
    assert t5
    places = [*clip, *(77 + place for place in t5)]
    for name, calls in kept.items():
        for step, attention in enumerate(calls):
            found = seen.heat_map("cat", steps=[step], layers=[name]).values
            side = found.shape[0]
            assert np.allclose(found, attention[:, places].sum(-1).view(side, side).detach().numpy(), atol=2e-3)


def test_a_long_picture_s_maps_are_averaged_down_to_the_size(make_pipe):
    pipe = make_pipe()
    with trace(pipe) as fine, trace(pipe, size=4) as coarse:
        generate(pipe, ["a cat"], [1], height=16, width=48)
    assert fine.heat_map("cat").values.shape == (8, 24)
    assert coarse.heat_map("cat").values.shape == (1, 4)
    assert math.isclose(fine.heat_map("cat").values.mean(), coarse.heat_map("cat").values.mean(), rel_tol=0.02)


def test_a_trace_beside_a_policy_has_the_steps_that_used_the_text(make_pipe):
    pipe = make_pipe()
    with trace(pipe) as seen, guide(pipe, "paper:2"):
        generate(pipe)
    assert seen.steps == [0, 1]
    with trace(pipe, prompts=PROMPTS) as looped:
        list(denoise(pipe, PROMPTS, num_inference_steps=N, guidance_scale=W, generator=generators(SEEDS)))
    with trace(pipe) as stock:
        generate(pipe)
    assert np.allclose(looped.heat_map("cat").values, stock.heat_map("cat").values, atol=1e-3)


def test_several_images_of_a_prompt_and_its_overlay(make_pipe):
    pipe = make_pipe()
    with trace(pipe) as seen:
        pipe(["a cat", "a red dog"], num_images_per_prompt=2, num_inference_steps=2, output_type="latent")
    assert seen.prompts == ["a cat", "a cat", "a red dog", "a red dog"]
    image = Image.new("RGB", (64, 32), "grey")
    assert seen.heat_map("red dog", image=3).overlay(image).size == (192, 96)
    for special in ("[SOS]", "[SEM]", "[EOS]"):
        assert seen.heat_map(special).values.max() > 0


@pytest.mark.parametrize("kind", ["sd-epsilon", "sdxl"])
def test_a_word_that_occurs_twice_has_two_maps(make_pipe, kind):
    pipe = make_pipe(kind)
    with trace(pipe) as seen:
        generate(pipe, ["a red cat, a dog"], [0])
    assert seen.words() == ["a", "red", "cat", "a", "dog"]
    first, second = (seen.heat_map(n) for n in (0, 3))
    assert (first.words, second.words) == ("a", "a")
    assert np.array_equal(first.values, seen.heat_map("a").values)
    assert np.abs(first.values - second.values).max() > 1e-4
    assert np.array_equal(seen.heat_map(4).values, seen.heat_map("dog").values)


def test_a_sheet_shows_the_picture_first_and_each_word_in_its_turn(make_pipe, tmp_path, monkeypatch):
    rows: dict[str, Any] = {}
    monkeypatch.setattr(overlays, "contact_sheet", lambda cells, **how: (rows.update(how, cells=cells), PICTURE)[1])
    pipe = make_pipe()
    with trace(pipe) as seen:
        generate(pipe, ["a red cat, a dog"], [0])
    files, _ = write_overlays(seen, PICTURE, range(5), tmp_path)
    assert rows["row_titles"] == ["a", "red", "cat", "a", "dog"]
    assert all(row[0].image is PICTURE for row in rows["cells"])
    assert rows["cells"][1][1].caption.startswith("red: ")
    assert len({file.name for file in files}) == 6


def test_on_pocket_words_lie_on_their_objects():
    pipe = load("pocket", sampler="dpm-solver")
    with trace(pipe) as seen:
        pipe(
            "a wooden house above a blue fish", num_inference_steps=12, generator=generators([0]), output_type="latent"
        )
    for word, is_above in (("wooden", True), ("house", True), ("blue", False), ("fish", False)):
        above, below = np.split(seen.heat_map(word).values, 2)
        assert (above.max() > below.max()) == is_above, word


def test_what_cannot_be_traced_is_said(make_pipe):
    pipe = make_pipe()
    with trace(pipe) as seen:
        with pytest.raises(ShapefirstError, match="Nothing was traced"):
            seen.heat_map("cat")
        generate(pipe, ["a cat"], [0])
    for wrong, message in (
        ({"words": "dog"}, "'dog' do not occur"),
        ({"words": 2}, "no word 2 in this trace: there are 0, 1"),
        ({"words": "cat", "image": 1}, "no image 1 in this trace: there are 0"),
        ({"words": "cat", "steps": [9]}, "no step 9"),
        ({"words": "cat", "steps": []}, "at least one"),
        ({"words": "cat", "layers": "nowhere"}, "'nowhere' in its name"),
        ({"words": "cat", "heads": [0]}, r"trace\(pipe, heads=True\)"),
    ):
        with pytest.raises(ShapefirstError, match=message):
            seen.heat_map(**wrong)
    embeddings = encode(pipe, ["a cat"])
    given = {"prompt_embeds": embeddings.text, "negative_prompt_embeds": embeddings.null}
    with pytest.raises(ShapefirstError, match=r"trace\(pipe, prompts=\.\.\.\)"), trace(pipe):
        generate(pipe, None, [0], **given)
    with trace(pipe, prompts="a cat") as told:
        generate(pipe, None, [0], **given)
    assert np.array_equal(told.heat_map("cat").values, seen.heat_map("cat").values)


# --- editing


def changed(pipe: Any, text: torch.Tensor) -> torch.Tensor:
    """The latents of the stock pipeline that is given these embeddings in the text branch, all else as it was."""
    own = encode(pipe, PROMPTS)
    given = {"prompt_embeds": text, "negative_prompt_embeds": own.null}
    if own.text_mask is not None:
        given |= {"prompt_attention_mask": own.text_mask, "negative_prompt_attention_mask": own.null_mask}
        given["negative_prompt"] = None
    if own.text_pooled is not None:
        given |= {"pooled_prompt_embeds": own.text_pooled, "negative_pooled_prompt_embeds": own.null_pooled}
    return generate(pipe, None, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_edits_are_those_of_the_embeddings_on_a_stock_pipeline(make_pipe, kind):
    pipe = make_pipe(kind)
    text = encode(pipe, PROMPTS).text
    length, other = text.shape[1], ["one blue bird"] * 2
    at, other_at = ([positions(pipe.tokenizer, p, length) for p in texts] for texts in (PROMPTS, other))
    ends = [p.paper_eos for p in at]
    empty = encode(pipe, [""]).text.expand_as(text)
    with_empty = text.clone()
    for b, places in enumerate(ends):
        with_empty[b, list(places)] = empty[b, list(places)]
    for options, expected in (
        ({"eos_of": other[0]}, switch_eos(text, encode(pipe, other).text, at, other_at)),
        ({"drop": ["[EOS]", "[PAD]"]}, blank(text, ends)),
        ({"keep": ["[EOS]", "[PAD]"]}, keep_only(text, ends)),
        ({"drop": "[SEM]", "fill": "noise", "seed": 5}, noise(text, [p.sem for p in at], [5, 6])),
        ({"drop": ("[EOS]", "[PAD]"), "fill": "empty"}, with_empty),
    ):
        reference = changed(pipe, expected)
        with edit(pipe, **options):
            assert naive.error(generate(pipe), reference) < 1e-5, options
    stock = generate(pipe)
    with edit(pipe, drop="[SEM]", steps=()):
        assert torch.equal(generate(pipe), stock)


def test_a_word_replaced_is_read_in_the_same_prompt_and_nothing_else_changes(make_pipe):
    pipe = make_pipe()
    text = encode(pipe, PROMPTS).text
    words = {p: p.split()[-1] for p in PROMPTS}
    assert len(set(words.values())) == 2
    for word in words.values():
        expected = text.clone()
        for b, prompt in enumerate(PROMPTS):
            if word not in prompt.split():
                continue
            other = prompt.replace(word, "fire truck")
            there = phrase_positions(pipe.tokenizer, other, "fire truck")
            here = phrase_positions(pipe.tokenizer, prompt, word)
            source = encode(pipe, [other]).text[0]
            for n, place in enumerate(here):
                expected[b, place] = source[there[min(n, len(there) - 1)]]
        one = next(p for p in PROMPTS if word in p.split())
        b = PROMPTS.index(one)
        with edit(pipe, replace={word: "fire truck"}):
            got = generate(pipe, [one], [SEEDS[b]])
        assert naive.error(got, changed(pipe, expected)[b : b + 1]) < 1e-4


def test_edits_nest_and_last_for_some_steps(make_pipe):
    pipe = make_pipe()
    with edit(pipe, drop="[SEM]"), edit(pipe, drop=["[EOS]", "[PAD]", "[SOS]"]):
        nothing = generate(pipe)
    assert naive.error(nothing, changed(pipe, torch.zeros_like(encode(pipe, PROMPTS).text))) < 1e-5
    with edit(pipe, drop="[SEM]", steps=range(N)):
        whole = generate(pipe)
    with edit(pipe, drop="[SEM]"):
        assert torch.equal(generate(pipe), whole)
    with edit(pipe, drop="[SEM]", steps=[0]):
        first = generate(pipe)
    assert naive.error(first, whole) > 1e-4
    assert naive.error(first, generate(pipe)) > 1e-4


def test_an_edit_that_changes_nothing_is_told(make_pipe):
    pixart = make_pipe("pixart")
    no_sos = r"There is no \[SOS\] among the tokens of 'a red car': nothing to drop"
    with pytest.raises(ShapefirstError, match=no_sos), edit(pixart, drop="[SOS]"):
        generate(pixart, ["a red car"], [0])
    with trace(pixart) as seen:
        generate(pixart, ["a red car"], [0])
    with pytest.raises(ShapefirstError, match=r"There is no \[SOS\] among the tokens"):
        seen.heat_map("[SOS]")
    pipe = make_pipe()
    too_late = f"none of its steps is among the {N} that were sampled"
    with pytest.warns(UserWarning, match=too_late), edit(pipe, drop="[SEM]", steps=range(N, N + 5)):
        late = generate(pipe)
    assert torch.equal(late, generate(pipe))


def test_sd3_is_edited_at_the_denoiser_s_door(sd3):
    call = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "latent", "max_sequence_length": 20}
    call |= {"guidance_scale": W}
    text, null, pooled, null_pooled = sd3.encode_prompt("a red cat", None, None, max_sequence_length=20)
    expected = text.clone()
    expected[:, list(Reading(sd3, "a red cat", text.shape[1]).places("red"))] = 0
    assert (expected == 0).all(2).sum() > 1
    given = {"prompt_embeds": expected, "negative_prompt_embeds": null, "pooled_prompt_embeds": pooled}
    given["negative_pooled_prompt_embeds"] = null_pooled
    reference = sd3(**given, generator=generators([0]), **call).images
    with edit(sd3, drop="red"):
        found = sd3("a red cat", generator=generators([0]), **call).images
    assert naive.error(found, reference) < 1e-5
    assert naive.error(found, sd3("a red cat", generator=generators([0]), **call).images) > 1e-6


def test_what_cannot_be_edited_is_said(make_pipe, sd3):
    pipe = make_pipe()
    for wrong in ({}, {"drop": "a", "keep": "a"}, {"drop": []}, {"replace": {}}):
        with pytest.raises(ShapefirstError, match="takes one of drop=, keep=, replace= and eos_of="):
            edit(pipe, **wrong)
    with pytest.raises(ShapefirstError, match="'unicorn' do not occur"), edit(pipe, drop="unicorn"):
        generate(pipe)
    with pytest.raises(ShapefirstError, match="'unicorn' do not occur"), edit(pipe, replace={"unicorn": "cat"}):
        generate(pipe)
    from shapefirst.attention import substitute

    with pytest.raises(UnsupportedPipelineError, match="joint attention"):
        substitute(sd3, torch.zeros(1, 97, 64), [1])
