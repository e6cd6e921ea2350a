"""The written-out sampling loop gives the pipeline's images, and tells the truth about each step."""

from __future__ import annotations

import dataclasses
import itertools

import naive
import numpy as np
import pytest
import torch
from alphabets import bytes_of_clip, ids_read, reading_with, with_inversion
from conftest import KINDS
from crosses import all_pairs
from test_guidance import PROMPTS, SEEDS, N, W, generate

from shapefirst.errors import ShapefirstError
from shapefirst.guidance.blocks import guide, text_until
from shapefirst.models import SAMPLERS
from shapefirst.policies.correction import first_departure
from shapefirst.policies.schedule import TextSchedule
from shapefirst.prompts.tokens import preprocessed
from shapefirst.sampling.loop import Embeddings, decode, denoise, encode, generators

OPTIONS = {"num_inference_steps": N, "guidance_scale": W}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_the_pipeline(make_pipe, kind, sampler):
    pipe = make_pipe(kind, sampler)
    before = dict(vars(pipe.scheduler))
    schedule = TextSchedule.until(2)
    steps = list(denoise(pipe, PROMPTS, schedule=schedule, generator=generators(SEEDS), **OPTIONS))
    assert vars(pipe.scheduler).keys() == before.keys()
    assert all(vars(pipe.scheduler)[name] is before[name] for name in before)  # the pipeline's own is not touched

    assert [step.index for step in steps] == list(range(N))
    assert all(torch.equal(one.x_next, other.x_t) for one, other in itertools.pairwise(steps))
    with guide(pipe, schedule):
        assert naive.error(steps[-1].x_next, generate(pipe)) < 1e-5
    assert [step.eps_text is None for step in steps] == [False, False, True, True]
    assert all(step.eps_null is not None for step in steps)


@pytest.mark.parametrize(("sampler", "keep", "order"), all_pairs(SAMPLERS, ["null", "text", "neither"], [0, 1, 2]))
def test_it_extrapolates_as_the_pipeline_does_and_so_does_a_fork(make_pipe, sampler, keep, order):
    pipe = make_pipe("sd-v", sampler)
    options = {**OPTIONS, "num_inference_steps": 6}
    schedule = TextSchedule.at([0, 1, 2, 4], keep=keep, order=order)
    steps = list(denoise(pipe, PROMPTS, schedule=schedule, generator=generators(SEEDS), **options))
    with guide(pipe, schedule):
        assert naive.error(steps[-1].x_next, generate(pipe, num_inference_steps=6)) < 1e-5
    assert [step.eps_null is None for step in steps] == [keep != "null" and i in (3, 5) for i in range(6)]
    assert [step.eps_text is None for step in steps] == [keep != "text" and i in (3, 5) for i in range(6)]

    full = list(denoise(pipe, PROMPTS, generator=generators(SEEDS), **options))
    leaves = 0 if sampler.startswith("unipc") and keep == "neither" else 3  # the former corrects no step before the gap
    assert first_departure(schedule, 6, pipe.scheduler) == leaves
    forked = list(denoise(pipe, PROMPTS, schedule=schedule, start=full[leaves], **options))
    assert naive.error(forked[-1].x_next, steps[-1].x_next) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", [W, 1.0])
def test_guidance_scale_and_kept_text(make_pipe, kind, w):
    pipe = make_pipe(kind)
    schedule = TextSchedule.until(2, keep="text")
    options = {"num_inference_steps": N, "guidance_scale": w}
    steps = list(denoise(pipe, PROMPTS, schedule=schedule, generator=generators(SEEDS), **options))
    assert [step.eps_null is None for step in steps] == ([False, False, True, True] if w > 1 else [True] * N)
    with guide(pipe, schedule):
        assert naive.error(steps[-1].x_next, generate(pipe, **options)) < 1e-5


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_obeys_the_equations(make_pipe, kind, sampler):
    pipe, solver = make_pipe(kind, sampler), make_pipe(kind, sampler).scheduler
    solver.set_timesteps(N)
    for step in denoise(pipe, PROMPTS, generator=generators(SEEDS), **OPTIONS):
        assert naive.error(step.eps, step.eps_null + W * (step.eps_text - step.eps_null)) < 1e-4
        spaced = "karras" in sampler  # whose timesteps are rounded
        abar = 1 / (1 + solver.sigmas[step.index] ** 2) if spaced else solver.alphas_cumprod[round(step.t)]
        x_t = step.x_t * abar.sqrt() if sampler in ("euler", "euler-karras", "heun") else step.x_t
        if spaced or step.t == round(step.t):
            assert naive.error(abar.sqrt() * step.x0 + (1 - abar).sqrt() * step.eps, x_t) < 1e-4
    if sampler not in ("ddim", "deis"):  # which stop one small step short of t = 0 here
        assert naive.error(step.x_next, step.x0) < 1e-4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_fork_goes_on_where_the_run_was(make_pipe, sampler):
    pipe = make_pipe("sd-epsilon", sampler)
    steps = list(denoise(pipe, PROMPTS, generator=generators(SEEDS), **OPTIONS))
    for origin in steps:
        again = list(denoise(pipe, PROMPTS, start=origin, guidance_scale=W))
        assert [step.index for step in again] == list(range(origin.index, N))
        assert torch.equal(again[-1].x_next, steps[-1].x_next)

    other = list(denoise(pipe, "a bird", start=steps[2], num_images_per_prompt=2, guidance_scale=W))[-1].x_next
    assert naive.error(other, steps[-1].x_next) > 1e-3
    moved = dataclasses.replace(steps[2], x_t=steps[2].x_t + 1)
    assert naive.error(next(denoise(pipe, PROMPTS, start=moved, guidance_scale=W)).x_t, steps[2].x_t + 1) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_come_in_every_form(make_pipe, kind):
    pipe = make_pipe(kind)

    def last(*args, **options):
        return list(denoise(pipe, *args, **{**OPTIONS, **options}))[-1].x_next

    x = last(PROMPTS, "blue", generator=generators(SEEDS))
    assert torch.equal(last(encode(pipe, PROMPTS, ["blue", "blue"]), generator=generators(SEEDS)), x)
    assert torch.equal(last(PROMPTS, "blue", latents=naive.noise(SEEDS)), x)
    expected = naive.sample(pipe, PROMPTS, naive.noise(SEEDS), guided=lambda i: True, num_steps=N, w=W, negative="blue")
    assert naive.error(x, expected) < 1e-4

    copies = last("a cat", num_images_per_prompt=2, generator=generators(SEEDS))
    assert naive.error(copies, last(["a cat", "a cat"], generator=generators(SEEDS))) < 1e-5
    assert (encode(pipe, "a cat").text_mask is None) == (kind != "pixart")


