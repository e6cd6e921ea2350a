"""`record` and `substitute`: the maps are right, the image stays the same to the bit, and nothing is left behind."""

from __future__ import annotations

import copy
import math
from functools import partial
from itertools import cycle
from typing import Any

import naive
import pytest
import torch
import torch.nn.functional as F
from conftest import KINDS
from crosses import all_pairs
from test_guidance import PROMPTS, SEEDS, N, W, denoiser_of, generate, trace

from shapefirst.attention.recording import class_weights, kl_divergence, record, substitute
from shapefirst.errors import ShapefirstError, UnsupportedPipelineError
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.models import SAMPLERS
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts.tokens import Positions, positions
from shapefirst.sampling.loop import decode, denoise, encode, generators

OTHER = ["a blue house", "one bird"]
STEPS = set(range(N))


@pytest.fixture
def make_pipe(make_pipe):
    """With maps of several layers and resolutions."""
    return partial(make_pipe, deep=True)


def cross_layers(pipe: Any) -> dict[str, Any]:
    return {name: m for name, m in denoiser_of(pipe).named_modules() if name.endswith("attn2")}


def processors(pipe: Any) -> list[Any]:
    return list(denoiser_of(pipe).attn_processors.values())


def finals(steps: Any) -> torch.Tensor:
    return list(steps)[-1].x_next


class NaiveMaps:
    """Every head's map of every cross-attention layer and call, written out, from what enters the layers."""

    def __init__(self, pipe: Any) -> None:
        self.maps: dict[str, list[torch.Tensor]] = {name: [] for name in cross_layers(pipe)}
        self.handles = [
            layer.register_forward_hook(self._see(name), with_kwargs=True) for name, layer in cross_layers(pipe).items()
        ]

    def _see(self, name: str) -> Any:
        def see(attn: Any, args: Any, kwargs: Any, out: Any) -> None:
            q, k = attn.to_q(args[0]), attn.to_k(kwargs["encoder_hidden_states"])
            d = q.shape[-1] // attn.heads
            heads = []
            for i in range(attn.heads):
                scores = torch.einsum("bpd,bld->bpl", q[..., i * d : (i + 1) * d], k[..., i * d : (i + 1) * d])
                scores = scores / math.sqrt(d)
                if kwargs.get("attention_mask") is not None:
                    scores = scores + kwargs["attention_mask"]
                heads.append(scores.softmax(-1))
            self.maps[name].append(torch.stack(heads, 1))  # (rows, heads, pixels, tokens)

        return see

    def __enter__(self) -> dict[str, list[torch.Tensor]]:
        return self.maps

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()


# --- recording ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "sampler"),
    all_pairs([{}, {"null": True, "full": True, "size": 3}, {"resolutions": [4]}], KINDS, ["ddim", "heun"]),
)
def test_recording_leaves_the_image_the_same_bit_for_bit(make_pipe, kind, sampler, options):
    pipe = make_pipe(kind, sampler)
    before, stock = processors(pipe), generate(pipe)
    with record(pipe, **options) as maps:
        assert torch.equal(generate(pipe), stock)
        ours = [p for p, old in zip(processors(pipe), before, strict=True) if p is not old]
        assert len(ours) == len(cross_layers(pipe)) < len(before)  # self-attention keeps its processors
        assert set(maps.text) == STEPS
    assert all(a is b for a, b in zip(processors(pipe), before, strict=True))
    assert torch.equal(generate(pipe), stock)


@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_the_softmax_written_out(make_pipe, kind):
    pipe, rows = make_pipe(kind), len(PROMPTS)
    with NaiveMaps(pipe) as expected:
        generate(pipe)
    with record(pipe, size=4, null=True, full=True) as maps:
        generate(pipe)
    for step in STEPS:
        for branch, half in (("null", slice(0, rows)), ("text", slice(rows, None))):
            layers, mean = getattr(maps, f"{branch}_layers")[step], 0
            for name, calls in expected.items():
                a = calls[step][half].transpose(2, 3)
                side = math.isqrt(a.shape[-1])
                a = a.unflatten(3, (side, side))
                assert torch.allclose(layers[name], a, atol=1e-6)
                mean = mean + F.adaptive_avg_pool2d(a.mean(1), 4) / len(expected)
            got = getattr(maps, branch)[step]
            assert got.shape == (rows, 77 if kind != "pixart" else 120, 4, 4)
            assert torch.allclose(got, mean, atol=1e-6)
            assert torch.allclose(got.sum(1), torch.ones(rows, 4, 4), atol=1e-5)


@pytest.mark.parametrize(("kind", "sampler"), list(zip(cycle(["sd-v", "pixart"]), SAMPLERS, strict=False)))
def test_the_readable_loop_gives_the_pipelines_maps(make_pipe, kind, sampler):
    """Also where it has a scheduler of its own and the pipeline's is left over from another generation."""
    pipe = make_pipe(kind, sampler)
    with record(pipe, size=4, null=True) as maps:
        generate(pipe)
        expected = copy.deepcopy(maps)
        generate(pipe, num_inference_steps=6)
        assert set(maps.text) == set(range(6))
        stock = finals(denoise(pipe, PROMPTS, num_inference_steps=N, guidance_scale=W, generator=generators(SEEDS)))
    for branch in ("text", "null"):
        got, stored = getattr(maps, branch), getattr(expected, branch)
        assert set(got) == set(stored) == STEPS
        assert all(naive.error(got[i], stored[i]) < 1e-4 for i in STEPS)
    plain = finals(denoise(pipe, PROMPTS, num_inference_steps=N, guidance_scale=W, generator=generators(SEEDS)))
    assert torch.equal(stock, plain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", ["null", "text"])
def test_steps_without_text_record_the_branch_that_ran(make_pipe, kind, keep):
    pipe = make_pipe(kind, "heun")
    with text_until(pipe, step=2, keep=keep):
        stock = generate(pipe)
    with record(pipe, null=True) as outer, text_until(pipe, step=2, keep=keep), record(pipe, null=True) as inner:
        assert torch.equal(generate(pipe), stock)
    with record(pipe, null=True) as looped:
        schedule = TextSchedule.until(2, keep=keep)
        finals(denoise(pipe, PROMPTS, schedule=schedule, num_inference_steps=N, guidance_scale=W,
                       generator=generators(SEEDS)))  # fmt: skip
    for maps in (outer, inner, looped):
        assert set(maps.text) == ({0, 1} if keep == "null" else STEPS)
        assert set(maps.null) == (STEPS if keep == "null" else {0, 1})
        kept = getattr(maps, keep)[3]
        assert naive.error(kept, getattr(outer, keep)[3]) < 1e-4
        assert not kept.is_inference()


@pytest.mark.parametrize("kind", KINDS)
def test_one_branch_alone(make_pipe, kind):
    """No guidance at all, and a loop whose first steps are null."""
    pipe = make_pipe(kind)
    options = {"num_inference_steps": N, "generator": generators(SEEDS)}
    with record(pipe, null=True) as maps:
        generate(pipe, guidance_scale=1.0)
        assert (set(maps.text), set(maps.null)) == (STEPS, set())
        finals(denoise(pipe, PROMPTS, guidance_scale=1.0, **options))
        assert (set(maps.text), set(maps.null)) == (STEPS, set())
    with record(pipe, null=True) as maps:
        finals(denoise(pipe, PROMPTS, schedule=TextSchedule.starting_at(2), guidance_scale=W, **options))
        assert (set(maps.text), set(maps.null)) == ({2, 3}, STEPS)


def test_two_images_of_one_seed_are_no_guided_batch(make_pipe):
    """Their rows are equal, as those of a guided batch are: `denoise` says which branch it runs."""
    pipe = make_pipe()
    options = {"num_inference_steps": N, "generator": generators([5, 5])}
    with record(pipe, null=True) as maps:
        finals(denoise(pipe, PROMPTS, guidance_scale=1.0, **options))
    assert (set(maps.text), set(maps.null)) == (STEPS, set())
    assert maps.text[0].shape[0] == 2


@pytest.mark.parametrize("own", [False, True])
def test_a_loop_of_ones_own(make_pipe, own):
    """With the pipeline's scheduler or a copy of it; guided in two steps, the null branch alone in the others."""
    pipe = make_pipe("sd-epsilon", "heun")
    prompts = encode(pipe, PROMPTS)
    with record(pipe, null=True) as expected:
        schedule = TextSchedule.until(2)
        finals(denoise(pipe, prompts, schedule=schedule, num_inference_steps=N, guidance_scale=W,
                       latents=naive.noise(SEEDS)))  # fmt: skip
    solver = copy.deepcopy(pipe.scheduler) if own else pipe.scheduler
    solver.set_timesteps(N)
    x = naive.noise(SEEDS) * solver.init_noise_sigma
    with record(pipe, null=True) as maps, torch.no_grad():
        for call, t in enumerate(solver.timesteps):
            x_in = solver.scale_model_input(x, t)
            if call // 2 < 2:
                both = torch.cat([prompts.null, prompts.text])
                eps_null, eps_text = pipe.unet(torch.cat([x_in] * 2), t, both).sample.chunk(2)
                eps = eps_null + W * (eps_text - eps_null)
            else:
                eps = pipe.unet(x_in, t, prompts.null).sample
            x = solver.step(eps, t, x).prev_sample
    assert (set(maps.text), set(maps.null)) == ({0, 1}, STEPS)
    for branch in ("text", "null"):
        got, wanted = getattr(maps, branch), getattr(expected, branch)
        assert all(naive.error(got[i], wanted[i]) < 1e-5 for i in wanted)


def test_a_fork_counts_its_steps_on(make_pipe):
    pipe = make_pipe("sd-epsilon", "heun")
    options = {"num_inference_steps": N, "guidance_scale": W}
    with record(pipe) as maps:
        steps = list(denoise(pipe, PROMPTS, generator=generators(SEEDS), **options))
        expected = copy.deepcopy(maps.text)
        finals(denoise(pipe, PROMPTS, start=steps[2], **options))
        assert set(maps.text) == {2, 3}
        assert all(torch.equal(maps.text[i], expected[i]) for i in maps.text)
        finals(denoise(pipe, PROMPTS, generator=generators(SEEDS), num_inference_steps=1, guidance_scale=W))
        assert set(maps.text) == {0}


def test_image_to_image_counts_the_steps_that_it_runs(make_pipe):
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline(**make_pipe("sd-epsilon", "heun").components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    with record(pipe) as maps:
        generate(pipe, ["a cat"], [1], image=torch.rand(1, 3, 16, 16), num_inference_steps=6, strength=0.5)
    assert set(maps.text) == {0, 1, 2}


@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_and_pictures_that_are_not_square(make_pipe, batch):
    pipe = make_pipe()
    prompts, seeds = ["a cat", "a red dog", "three birds"][:batch], [1, 2, 3][:batch]
    stock = generate(pipe, prompts, seeds, height=16, width=48)
    with record(pipe, size=12) as maps, record(pipe, size=5, resolutions=[24]) as fine:
        assert torch.equal(generate(pipe, prompts, seeds, height=16, width=48), stock)
    assert maps.text[0].shape == (batch, 77, 4, 12)
    assert fine.text[0].shape == (batch, 77, 2, 5)
    assert torch.allclose(maps.text[3].sum(1), torch.ones(batch, 4, 12), atol=1e-5)


def test_layers_by_resolution(make_pipe):
    pipe = make_pipe()
    with record(pipe, full=True) as maps:
        generate(pipe)
    sizes = {name: x.shape[-1] for name, x in maps.text_layers[0].items()}
    assert set(sizes) == set(cross_layers(pipe))
    assert set(sizes.values()) == {8, 4}
    with record(pipe, resolutions=[4], size=4, full=True) as small:
        generate(pipe)
    assert set(small.text_layers[0]) == {name for name, side in sizes.items() if side == 4}
    mean = torch.stack([x.mean(1) for x in small.text_layers[0].values()]).mean(0)
    assert torch.allclose(small.text[0], mean, atol=1e-6)
    message = r"one of the resolutions \[64\]; here they have \[4, 8\]"
    with pytest.raises(ShapefirstError, match=message), record(pipe, resolutions=[64]):
        generate(pipe)
    for bad in ({"size": 0}, {"size": 2.5}, {"resolutions": [8, -1]}):
        with pytest.raises(ShapefirstError, match="a whole number from 1 "):
            record(pipe, **bad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_processors_of_ones_own(make_pipe, dtype):
    from diffusers.models.attention_processor import AttnProcessor, SlicedAttnProcessor

    pipe = copy.deepcopy(make_pipe()).to(dtype)
    for processor in (None, AttnProcessor(), SlicedAttnProcessor(1)):
        if processor is not None:
            pipe.unet.set_attn_processor(processor)
        stock = generate(pipe)
        with record(pipe) as maps:
            assert torch.equal(generate(pipe), stock)
        assert maps.text[0].dtype == torch.float32
        assert torch.allclose(maps.text[0].sum(1), torch.ones(2, 16, 16), atol=1e-5)


def test_fused_projections_are_refused(make_pipe):
    pipe = copy.deepcopy(make_pipe())
    pipe.fuse_qkv_projections()
    with pytest.raises(UnsupportedPipelineError, match="undo fused projections"), record(pipe):
        generate(pipe)


# --- substituting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_all_keys_and_values_of_another_prompt_are_that_prompt(make_pipe, kind):
    """Its embeddings, to be exact: T5's mask of padding stays the first prompt's."""
    pipe = make_pipe(kind)
    a, b = encode(pipe, PROMPTS), encode(pipe, OTHER)
    every = range(a.text.shape[1])
    given = {"prompt_embeds": b.text, "negative_prompt_embeds": b.null}
    if a.text_mask is not None:
        given |= {"prompt_attention_mask": a.text_mask, "negative_prompt_attention_mask": a.null_mask}
        given["negative_prompt"] = None
    stock, expected = generate(pipe), generate(pipe, None, **given)
    assert naive.error(stock, expected) > 1e-3
    with substitute(pipe, b.text, every), record(pipe) as inner:
        x = generate(pipe)
    assert naive.error(x, expected) < 1e-5
    with record(pipe) as alone:
        generate(pipe, None, **given)
    assert all(naive.error(inner.text[i], alone.text[i]) < 1e-5 for i in STEPS)
    with (
        substitute(pipe, b.text, every, keys=True, values=False),
        substitute(pipe, b.text, every, keys=False, values=True),
    ):
        assert naive.error(generate(pipe), expected) < 1e-5
    options = {"num_inference_steps": N, "guidance_scale": W}
    with substitute(pipe, b.text, every):
        looped = finals(denoise(pipe, PROMPTS, generator=generators(SEEDS), **options))
    assert naive.error(looped, expected) < 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_substituted_is_the_stock_pipeline_bit_for_bit(make_pipe, kind):
    pipe = make_pipe(kind)
    stock, other = generate(pipe), encode(pipe, OTHER).text
    for places, options in (([], {}), ([[], []], {}), ([1], {"keys": False, "values": False})):
        with substitute(pipe, other, places, **options):
            assert torch.equal(generate(pipe), stock)
    with text_until(pipe, step=0):
        null = generate(pipe)
        with substitute(pipe, other, [0, 1, 2]):  # null rows are left alone
            assert torch.equal(generate(pipe), null)


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_keys_or_values_of_some_tokens(make_pipe, kind, keys):
    """Against the same edit made in the output of the layers' projections."""
    pipe = make_pipe(kind)
    other, places = encode(pipe, OTHER).text, [[1, 2], [3]]
    denoiser = denoiser_of(pipe)
    projected = denoiser.caption_projection(other) if kind == "pixart" else other

    def edit(project: Any, args: Any, y: torch.Tensor) -> torch.Tensor:
        y, new = y.clone(), F.linear(projected, project.weight, project.bias)
        for row, some in enumerate(places):
            for place in some:
                y[2 + row, place] = new[row, place]
        return y

    stock = generate(pipe)
    modules = [layer.to_k if keys else layer.to_v for layer in cross_layers(pipe).values()]
    handles = [module.register_forward_hook(edit) for module in modules]
    with torch.no_grad(), NaiveMaps(pipe) as maps:
        expected = generate(pipe)
    for handle in handles:
        handle.remove()
    block = substitute(pipe, other, places, keys=keys, values=not keys)
    with record(pipe, full=True) as outer, block, record(pipe) as inner:
        x = generate(pipe)
    assert naive.error(x, expected) < 1e-5
    assert naive.error(x, stock) > (1e-7 if keys else 1e-5)
    assert all(torch.equal(outer.text[i], inner.text[i]) for i in STEPS)
    for name, calls in maps.items():  # the maps are those of the substituted keys
        assert torch.allclose(outer.text_layers[3][name].flatten(3), calls[3][2:].transpose(2, 3), atol=1e-5)


def test_one_prompt_for_all_rows_and_the_inner_block_wins(make_pipe):
    pipe = make_pipe()
    other, third = encode(pipe, OTHER).text[:1], encode(pipe, "two red cars").text
    with substitute(pipe, other, [1, 2]):
        expected = generate(pipe)
    with substitute(pipe, other.expand(2, -1, -1), [[1, 2], [1, 2]]):
        assert torch.equal(generate(pipe), expected)
    with substitute(pipe, third, [2]), substitute(pipe, other, [1, 2]):
        assert torch.equal(generate(pipe), expected)
    with substitute(pipe, other, [1, 2]), substitute(pipe, third, [2]):
        assert not torch.equal(generate(pipe), expected)


def test_what_cannot_be_substituted(make_pipe):
    pipe = make_pipe()
    other = encode(pipe, OTHER).text
    for embeddings, places, message in (
        (other[..., :8], [1], r"of shape \(2, 77, 8\); this denoiser takes \(images, tokens, 16\)"),
        (other[0], [1], r"of floats, \(B, L, D\), not a Tensor of torch.float32, \(77, 16\)"),
        (other, [77], "no token position 77"),
        (other, [-1], "a whole number from 0 up"),
        (other, [[1], [1], [1]], "positions for 3 images but embeddings of 2"),
    ):
        with pytest.raises(ShapefirstError, match=message):
            substitute(pipe, embeddings, places)
    with pytest.raises(ShapefirstError, match="1 images but embeddings of 2"), substitute(pipe, other, [1]):
        generate(pipe, ["a cat"], [1])
    with pytest.raises(ShapefirstError, match="hold 70 tokens, the prompt 77"), substitute(pipe, other[:, :70], [1]):
        generate(pipe)


# --- blocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(make_pipe, kind):
    pipe = make_pipe(kind)
    before, own, stock = trace(pipe), processors(pipe), generate(pipe)

    def untouched() -> bool:
        return trace(pipe) == before and all(a is b for a, b in zip(processors(pipe), own, strict=True))

    with pytest.raises(KeyError, match="mine"), record(pipe):
        raise KeyError("mine")
    assert untouched()

    def give_up(*_: Any) -> None:
        raise KeyboardInterrupt

    options = {"callback": give_up} if kind == "pixart" else {"callback_on_step_end": give_up}
    blocks = (substitute(pipe, encode(pipe, OTHER).text, [1]), record(pipe), guide(pipe, TextSchedule.until(2)))
    with pytest.raises(KeyboardInterrupt), blocks[0], blocks[1], blocks[2], record(pipe):
        generate(pipe, **options)
    assert untouched()

    with record(pipe) as outer:
        with record(pipe, size=4):
            pass
        assert not untouched()  # the outer block still holds
        assert torch.equal(generate(pipe), stock)
    assert set(outer.text) == STEPS
    with text_until(pipe, step=1), record(pipe):
        pass
    assert untouched()


def test_after_an_aborted_generation_the_next_one_is_right(make_pipe):
    pipe = make_pipe("sd-epsilon", "heun")

    def stop(pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step == 3:  # counts evaluations, of which Heun makes two a step
            raise RuntimeError("out of patience")
        return kwargs

    with record(pipe) as maps:
        generate(pipe)
        expected = copy.deepcopy(maps.text)
        with pytest.raises(RuntimeError, match="out of patience"):
            generate(pipe, callback_on_step_end=stop)
        assert set(maps.text) == {0, 1}
        generate(pipe)
        assert all(torch.equal(maps.text[i], expected[i]) for i in STEPS)


def test_a_denoiser_shared_by_two_pipelines(make_pipe):
    one, other = make_pipe(), make_pipe()
    with record(one), pytest.raises(ShapefirstError, match="in use through another pipeline"), record(other):
        pass


# --- what maps tell -------------------------------------------------------------------------------------------------


def test_the_share_of_each_class_of_tokens(make_pipe):
    pipe = make_pipe()
    with record(pipe) as maps:
        generate(pipe)
    x, places = maps.text[2], [positions(pipe.tokenizer, prompt) for prompt in PROMPTS]
    shares = class_weights(x, places)
    for row, where in enumerate(places):
        for name, tokens in (("sos", where.sos), ("sem", where.sem), ("eos", where.eos + where.padding)):
            expected = sum(float(x[row, token].mean()) for token in tokens)
            assert float(shares[name][row]) == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(sum(shares.values()), torch.ones(2), atol=1e-5)
    assert torch.equal(class_weights(x[:1], places[0])["sem"], shares["sem"][:1])
    t5 = class_weights(torch.full((1, 4, 2, 2), 0.25), Positions((), (0, 1), (2,), (3,)))
    assert {name: float(share) for name, share in t5.items()} == {"sos": 0, "sem": 0.5, "eos": 0.5}
    with pytest.raises(ShapefirstError, match="maps of 2 images but positions of 1"):
        class_weights(x, places[:1])
    with pytest.raises(ShapefirstError, match="hold 76 tokens"):
        class_weights(x[:, :-1], places)


def test_kl_divergence_is_the_formula():
    p, q = torch.rand(2, 5, 3, 4), torch.rand(2, 5, 3, 4)
    p[0, 0] = 0  # a masked token: 0 log 0 = 0
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    for row in range(2):
        total = 0.0
        for y in range(3):
            for x in range(4):
                for token in range(5):
                    a, b = float(p[row, token, y, x]), float(q[row, token, y, x])
                    total += a * math.log(a / b) / 12 if a else 0.0
        assert float(kl_divergence(p, q)[row]) == pytest.approx(total, rel=1e-4)
    assert kl_divergence(p, q, over="pixels")[1, 2] == pytest.approx(
        float(F.kl_div((q[1, 2] / q[1, 2].sum()).log(), p[1, 2] / p[1, 2].sum(), reduction="sum")), rel=1e-4
    )
    assert kl_divergence(p, p).abs().max() < 1e-7
    entropy = -(torch.xlogy(p, p)).sum(1).mean((1, 2))
    assert torch.allclose(kl_divergence(p, torch.ones_like(p)).float(), math.log(5) - entropy, atol=1e-5)
    with pytest.raises(ShapefirstError, match="cannot be compared"):
        kl_divergence(p, q[:, :4])


def test_recorded_images_decode_as_ever(make_pipe):
    pipe = make_pipe()
    with record(pipe):
        assert decode(pipe, generate(pipe))[0].size == (16, 16)