def test_a_prompt_is_preprocessed_as_the_pipeline_s_own_call_does_it(make_pipe, tmp_path):
    assert preprocessed(make_pipe(), " A  Cat ") == " A  Cat "
    pipe = make_pipe("pixart")
    for prompt in (" A Cat ", "İstanbul, CAFE\u0301"):
        ids = ids_read(pipe, prompt, use_resolution_binning=False)
        assert pipe.tokenizer(preprocessed(pipe, prompt), padding="max_length", max_length=120).input_ids == ids
    pipe = with_inversion(reading_with(make_pipe(), bytes_of_clip(tmp_path)), "<toy>", 2)
    assert preprocessed(pipe, "a <toy>, a cat") == "a <toy> <toy>_1, a cat"
    for prompt in ("a <toy>, a cat", "<toy> and <toy>", "a toy"):
        assert pipe.tokenizer(preprocessed(pipe, prompt), padding="max_length").input_ids == ids_read(pipe, prompt)


@pytest.mark.parametrize("kind", KINDS)
def test_decode_gives_the_pipeline_s_pictures(make_pipe, kind):
    pipe = make_pipe(kind)
    *_, step = denoise(pipe, PROMPTS, generator=generators(SEEDS), **OPTIONS)
    pictures = decode(pipe, step.x_next)
    expected = generate(pipe, output_type="pil")
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    assert [picture.tobytes() for picture in pictures] == [picture.tobytes() for picture in expected]


def test_an_autoencoder_is_cast_where_it_would_overflow_alone_and_nothing_is_said(make_pipe, monkeypatch):
    said = []
    monkeypatch.setattr("diffusers.models.modeling_utils.logger.warning", lambda text, *_: said.append(text))
    pipe = make_pipe("sdxl")
    *_, step = denoise(pipe, PROMPTS[0], generator=generators([0]), num_inference_steps=1)
    (whole,) = decode(pipe, step.x_next)
    pipe.vae.half()
    (half,) = decode(pipe, step.x_next)
    assert np.abs(np.subtract(half, whole, dtype=int)).max() <= 3
    assert (pipe.vae.dtype, said) == (torch.float16, [])


def test_another_size(make_pipe):
    pipe = make_pipe()
    step = next(denoise(pipe, "a cat", generator=generators([1]), height=24, width=32, **OPTIONS))
    assert step.x_t.shape == (1, 4, 12, 16)


def test_bad_input_is_refused(make_pipe):
    pipe = make_pipe()
    with pytest.raises(ShapefirstError, match="outside of guide"), text_until(pipe, step=1):
        next(denoise(pipe, PROMPTS))
    for options, message in {
        "generator": (generators([1]), "2 images but 1 generators"),
        "latents": (naive.noise([1]), "2 images but 1 latents"),
        "schedule": (TextSchedule.until(60), "guides the first 60 steps"),
    }.items():
        value, text = message if isinstance(message, tuple) else (options, message)
        with pytest.raises(ShapefirstError, match=text):
            next(denoise(pipe, PROMPTS, **{options: value}, **OPTIONS))
    with pytest.raises(ShapefirstError, match="a TextSchedule, a Auto or None, not 'paper:2'"):
        next(denoise(pipe, PROMPTS, schedule="paper:2", **OPTIONS))
    with pytest.raises(ShapefirstError, match="2 prompts but 1 negative"):
        next(denoise(pipe, PROMPTS, ["blue"], **OPTIONS))
    assert isinstance(encode(pipe, PROMPTS), Embeddings)


def test_one_generator_per_image():
    one, two = generators([7, 7])
    assert torch.equal(torch.randn(3, generator=one), torch.randn(3, generator=two))
    assert one is not two
